"""Configuration of scenetok-splat runs, which begin with a check of the GPU."""

from __future__ import annotations

from dataclasses import dataclass

from nerfstudio.engine.trainer import TrainerConfig

from scenetok_ns.splats import rasterizer


@dataclass
class SplatTrainerConfig(TrainerConfig):
    """Nerfstudio's configuration of a run that needs gsplat."""

    def set_timestamp(self) -> None:
        """Set the timestamp of a new run, as ns-train does before it writes anything.

        Raises ImportError, in one line, unless gsplat works on this machine.
        """
        rasterizer.require_gsplat()
        super().set_timestamp()
