"""What Nerfstudio's own tools need from the outside to work with the torch versions that we allow."""

from __future__ import annotations

import numpy as np
import torch


def allow_numpy_scalars() -> None:
    """Let `torch.load(weights_only=True)` read numpy's scalars.

    Stock learning-rate schedules put them into checkpoints, which stock ns-eval and ns-viewer then refuse since
    torch 2.6. A numpy scalar is a number: reading one runs no code of the file's.
    """
    core = getattr(np, "_core", None) or np.core
    number_types = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    torch.serialization.add_safe_globals([core.multiarray.scalar, np.dtype, *number_types])
