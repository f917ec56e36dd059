"""3D Gaussians, and their PLY files in the format of 3D Gaussian splatting, which SuperSplat and others read."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.tools.atomic_files import write_atomically

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic: a colour c is stored as (c - 0.5) / SH_C0."""
HEADER_LIMIT = 65536
"""Maximum size of a PLY header in bytes."""


@dataclass(frozen=True)
class Gaussians:
    """3D Gaussians, with the parameters that are optimised and stored, in the world of the cameras that they fit."""

    means: Float[Tensor, "n 3"]
    scales: Float[Tensor, "n 3"]
    """Logarithms of the standard deviations along the Gaussian's axes."""
    quats: Float[Tensor, "n 4"]
    """Rotation of the axes as a quaternion w x y z, which need not have unit length."""
    opacities: Float[Tensor, " n"]
    """Logits of the opacities."""
    sh0: Float[Tensor, "n 1 3"]
    """Constant spherical harmonic of the colour, which is `SH_C0` * `sh0` + 0.5."""
    sh_rest: Float[Tensor, "n k 3"]
    """Spherical harmonics of degree 1 and up: k is 0, 3, 8 or 15."""

    def __post_init__(self) -> None:
        n, k = len(self.means), self.sh_rest.shape[1]
        shapes = {"means": (n, 3), "scales": (n, 3), "quats": (n, 4), "opacities": (n,), "sh0": (n, 1, 3)}
        wrong = [name for name, shape in shapes.items() if tuple(getattr(self, name).shape) != shape]
        if wrong or self.sh_rest.shape != (n, k, 3) or k not in (0, 3, 8, 15):
            found = {entry.name: list(getattr(self, entry.name).shape) for entry in fields(self)}
            raise ValueError(f"Gaussians: shapes that do not belong together, {found}")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        return {0: 0, 3: 1, 8: 2, 15: 3}[self.sh_rest.shape[1]]

    @cached_property
    def extent(self) -> float:
        """Median distance of the Gaussians from their middle, in world units: a scene size that ignores outliers."""
        middle = self.means.median(dim=0).values
        return float((self.means - middle).norm(dim=1).median()) if len(self) else 0.0

    def scaled(self, factor: float) -> Gaussians:
        """Return the same scene in other units: all lengths are multiplied by `factor`."""
        return replace(self, means=self.means * factor, scales=self.scales + math.log(factor))

    def tensors(self) -> dict[str, Tensor]:
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def to(self, device: torch.device | str) -> Gaussians:
        return Gaussians(**{name: value.to(device) for name, value in self.tensors().items()})

    def select(self, chosen: Tensor) -> Gaussians:
        """Select Gaussians by a mask or indices."""
        return Gaussians(**{name: value[chosen] for name, value in self.tensors().items()})

    def visible(self) -> Gaussians:
        """Return the Gaussians that renderers draw: those whose opacity is above 1/255."""
        return self.select(self.opacities.sigmoid() > 1 / 255)

    def detach(self) -> Gaussians:
        return Gaussians(**{name: value.detach() for name, value in self.tensors().items()})


def save_splat(gaussians: Gaussians, path: Path) -> None:
    """Write a binary PLY with the properties of 3D Gaussian splatting (Kerbl et al. 2023). It is complete or absent.

    Gaussians that are not finite are left out, because viewers cannot handle them.
    """
    columns = torch.cat(
        [
            gaussians.means,
            torch.zeros_like(gaussians.means),
            gaussians.sh0.flatten(1),
            gaussians.sh_rest.transpose(1, 2).flatten(1),  # all of red, then green, then blue
            gaussians.opacities[:, None],
            gaussians.scales,
            torch.nn.functional.normalize(gaussians.quats, dim=1),
        ],
        dim=1,
    )
    rows = columns.detach().float().cpu()
    rows = rows[rows.isfinite().all(dim=1)]
    names = property_names(gaussians.sh_rest.shape[1])
    write_atomically(path, ply_header(len(rows), dict.fromkeys(names, "float")) + rows.numpy().astype("<f4").tobytes())


def load_splat(path: Path) -> Gaussians:
    """Read a PLY of 3D Gaussian splatting, written by `save_splat`, Nerfstudio (with harmonics) or the original code.

    Returns:
        Gaussians in float32 on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a PLY of 3D Gaussians; one line.
    """
    columns = read_vertices(path)
    count = sum(name.startswith("f_rest_") for name in columns)
    try:
        rows = {name: torch.from_numpy(columns[name].astype(np.float32)) for name in property_names(count // 3)}
        return Gaussians(
            means=stack(rows, "x", "y", "z"),
            scales=stack(rows, *(f"scale_{i}" for i in range(3))),
            quats=stack(rows, *(f"rot_{i}" for i in range(4))),
            opacities=rows["opacity"],
            sh0=stack(rows, *(f"f_dc_{i}" for i in range(3)))[:, None],
            sh_rest=stack(rows, *(f"f_rest_{i}" for i in range(count))).reshape(len(rows["x"]), 3, count // 3).mT,
        )
    except KeyError as error:
        raise ValueError(f"{path} is a PLY, but not of 3D Gaussians: it has no property {error}") from None
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from None


def write_points(path: Path, points: Float[Tensor, "n 3"], colours: Float[Tensor, "n 3"]) -> None:
    """Write a binary PLY of points with colours (in [0, 1]), from which Nerfstudio can initialise splatfacto."""
    kinds = {**dict.fromkeys("xyz", "float"), **dict.fromkeys(("red", "green", "blue"), "uchar")}
    rows = np.empty(len(points), dtype=[(name, _TYPES[kind]) for name, kind in kinds.items()])
    levels = (colours.clamp(0, 1) * 255).round()
    for values, names in ((points, ("x", "y", "z")), (levels, ("red", "green", "blue"))):
        for i, name in enumerate(names):
            rows[name] = values[:, i].detach().cpu().numpy()
    write_atomically(path, ply_header(len(rows), kinds) + rows.tobytes())


def property_names(num_rest: int) -> list[str]:
    """Properties of a PLY with `num_rest` harmonics beyond the constant one, in the order of the original code."""
    harmonics = [f"f_dc_{i}" for i in range(3)] + [f"f_rest_{i}" for i in range(3 * num_rest)]
    shape = [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    return ["x", "y", "z", "nx", "ny", "nz", *harmonics, "opacity", *shape]


def ply_header(count: int, properties: dict[str, str]) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property {kind} {name}" for name, kind in properties.items()]
    return ("\n".join([*lines, "end_header"]) + "\n").encode()


def read_vertices(path: Path) -> dict[str, np.ndarray]:
    """Read the vertices of a binary little-endian PLY as columns. Raises FileNotFoundError or ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"no splat at {path}; create one with `scenetok export-splat`")
    data = path.read_bytes()
    header, end, _ = data[:HEADER_LIMIT].partition(b"end_header\n")
    lines = header.decode("ascii", "replace").split("\n")
    if lines[0].strip() != "ply" or not end:
        raise ValueError(f"{path} is not a PLY file")
    words = [line.split() for line in lines[1:] if line.split() and line.split()[0] not in ("comment", "obj_info")]
    elements = [word for word in words if word[0] == "element"]
    properties = [word[1:] for word in words if word[0] == "property"]
    known = all(len(word) == 2 and word[0] in _TYPES for word in properties)
    if words[0][1:2] != ["binary_little_endian"] or len(elements) != 1 or elements[0][1] != "vertex" or not known:
        raise ValueError(f"{path}: expected a binary little-endian PLY with vertices of plain numbers alone")
    kind = np.dtype([(name, _TYPES[word]) for word, name in properties])
    count, offset = int(elements[0][2]), len(header) + len(end)
    if len(data) < offset + count * kind.itemsize:
        raise ValueError(f"{path} is cut short: {len(data) - offset:,} bytes for {count:,} vertices of {kind.itemsize}")
    rows = np.frombuffer(data, kind, count, offset)
    return {name: rows[name] for _, name in properties}


def stack(columns: dict[str, Tensor], *names: str) -> Tensor:
    return torch.stack([columns[name] for name in names], dim=1) if names else torch.empty(len(columns["x"]), 0)


_TYPES = {
    "float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8", "uchar": "u1", "uint8": "u1", "char": "i1",
    "int8": "i1", "short": "<i2", "int16": "<i2", "ushort": "<u2", "uint16": "<u2", "int": "<i4", "int32": "<i4",
    "uint": "<u4", "uint32": "<u4",
}  # fmt: skip
"""Number type in a PLY header -> NumPy's name."""
