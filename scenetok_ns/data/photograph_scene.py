"""A lone photograph and a path as a source of one scene: what a scene generator is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from scenetok_ns.data.photographs import Photograph, read_photograph
from scenetok_ns.data.scenes import DataError, Scene, SkippedScenes, Views
from scenetok_ns.data.view_sampling import ViewIndices

FARTHEST_REACH = 30.0
"""Units of the training data; its rooms are a few wide. Paths that lead farther are most likely in other units."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """What a scene is generated from."""

    views: Views
    """One to a few photographs; the first one's camera is the reference."""
    anchors: Float[Tensor, "a 4 4"]
    """Poses at which the scene is meant to be seen; camera-to-world, OpenCV axes."""
    pose_scale: float = 1.0
    """Units of the poses -> units of the training data."""


class PhotographSource:
    """One scene of one frame, the photograph, at the first pose of `path`.

    Raises DataError for a file that is no image.
    """

    def __init__(
        self, file: Path, path: Float[Tensor, "k 4 4"], *, fov: float | None = None, pose_scale: float = 1.0
    ) -> None:
        """`path`: camera-to-world, OpenCV axes. `fov`: along the shorter side in degrees; None: from EXIF, else
        assumed. `pose_scale`: see `Conditions`."""
        if not 0 < pose_scale < float("inf"):
            raise DataError(f"expected a pose scale above 0, got {pose_scale:g}")
        self.skipped = SkippedScenes()
        self.key = file.stem
        self.path, self.pose_scale = path, pose_scale
        self.photograph: Photograph = read_photograph(file)
        self.fov, source = self.photograph.field_of_view(fov)
        self.focal_note = f"field of view {self.fov:.1f} degrees along the shorter side ({source})"

    @property
    def keys(self) -> Sequence[str]:
        return [self.key]

    def scene(self, key: str) -> Scene:
        if key != self.key:
            raise DataError(f"there is one scene, {self.key!r}, not {key!r}")
        return Scene(
            key=key,
            c2w=self.path[:1],
            intrinsics=self.photograph.intrinsics(self.fov)[None],
            frame_names=("photograph",),
            read_frame=self._read,
        )

    def views(self, num_context: int) -> ViewIndices:
        """The photograph, whatever number is asked for; it is also what a render from its place is compared with."""
        return ViewIndices(context=torch.zeros(1, dtype=torch.int64), target=torch.zeros(1, dtype=torch.int64))

    def path_note(self) -> str:
        """How large the path is in the units that the model knows: a path has no scale of its own."""
        advice = "another --pose-scale makes the scene larger or smaller"
        if self.reach > FARTHEST_REACH:
            advice = "scenes in training reach a few units: make --pose-scale smaller"
        size = f"up to {self.reach:.2g} units of the training data away"
        return f"the path of {len(self.path)} cameras leads {size}; {advice}"

    @property
    def reach(self) -> float:
        """Distance of the farthest camera of the path from the first, in units of the training data."""
        positions = self.path[:, :3, 3]
        return float((positions - positions[:1]).norm(dim=1).max()) * self.pose_scale

    def check_size(self, side: int) -> None:
        """Raise DataError unless the photograph holds a square of `side` pixels."""
        height, width = self.photograph.image.shape[1:]
        if min(height, width) < side:
            raise DataError(
                f"the photograph {self.key} has {width} x {height} pixels, but this model sees {side} x {side}: give "
                f"one whose shorter side has at least {side}"
            )

    def _read(self, index: int) -> UInt8[Tensor, "3 h w"]:
        return self.photograph.image
