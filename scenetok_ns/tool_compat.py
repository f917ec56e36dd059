"""What Nerfstudio's own tools need from the outside to work with the torch versions that we allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def allow_numpy_scalars() -> None:
    """Let `torch.load(weights_only=True)` read numpy's scalars.

    Stock learning-rate schedules put them into checkpoints, which stock ns-eval and ns-viewer then refuse since
    torch 2.6. A numpy scalar is a number: reading one runs no code of the file's.
    """
    make_scalar: Any = np.float64(0).__reduce__()[0]  # lives in another module in each major version of numpy
    number_types = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    torch.serialization.add_safe_globals([make_scalar, np.dtype, *number_types])
