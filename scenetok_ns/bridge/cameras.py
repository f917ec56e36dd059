"""Read what the cameras of Nerfstudio's tools ask for: a picture's size, its square, and the path that it is part of.

Cameras stay Nerfstudio's here; `dataparsers.camera_conversion` converts them to ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from scenetok_ns.data.square_pictures import Aspect, PictureRequest, square_offset

TENSOR_FIELDS = (
    "camera_to_worlds",
    "fx",
    "fy",
    "cx",
    "cy",
    "width",
    "height",
    "camera_type",
    "times",
    "distortion_params",
)


def request_of(camera: Cameras, wide: Aspect = "border") -> PictureRequest:
    """Read the picture size of a one-camera slice. On a GPU this waits for the device."""
    return PictureRequest(height=int(camera.height.flatten()[0]), width=int(camera.width.flatten()[0]), wide=wide)


def square_cameras(cameras: Cameras, wide: Aspect = "border") -> Cameras:
    """Change each camera's picture to its square (`PictureRequest`). Rays stay the same; the principal point moves.

    A principal point that is not in the centre of the request is not in the centre of the square either.
    """
    side = (torch.minimum if wide == "border" else torch.maximum)(cameras.height, cameras.width)
    return Cameras(
        camera_to_worlds=cameras.camera_to_worlds,
        fx=cameras.fx,
        fy=cameras.fy,
        cx=cameras.cx + square_offset(side, cameras.width),
        cy=cameras.cy + square_offset(side, cameras.height),
        width=side,
        height=side,
        camera_type=cameras.camera_type,
        times=cameras.times,
        metadata=cameras.metadata,
    )


def recover_path(camera: Cameras) -> tuple[Cameras, int]:
    """Recover the whole trajectory from which a one-camera slice was cut.

    Nerfstudio's tools ask for one camera at a time (`cameras[i : i + 1]`), but frames of a path must be denoised
    together. A basic slice shares its parent's storage and strides, which reveal its place in the parent. Every field
    is recovered separately, and all must agree. Where they don't (copied, indexed or converted cameras), the result is
    the camera itself.

    Returns:
        A copy of the trajectory, and the index of the slice in it.
    """
    alone = camera, 0
    if camera.shape != (1,):
        return alone
    fields = {name: getattr(camera, name) for name in TENSOR_FIELDS}
    metadata = camera.metadata or {}
    fields |= {f"metadata.{name}": value for name, value in metadata.items() if isinstance(value, Tensor)}
    places = {name: _place_in_parent(value) for name, value in fields.items() if value is not None}
    found = {place for place in places.values() if place is not None}
    if len(found) != 1:
        return alone
    index, count = found.pop()
    rows = {name: _parent_rows(fields[name], count, places[name] is None) for name in places}
    if not _are_poses(rows["camera_to_worlds"]):
        return alone
    kept = {name: rows.get(f"metadata.{name}", value) for name, value in metadata.items()}
    path = Cameras(
        **{name: rows[name] for name in TENSOR_FIELDS if name in rows}, metadata=kept if camera.metadata else None
    )
    return path, index


def _place_in_parent(row: Tensor) -> tuple[int, int] | None:
    """(index, number of rows) of a one-row slice in its parent; None: the field is broadcast and does not tell."""
    stride = row.stride(0)
    if stride == 0:
        return None
    available = row.untyped_storage().nbytes() // row.element_size()
    index, first = divmod(int(row.storage_offset()), stride)
    return index, (available - first - _span(row) - 1) // stride + 1


def _parent_rows(row: Tensor, count: int, broadcast: bool) -> Tensor:
    if broadcast:
        return row.expand(count, *row.shape[1:]).clone()
    first = row.storage_offset() % row.stride(0)
    return torch.as_strided(row, (count, *row.shape[1:]), row.stride(), first).clone()


def _span(row: Tensor) -> int:
    """Distance in elements between the first and the last element of a row."""
    sizes_and_strides = zip(row.shape[1:], row.stride()[1:], strict=True)
    return sum((size - 1) * stride for size, stride in sizes_and_strides)


def _are_poses(c2w: Float[Tensor, "n 3 4"]) -> bool:
    """Whether recovered poses are valid: finite, with orthonormal rotations."""
    rotation = c2w[:, :, :3].double()
    gram = rotation.transpose(1, 2) @ rotation
    eye = torch.eye(3, dtype=gram.dtype, device=gram.device)
    return bool(torch.isfinite(c2w).all() and (gram - eye).abs().amax() < 1e-2)
