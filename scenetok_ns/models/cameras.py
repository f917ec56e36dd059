"""Cameras as the networks see them: a value type and ray maps.

Convention: OpenCV axes (x right, y down, z forward), camera-to-world, intrinsics for an image of unit size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EPSILON = 1e-6
"""Added to the norm of ray directions, as in training (parity README, c01)."""
COSINE_LIMIT = 1.0 - 1e-6
"""Limit of the cosine of a rotation angle, which keeps the arc cosine away from its steep ends (published code)."""
RIGID_TOLERANCE = 1e-2
"""Maximum deviation of R^T R from the identity: path files hold interpolated poses with few digits."""


@dataclass(frozen=True, repr=False)
class CameraBatch:
    """Cameras of `b` batch elements with `views` views each, as tensors or as NumPy arrays, which become float32.

    >>> cameras = CameraBatch(c2w[None], intrinsics[None])  # one scene: c2w [v, 4, 4], intrinsics [v, 3, 3]
    """

    c2w: Float[Tensor, "b views 4 4"]
    """Camera-to-world, OpenCV axes."""
    intrinsics: Float[Tensor, "b views 3 3"]
    """Focal lengths and principal point divided by image width (first row) and height (second row)."""

    def __post_init__(self) -> None:
        for name in ("c2w", "intrinsics"):
            if isinstance(getattr(self, name), np.ndarray):
                object.__setattr__(self, name, torch.from_numpy(getattr(self, name)).float())
        c2w, intrinsics = self.c2w.shape, self.intrinsics.shape
        if len(c2w) != 4 or c2w[-2:] != (4, 4) or intrinsics[-2:] != (3, 3) or c2w[:2] != intrinsics[:-2]:
            lone = c2w[1:] == (4, 4) and intrinsics[1:] == (3, 3)
            advice = "; for one scene, add a batch axis: c2w[None], intrinsics[None]" if lone else ""
            raise ValueError(
                f"CameraBatch: expected c2w [b, views, 4, 4] and intrinsics [b, views, 3, 3], "
                f"got {list(c2w)} and {list(intrinsics)}{advice}"
            )

    def __repr__(self) -> str:
        return f"CameraBatch({list(self.c2w.shape[:2])} cameras, device='{self.c2w.device}')"

    @staticmethod
    def from_opengl(c2w: Float[Tensor, "b views 4 4"], intrinsics: Float[Tensor, "b views 3 3"]) -> CameraBatch:
        """Make cameras from poses with OpenGL axes (x right, y up, looking along -z), as in Nerfstudio and Blender.

        Args:
            c2w: Camera-to-world, OpenGL axes.
            intrinsics: Divided by image width (first row) and height (second row).

        >>> cameras = CameraBatch.from_opengl(c2w[None], intrinsics[None])  # c2w [v, 4, 4], intrinsics [v, 3, 3]
        """
        cameras = CameraBatch(c2w, intrinsics)
        return CameraBatch(cameras.c2w * cameras.c2w.new_tensor([1.0, -1.0, -1.0, 1.0]), cameras.intrinsics)

    @staticmethod
    def from_pixels(
        c2w: Float[Tensor, "b views 4 4"], intrinsics: Float[Tensor, "b views 3 3"], width: int, height: int
    ) -> CameraBatch:
        """Make cameras from intrinsics in pixels.

        Args:
            c2w: Camera-to-world, OpenCV axes.
            intrinsics: Focal lengths and principal point in pixels of the images.
            width: Width of the images in pixels.
            height: Height of the images in pixels.

        >>> cameras = CameraBatch.from_pixels(c2w[None], intrinsics[None], 1920, 1080)  # c2w [v, 4, 4]
        """
        cameras = CameraBatch(c2w, intrinsics)
        size = cameras.intrinsics.new_tensor([[width], [height], [1.0]])
        return CameraBatch(cameras.c2w, cameras.intrinsics / size)

    @property
    def num_views(self) -> int:
        """Number of views of each batch element."""
        return self.c2w.shape[1]

    @property
    def batch_size(self) -> int:
        """Number of batch elements, such as scenes."""
        return self.c2w.shape[0]

    def relative_to(self, reference_c2w: Float[Tensor, "b 4 4"]) -> CameraBatch:
        """Return the cameras in the axes of a reference camera: inverse(reference) @ c2w, computed in float32."""
        # inv_ex: plain inv would wait for the device to look for singular matrices.
        world_to_reference = torch.linalg.inv_ex(reference_c2w.float()).inverse[:, None]
        return CameraBatch(_product(world_to_reference, self.c2w.float()).to(self.c2w.dtype), self.intrinsics)

    def select(self, index: slice | list[int] | Int[Tensor, " k"] | Int[Tensor, "b k"]) -> CameraBatch:
        """Select views by index: the same views of all batch elements, or those of a row of indices per element."""
        if isinstance(index, Tensor) and index.dim() == 2:
            rows = torch.arange(self.batch_size, device=index.device)[:, None]
            return CameraBatch(self.c2w[rows, index], self.intrinsics[rows, index])
        return CameraBatch(self.c2w[:, index], self.intrinsics[:, index])

    def repeat(self, copies: int) -> CameraBatch:
        """Repeat the whole batch `copies` times along the batch dimension."""
        return CameraBatch(self.c2w.repeat(copies, 1, 1, 1), self.intrinsics.repeat(copies, 1, 1, 1))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CameraBatch:
        """Return the same cameras on another device, or in another dtype."""
        return CameraBatch(self.c2w.to(device, dtype), self.intrinsics.to(device, dtype))


def relative_cameras(cameras: CameraBatch, reference_c2w: Float[Tensor, "b 4 4"], pose_scale: float) -> CameraBatch:
    """Return cameras in the axes of a reference camera, with positions multiplied by `pose_scale`.

    Raises ValueError unless `pose_scale` is a number above 0.
    """
    if not 0 < pose_scale < math.inf:
        raise ValueError(f"expected a pose_scale above 0, got {pose_scale:g}")
    relative = cameras.relative_to(reference_c2w)
    scale = torch.ones(4, 4, dtype=relative.c2w.dtype, device=relative.c2w.device)
    scale[:3, 3] = float(pose_scale)
    return CameraBatch(relative.c2w * scale, relative.intrinsics)


def ray_map(
    cameras: CameraBatch, size: tuple[int, int], *, rays: Literal["ray", "plucker"], normalize: bool
) -> Float[Tensor, "b views 6 h w"]:
    """Compute the world rays through the pixel centres of an image.

    Args:
        cameras: The cameras.
        size: Height and width of the image in pixels.
        rays: Channels of the map: (direction, origin) for ray, (direction, origin x direction) for plucker.
        normalize: Divide the directions by their length once more. They have unit length already, up to an epsilon,
            so only the last digits change (parity README, c01).

    Returns:
        Ray maps, always float32.
    """
    c2w = cameras.c2w.float()
    # Sums of products, not matmul: neither TF32 nor autocast may round geometry.
    directions = _product(torch.linalg.inv_ex(cameras.intrinsics.float()).inverse, pixel_centres(size, c2w.device))
    directions = _product(c2w[..., :3, :3], _unit(directions))
    if normalize:
        directions = _unit(directions)
    origins = c2w[..., :3, 3:].expand_as(directions)
    second = origins if rays == "ray" else torch.linalg.cross(origins, directions, dim=-2)
    return torch.cat([directions, second], dim=-2).unflatten(-1, size)


def pixel_centres(size: tuple[int, int], device: torch.device) -> Float[Tensor, "3 pixels"]:
    """Homogeneous pixel centres of the unit image, row by row."""
    y, x = ((torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n for n in size)
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)]).flatten(1)


def _unit(vectors: Float[Tensor, "*batch 3 k"]) -> Float[Tensor, "*batch 3 k"]:
    return vectors / (torch.linalg.vector_norm(vectors, dim=-2, keepdim=True) + EPSILON)


def _product(left: Float[Tensor, "*batch i j"], right: Float[Tensor, "*batch j k"]) -> Float[Tensor, "*batch i k"]:
    """Small matrix product in exact float32, whatever the matmul settings."""
    terms = [left[..., :, j, None] * right[..., j, None, :] for j in range(left.shape[-1])]
    return sum(terms[1:], start=terms[0])


def are_rigid(c2w: Float[Tensor, "*v 4 4"]) -> Bool[Tensor, "*v"]:
    """Mark the poses that are a rotation and a translation: finite, neither scaled nor mirrored, last row 0, 0, 0,
    1."""
    poses = c2w.double()
    rotation = poses[..., :3, :3]
    gram_error = (rotation.mT @ rotation - torch.eye(3).to(rotation)).abs().amax(dim=(-2, -1))
    row_error = (poses[..., 3, :] - poses.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().amax(dim=-1)
    finite = poses.isfinite().all(dim=-1).all(dim=-1)
    close = (gram_error <= RIGID_TOLERANCE) & (row_error <= RIGID_TOLERANCE)
    return finite & close & (torch.linalg.det(rotation.nan_to_num()) > 0)


def scaled_poses(c2w: Float[Tensor, "*v 4 4"], scale: float | Float[Tensor, ""]) -> Float[Tensor, "*v 4 4"]:
    """Return copies of the poses with their positions multiplied by `scale`."""
    poses = c2w.clone()
    poses[..., :3, 3] *= scale
    return poses


def pose_distances(c2w: Float[Tensor, "v 4 4"]) -> Float[Tensor, "v v"]:
    """Squared distance of the centres plus squared angle in radians between all poses, in float64 (parity c11_fps)."""
    poses = c2w.double()
    centres, rotations = poses[:, :3, 3], poses[:, :3, :3]
    apart = (centres[:, None] - centres[None]).square().sum(-1)
    # trace(A^T B) is the sum of the elementwise product.
    cosine = (torch.einsum("aij,bij->ab", rotations, rotations) - 1) / 2
    angle = cosine.clamp(-COSINE_LIMIT, COSINE_LIMIT).acos()
    # At the clamp the published angle is zero, because its axis vanishes together with the skew part of the matrix.
    angle = torch.where(torch.eye(len(poses), dtype=torch.bool, device=poses.device), 0.0, angle)
    return apart + angle.square()


def camera_spread(c2w: Float[Tensor, "v 4 4"]) -> float:
    """Root mean square distance of the cameras from their mean position."""
    positions = c2w[:, :3, 3].double()
    return float((positions - positions.mean(0)).square().sum(1).mean().sqrt())
