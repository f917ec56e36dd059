"""Files of precomputed latents, in the layout of the published data loader.

    root/latents.json                              settings (ours only; sets made by the published scripts lack it)
    root/map_dict.json                             {split: {factor: {scene: [file, mirrored file]}}}
    root/{train|test}/{factor}/{scene}.npz         latent [l, c, h, w], extrinsics [v, 4, 4], intrinsics [v, 3, 3]
    root/{train|test}/{factor}/{scene}_flipped.npz the mirrored scene

Latents are raw, as the autoencoder returns them, in float16. Every `factor`-th frame was taken. Cameras are OpenCV
camera-to-world and normalised intrinsics of the crop, one for each frame. The published scripts store cameras in
float16; we store float32, which the published loader reads as well. A file gets its name only when it is complete.
Published code: src/dataset/dataset_latent.py, src/scripts/precompute_latents.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.lib import format as npy_format
from torch import Tensor

from scenetok_ns.data.precomputed.set_settings import SetSettings
from scenetok_ns.data.scenes import BadScene
from scenetok_ns.tools.atomic_files import write_atomically
from scenetok_ns.tools.json_files import JsonError, read_json

MAP_FILE = "map_dict.json"
SPLITS = ("train", "test")
FLIPPED = "_flipped"
ARRAYS = {"latent": 4, "extrinsics": 3, "intrinsics": 3}
"""Names of the arrays and their number of axes. Files of the published scripts hold a fourth, `allow_pickle`."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class LatentSettings(SetSettings):
    """Settings of a set of latents: everything that its numbers depend on, apart from the photographs."""

    FILE, PATTERN, KIND = "latents.json", "*/*/*.npz", "latents"

    autoencoder: str
    weights_sha256: str | None
    image_size: int
    precision: str
    seed: int


def latent_path(root: Path, split: str, factor: int, scene: str, flipped: bool) -> Path:
    return root / split / str(factor) / f"{scene}{FLIPPED if flipped else ''}.npz"


def check_scene_name(scene: str) -> None:
    """Raise BadScene unless the name of a scene can be used as an unambiguous file name."""
    if not scene or scene.startswith(".") or "/" in scene or "\\" in scene or scene.endswith(FLIPPED):
        raise BadScene(f"its name cannot be a file name for latents (it must not end with {FLIPPED})", scene)


@dataclass(frozen=True, eq=False)
class LatentFile:
    """The content of one file."""

    latents: Float[Tensor, "l c h w"]
    c2w: Float[Tensor, "v 4 4"]
    intrinsics: Float[Tensor, "v 3 3"]

    def save(self, path: Path) -> None:
        """Write atomically; equal content gives equal bytes."""
        arrays = {
            "latent": self.latents.to("cpu", torch.float16).numpy(),
            "extrinsics": self.c2w.to("cpu", torch.float32).numpy(),
            "intrinsics": self.intrinsics.to("cpu", torch.float32).numpy(),
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # np.savez would write the time of day
            for name, array in arrays.items():
                member = io.BytesIO()
                npy_format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), member.getvalue())
        write_atomically(path, buffer.getvalue())


class MappedLatents:
    """A file whose arrays are memory-mapped: picking some latents of a long scene reads only those.

    Raises BadScene if the file is missing, damaged or has other arrays.
    """

    def __init__(self, path: Path, scene: str) -> None:
        try:
            arrays = _map_npz(path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BadScene(
                f"latents {path} cannot be read ({error}); delete the file and create it again", scene
            ) from error
        for name, axes in ARRAYS.items():
            if name not in arrays or arrays[name].ndim != axes or arrays[name].dtype.kind != "f":
                raise BadScene(f"latents {path.name}: expected {name} with {axes} axes of floats", scene)
        self.latents, self.extrinsics, self.intrinsics = (arrays[name] for name in ARRAYS)

    @property
    def num_latents(self) -> int:
        return len(self.latents)

    @property
    def num_frames(self) -> int:
        return len(self.extrinsics)

    def cameras(self) -> tuple[Float[Tensor, "v 4 4"], Float[Tensor, "v 3 3"]]:
        """Cameras of all frames, float32."""
        return _to_float(self.extrinsics), _to_float(self.intrinsics)

    def pick(self, indices: Tensor) -> Float[Tensor, "l c h w"]:
        """Read the latents with these indices, in their stored precision."""
        return torch.from_numpy(np.array(self.latents[indices.numpy()]))


def verify_file(path: Path) -> str | None:
    """Read and check a whole file. Returns the problem, or None if there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:
                return f"{member} has a wrong checksum"
        mapped = MappedLatents(path, path.stem)
    except (OSError, zipfile.BadZipFile) as error:
        return str(error)
    except BadScene as error:
        return error.reason
    if not all(np.isfinite(array).all() for array in (mapped.latents, mapped.extrinsics, mapped.intrinsics)):
        return "holds numbers that are not finite"
    if mapped.intrinsics.shape != (mapped.num_frames, 3, 3) or mapped.extrinsics.shape[1:] != (4, 4):
        return f"cameras have shapes {mapped.extrinsics.shape} and {mapped.intrinsics.shape}"
    return None


def write_map(root: Path) -> dict[str, Any]:
    """Write the map file for the existing scenes, and return its content.

    Like the published script, it names the mirrored file of every scene, whether it exists or not. Several processes
    may finish at the same time, so each one repeats this until the file on disk has the content that it wrote.
    """
    while True:
        content = make_map(root)
        write_atomically(root / MAP_FILE, json.dumps(content, sort_keys=True).encode())
        if content == make_map(root) == read_map(root):
            return content


def make_map(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for split in SPLITS:
        content[split] = {
            folder.name: {name: [f"{name}.npz", f"{name}{FLIPPED}.npz"] for name in scene_names(folder)}
            for folder in sorted((root / split).glob("*"))
            if folder.is_dir()
        }
    return content


def read_map(root: Path) -> dict[str, Any] | None:
    """Read the map file; None if it is missing or cannot be read."""
    try:
        return read_json(root / MAP_FILE)
    except JsonError:
        return None


def scene_names(folder: Path) -> list[str]:
    """Names of the scenes with latents in the folder of a split and factor, sorted."""
    names = (path.stem for path in folder.glob("*.npz") if not path.name.startswith("."))
    return sorted(name for name in names if not name.endswith(FLIPPED))


def _map_npz(path: Path) -> dict[str, np.ndarray]:
    """Map the arrays of an uncompressed .npz read-only; read compressed ones. Never unpickles."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in ARRAYS:
            info = archive.getinfo(f"{name}.npy")
            with archive.open(info) as member:
                version = npy_format.read_magic(member)
                read_header = (
                    npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
                )
                shape, fortran, dtype = read_header(member)
                header = member.tell()
                if dtype.hasobject or fortran:
                    raise ValueError(f"{name} is not a plain array of numbers")
                if info.compress_type != zipfile.ZIP_STORED or 0 in shape:
                    member.seek(0)
                    arrays[name] = npy_format.read_array(member, allow_pickle=False)
                    continue
            start = _data_offset(path, info) + header
            if start + dtype.itemsize * int(np.prod(shape)) > path.stat().st_size:
                raise ValueError("file is cut short")
            arrays[name] = np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape)
    return arrays


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Offset of a member's bytes: behind its local header, whose name and extra field have lengths of their own."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        lengths = file.read(4)
    return info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")


def _to_float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))
