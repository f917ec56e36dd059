"""The one place where Nerfstudio's cameras become ours and back.

Nerfstudio: OpenGL axes (x right, y up, looking along -z), camera-to-world 3 x 4, focal length and centre in pixels.
SceneTok: OpenCV axes (x right, y down, looking along +z), camera-to-world 4 x 4, intrinsics divided by the image size.
The world is the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch

Wide = Literal["border", "fill"]
"""What a request that is no square shows: the square view and its border, or a part of a larger square."""
BEYOND, FRAME = (0.11, 0.11, 0.13), (0.45, 0.45, 0.5)
"""Colours beside the square and of the line around it."""
LINES_PER_SIDE = 256

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


def nerfstudio_to_camera_batch(cameras: Cameras) -> CameraBatch:
    """N perspective cameras -> a batch of one element with N views, float32, on the cameras' device.

    Lens distortion is ignored, as all of SceneTok ignores it. Raises ValueError for other camera types.
    """
    require_perspective(cameras)
    cameras = cameras.reshape((-1,))
    c2w_gl = cameras.camera_to_worlds.float()
    bottom = c2w_gl.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(c2w_gl), 1, 4)
    width, height = cameras.width.float(), cameras.height.float()
    zero, one = torch.zeros_like(width), torch.ones_like(width)
    rows = [
        torch.cat([cameras.fx.float() / width, zero, cameras.cx.float() / width], dim=-1),
        torch.cat([zero, cameras.fy.float() / height, cameras.cy.float() / height], dim=-1),
        torch.cat([zero, zero, one], dim=-1),
    ]
    c2w = flip_axes(torch.cat([c2w_gl, bottom], dim=1))
    return CameraBatch(c2w=c2w[None], intrinsics=torch.stack(rows, dim=1)[None])


def camera_batch_to_nerfstudio(
    batch: CameraBatch, height: int, width: int, metadata: dict[str, Any] | None = None
) -> Cameras:
    """A batch of one element with N views -> N perspective cameras of `height` x `width` pixels."""
    if batch.c2w.shape[0] != 1:
        raise ValueError(f"camera_batch_to_nerfstudio: expected a batch of one element, got {batch.c2w.shape[0]}")
    intrinsics = batch.intrinsics[0]
    return Cameras(
        camera_to_worlds=flip_axes(batch.c2w[0])[:, :3],
        fx=(intrinsics[:, 0, 0] * width)[:, None],
        fy=(intrinsics[:, 1, 1] * height)[:, None],
        cx=(intrinsics[:, 0, 2] * width)[:, None],
        cy=(intrinsics[:, 1, 2] * height)[:, None],
        width=width,
        height=height,
        camera_type=CameraType.PERSPECTIVE,
        metadata=metadata,
    )


def flip_axes(c2w: Float[Tensor, "*n 4 4"]) -> Float[Tensor, "*n 4 4"]:
    """OpenGL <-> OpenCV camera axes: y and z change sign; its own inverse."""
    return c2w * c2w.new_tensor([1.0, -1.0, -1.0, 1.0])


def require_perspective(cameras: Cameras) -> None:
    """Raise ValueError unless every camera is a pinhole."""
    kinds = set(cameras.camera_type.flatten().tolist()) - {CameraType.PERSPECTIVE.value}
    if kinds:
        names = ", ".join(sorted(CameraType(kind).name.lower() for kind in kinds))
        raise ValueError(
            f"SceneTok renders perspective cameras only, got {names}; choose the perspective camera type for this path"
        )


@dataclass(frozen=True)
class Request:
    """A picture of `height` x `width` pixels, and the square that the model makes for it.

    The networks see square pictures. Square and request have one centre (to the pixel: `top` and `left` are whole) and
    the same pixels, so nothing is stretched at any aspect ratio. `border`: the square has the short side of the
    request; it is shown whole, and what lies beside it is drawn as its border. `fill`: the square has the long side,
    and the request is cut out of it.
    """

    height: int
    width: int
    wide: Wide = "border"

    @property
    def side(self) -> int:
        return (min if self.wide == "border" else max)(self.height, self.width)

    @property
    def top(self) -> int:
        """Row of the square at which the request begins; negative where the request is taller."""
        return square_offset(self.side, self.height)

    @property
    def left(self) -> int:
        """Column of the square at which the request begins; negative where the request is wider."""
        return square_offset(self.side, self.width)

    def fit(
        self,
        square: Float[Tensor, "n c side side"],
        made_for: Float[Tensor, "3 3"] | None = None,
        wanted: Float[Tensor, "3 3"] | None = None,
    ) -> Float[Tensor, "n c height width"]:
        """Pictures of the square at any resolution -> pictures of the request; its edge is repeated where it ends.

        Where the square was `made_for` intrinsics that are nearly, not quite, those `wanted` (both normalised, of the
        square), it is scaled and moved to fit, to whole pixels of the request.
        """
        if square.shape[-2] != square.shape[-1]:
            raise ValueError(f"Request.fit: expected square pictures, got {tuple(square.shape[-2:])}")
        scaled, top, left = self.side, self.top, self.left
        if made_for is not None and wanted is not None and not torch.equal(made_for, wanted):
            zoom = float(wanted[1, 1] / made_for[1, 1])
            scaled = max(1, round(self.side * zoom))
            left += round(float(made_for[0, 2]) * scaled - float(wanted[0, 2]) * self.side)
            top += round(float(made_for[1, 2]) * scaled - float(wanted[1, 2]) * self.side)
        if square.shape[-1] != scaled:
            size = (scaled, scaled)
            square = F.interpolate(square.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
        rows = torch.arange(top, top + self.height, device=square.device).clamp(0, scaled - 1)
        columns = torch.arange(left, left + self.width, device=square.device).clamp(0, scaled - 1)
        return square[..., rows[:, None], columns]

    def inside(self, device: torch.device | str = "cpu", margin: int = 0) -> Bool[Tensor, "height width"]:
        """Pixels of the request that the square covers, or are at most `margin` pixels beside it."""
        rows = torch.arange(self.top, self.top + self.height, device=device)
        columns = torch.arange(self.left, self.left + self.width, device=device)
        near = [(-margin <= place) & (place < self.side + margin) for place in (rows, columns)]
        return near[0][:, None] & near[1]

    def with_border(self, picture: Float[Tensor, "height width 3"]) -> Float[Tensor, "height width 3"]:
        """The picture with a frame around the square, and plain beyond."""
        if self.height == self.width or self.wide == "fill":
            return picture
        line = max(1, self.side // LINES_PER_SIDE)
        around = picture.new_tensor(BEYOND).expand_as(picture)
        framed = torch.where(self.inside(picture.device, line)[..., None], picture.new_tensor(FRAME), around)
        return torch.where(self.inside(picture.device)[..., None], picture, framed)


def square_offset(side: Any, length: Any) -> Any:
    """Where a request of `length` pixels begins on a square of `side` pixels with the same centre: whole pixels, of
    numbers or tensors."""
    return (side - length) // 2


def request_of(camera: Cameras, wide: Wide = "border") -> Request:
    """Picture size of a one-camera slice. One host sync."""
    return Request(height=int(camera.height.flatten()[0]), width=int(camera.width.flatten()[0]), wide=wide)


def square_cameras(cameras: Cameras, wide: Wide = "border") -> Cameras:
    """Change each camera's picture to its square (`Request`): same rays, principal point moved along.

    A principal point off the centre of the request stays off the centre of the square.
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
    """The whole trajectory that a one-camera slice was cut from, and the slice's place in it.

    Nerfstudio's tools ask for one camera at a time (`cameras[i : i + 1]`), but frames of a path must be denoised
    together. A basic slice shares its parent's storage and strides, which tell where it lies in the parent. Every
    field is recovered on its own, and all must agree; where they don't (copied, indexed or converted cameras) the
    answer is the camera alone. The result is a copy.
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
    """(index, number of rows) of a slice of one row; None: the field is broadcast and says nothing."""
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
    """Whether memory read as camera poses holds camera poses: finite, with orthonormal rotations."""
    rotation = c2w[:, :, :3].double()
    gram = rotation.transpose(1, 2) @ rotation
    eye = torch.eye(3, dtype=gram.dtype, device=gram.device)
    return bool(torch.isfinite(c2w).all() and (gram - eye).abs().amax() < 1e-2)
