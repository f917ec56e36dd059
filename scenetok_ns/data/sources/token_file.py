"""A token file as a source of one scene without photographs."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from scenetok_ns.data.scenes import DataError, OneScene, Scene, ViewIndices
from scenetok_ns.models.presets import Preset, shares_tokens
from scenetok_ns.models.tokens import SceneTokens

FOCAL = 0.9
"""Focal length, divided by the image size, if the file holds no cameras: a field of view of about 58 degrees."""
GREY = 128
PICTURE_SIZE = 256


class TokenSource(OneScene):
    """One scene: its tokens, and the cameras of its photographs with grey pictures instead of the photographs.

    If the file holds no cameras, there is a single one at the reference pose. Raises DataError if the file is missing
    or damaged.
    """

    tokens: SceneTokens

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.tokens = SceneTokens.load(path)
        except (OSError, ValueError) as error:
            raise DataError(str(error)) from error
        super().__init__(self.tokens.scene or path.stem)

    def check_preset(self, preset: Preset) -> None:
        """Raise DataError unless models of a preset can render the tokens."""
        expected, (count, dim) = preset.compressor, self.tokens.mean.shape
        # Fewer tokens are accepted: the first tokens of a scene are the scene with less detail.
        if dim != expected.token_dim or count > expected.num_tokens:
            raise DataError(
                f"{self.path}: {count} tokens of {dim} numbers, made by preset {self.tokens.preset}, but this run's "
                f"model takes up to {expected.num_tokens} of {expected.token_dim}"
            )
        if not shares_tokens(preset, self.tokens.preset):
            raise DataError(
                f"{self.path} was made by preset {self.tokens.preset}, whose tokens cannot be used with this run's "
                f"preset {preset.name}: encode the scene with this run, or give --run a run of that preset"
            )
        if (self.tokens.subset_of or count) != expected.num_tokens:
            raise DataError(
                f"{self.path}: {count} tokens of {self.tokens.subset_of or count}, but this run's model makes "
                f"{expected.num_tokens}; they come from other weights, perhaps of an earlier version: encode again"
            )

    def read(self) -> Scene:
        c2w, intrinsics = self.tokens.cameras_c2w, self.tokens.cameras_intrinsics
        if c2w is None or intrinsics is None:
            c2w = self.tokens.reference_c2w[None]
            intrinsics = torch.tensor([[[FOCAL, 0.0, 0.5], [0.0, FOCAL, 0.5], [0.0, 0.0, 1.0]]])
        names = ("reference",) if len(c2w) == 1 else tuple(f"camera_{index:03d}" for index in range(len(c2w)))
        return Scene(key=self.key, c2w=c2w, intrinsics=intrinsics, frame_names=names, read_frame=_grey)

    def fixed_views(self, count: int, *, fewer: bool = False) -> ViewIndices:
        """Return all cameras, for any `count`, because nothing is encoded and nothing is compared."""
        indices = torch.arange(self.read().num_frames)
        return ViewIndices(context=indices, target=indices)


def _grey(index: int) -> UInt8[Tensor, "3 h w"]:
    return torch.full((3, PICTURE_SIZE, PICTURE_SIZE), GREY, dtype=torch.uint8)
