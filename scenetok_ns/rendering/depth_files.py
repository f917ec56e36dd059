"""Write depth maps as files: 16-bit pictures in a stated unit, and pictures in colours."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int32
from PIL import Image
from torch import Tensor

from scenetok_ns.rendering.picture_files import encode_picture
from scenetok_ns.rendering.shot_files import PATH_SUFFIX
from scenetok_ns.tools.atomic_files import atomic_update
from scenetok_ns.tools.json_files import read_json

DEPTH_SUFFIX, COLOURS, DESCRIPTION = "-depth", "colours", "depth.json"
MAP = re.compile(r"\d{5,}\.png")
LEVELS = 65535
"""Largest value of a 16-bit picture; 0 stands for an unknown depth."""


def depth_unit(scene_unit: float) -> float:
    """Depth of one level: a power of ten, about a thousandth of the scene's size (a millimetre in a room)."""
    return 10.0 ** math.floor(math.log10(scene_unit / 1000) + 0.5)


def depth_levels(depth: Float[Tensor, "h w"], unit: float) -> Int32[Tensor, "h w"]:
    """Convert depth to levels of `unit` from 1 to 65535; 0 where it is not above 0."""
    levels = (depth / unit).round().clamp(1, LEVELS)
    return torch.where(depth > 0, levels, 0.0).to(torch.int32)


def encode_depth(depth: Float[Tensor, "h w"], unit: float) -> bytes:
    """Encode depth as a 16-bit PNG."""
    data = BytesIO()
    Image.fromarray(depth_levels(depth, unit).cpu().numpy().astype(np.uint16)).save(data, "PNG")
    return data.getvalue()


def depth_colours(depth: Float[Tensor, "h w"], near: float, far: float) -> Float[Tensor, "3 h w"]:
    """Colour depth from blue at `near` to red at `far`, evenly in inverse depth; black where it is unknown.

    The direction is that of Nerfstudio's tools and of the viewer.
    """
    from nerfstudio.utils.colormaps import apply_float_colormap  # imports Nerfstudio, which other renders don't need

    inverse = (1 / depth.clamp(min=1e-9) - 1 / far) / (1 / near - 1 / far)
    colours = apply_float_colormap(1 - inverse.clamp(0, 1)[..., None].cpu(), "turbo").permute(2, 0, 1)
    return colours * (depth > 0).cpu()


class DepthFiles:
    """Writes the folder `<name>-depth`: 00000.png and so on, their coloured versions in `colours`, and `depth.json`."""

    def __init__(self, folder: Path, unit: float) -> None:
        self.folder, self.unit = folder, unit
        self._range: tuple[float, float] | None = None

    def add(self, first: int, depth: Float[Tensor, "f 1 h w"]) -> None:
        """Write the maps of consecutive frames, the first of which has the number `first`. 0: unknown depth."""
        if self._range is None:  # taken from the first frames, so that colours mean the same in all frames
            known = depth[depth > 0].float()[:: max(1, depth.numel() // 1_000_000)]
            near, far = known.quantile(torch.tensor([0.01, 0.99], device=known.device)).tolist()
            self._range = 0.8 * near, 1.25 * far
        for number, one in enumerate(depth[:, 0], start=first):
            (self.folder / f"{number:05d}.png").write_bytes(encode_depth(one, self.unit))
            colours = encode_picture(depth_colours(one, *self._range), "PNG")
            (self.folder / COLOURS / f"{number:05d}.png").write_bytes(colours)


@contextmanager
def depth_files(output: Path, name: str, unit: float) -> Iterator[DepthFiles]:
    """Open the depth files of a shot in `output`. Once complete, they replace those of an earlier render.

    Raises FileExistsError if the folder exists and holds anything else.
    """
    check_depth_folder(output, name)
    folder = name + DEPTH_SUFFIX
    with atomic_update(output, "depth", lambda made: ([folder], [])) as made:
        (made / folder / COLOURS).mkdir(parents=True)
        description = {
            "unit": unit,
            "meaning": "pixel value x unit = depth along the optical axis, in the units of the camera positions in "
            f"{name}{PATH_SUFFIX}; 0 = not known",
        }
        (made / folder / DESCRIPTION).write_text(json.dumps(description, indent=1))
        yield DepthFiles(made / folder, unit)


def check_depth_folder(output: Path, name: str) -> None:
    """Raise FileExistsError if the folder for a shot's depth exists, but was not created by `depth_files`."""
    folder = output / (name + DEPTH_SUFFIX)
    if not folder.exists():
        return
    others = [path.name for path in folder.iterdir() if not MAP.fullmatch(path.name)] if folder.is_dir() else ["a file"]
    own = set(others) <= {COLOURS, DESCRIPTION} and isinstance(read_json(folder / DESCRIPTION), dict)
    if not own:
        raise FileExistsError(f"--output: {folder} was not written by `scenetok render`; choose another folder")
