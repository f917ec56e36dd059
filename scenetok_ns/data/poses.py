"""Operations on camera-to-world matrices: reading, checks, reflection, interpolation, scale, farthest points."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from scenetok_ns.models.cameras import are_rigid, camera_spread, pose_distances

ONE_PLACE = 1e-6
"""Spread of cameras, relative to their largest coordinate, below which they are in one place."""
FARTHEST = 1e9
"""Largest coordinate of a camera. Map coordinates have seven digits before the point."""
SHORTEST_FOCAL, LONGEST_FOCAL = 1e-3, 1e4
"""Range of focal lengths, divided by the picture's side. Others come from wrong units or damaged files."""


def cameras_from_rows(rows: Float[Tensor, "v 18"]) -> tuple[Float[Tensor, "v 4 4"], Float[Tensor, "v 3 3"]]:
    """Convert RealEstate10K camera rows to camera-to-world matrices and normalised intrinsics (parity c11_poses).

    A row is fx, fy, cx, cy divided by the image size, two unused numbers, and the 3 x 4 OpenCV world-to-camera matrix
    row by row. Raises ValueError if a matrix has no inverse.
    """
    intrinsics = torch.eye(3).repeat(len(rows), 1, 1)
    intrinsics[:, [0, 1, 0, 1], [0, 1, 2, 2]] = rows[:, :4]
    w2c = torch.eye(4).repeat(len(rows), 1, 1)
    w2c[:, :3] = rows[:, 6:].reshape(-1, 3, 4)
    inverse, failed = torch.linalg.inv_ex(w2c)
    if failed.any():
        raise ValueError(f"the pose of frame {int(failed.nonzero()[0])} has no inverse")
    return inverse, intrinsics


def bad_pose(c2w: Float[Tensor, "n 4 4"]) -> tuple[int, str] | None:
    """Find a camera-to-world matrix that no camera can have.

    Returns its index and the problem; None if all are valid.
    """
    position = c2w[:, :3, 3]
    problems = (
        (~c2w.flatten(1).isfinite().all(1), "is not finite (NaN or infinite)"),
        (are_rigid(c2w * c2w.new_tensor([-1.0, 1.0, 1.0, 1.0])), "is a reflection, which swaps left and right"),
        (~are_rigid(c2w), "is not a rotation and a position"),
        (position.abs().amax(dim=1) > FARTHEST, f"lies more than {FARTHEST:.0e} units from the origin"),
    )
    for wrong, what in problems:
        if wrong.any():
            return int(wrong.nonzero()[0]), what
    return None


def bad_lens(intrinsics: Float[Tensor, "n 3 3"]) -> tuple[int, str] | None:
    """Find intrinsics, divided by the image size, that no camera can have. Returns the same as `bad_pose`."""
    focal, centre = intrinsics[:, [0, 1], [0, 1]], intrinsics[:, :2, 2]
    usual = (focal >= SHORTEST_FOCAL) & (focal <= LONGEST_FOCAL) & (centre.abs() <= LONGEST_FOCAL)
    wrong = ~usual.all(1)
    if not wrong.any():
        return None
    place = int(wrong.nonzero()[0])
    (x, y), (cx, cy) = focal[place].tolist(), centre[place].tolist()
    found = f"focal lengths of {x:g} and {y:g} and a centre of {cx:g}, {cy:g}"
    return place, f"has {found}, in picture sides; expected focal lengths from {SHORTEST_FOCAL:g} to {LONGEST_FOCAL:g}"


def reflect(
    images: Shaped[Tensor, "*v 3 h w"], c2w: Float[Tensor, "*v 4 4"]
) -> tuple[Shaped[Tensor, "*v 3 h w"], Float[Tensor, "*v 4 4"]]:
    """Mirror a scene, exchanging left and right: the published training augmentation (parity c11_poses).

    Intrinsics do not change, which is exact only for a centred principal point.
    """
    mirror = c2w.new_tensor([-1.0, 1.0, 1.0, 1.0]).diag()
    return images.flip(-1), mirror @ c2w @ mirror


def interpolate_poses(keys: Float[Tensor, "k 4 4"], count: int) -> Float[Tensor, "n 4 4"]:
    """Create a path through all `keys` in order, with n = count + k - 1 poses (parity c11_poses).

    `count` - 1 poses are added between the keys, as evenly over the segments as possible; the first segments get one
    more if needed. Within a segment, positions are linear and rotations turn about one axis. Raises ValueError if
    k < 2 or count < k.
    """
    k = len(keys)
    if k < 2 or count < k:
        raise ValueError(f"interpolate_poses: expected at least 2 keys and a count of at least {k}, got count {count}")
    base, longer = divmod(count - 1, k - 1)
    fractions, segments = [torch.zeros(1, dtype=torch.float64)], [torch.zeros(1, dtype=torch.int64)]
    for segment in range(k - 1):
        inside = base + (segment < longer)
        fractions.append(torch.linspace(0, 1, inside + 2, dtype=torch.float64)[1:])
        segments.append(torch.full((inside + 1,), segment))
    t, at = torch.cat(fractions).to(keys.device), torch.cat(segments).to(keys.device)
    start, end = keys[at].double(), keys[at + 1].double()
    path = start.clone()
    path[:, :3, 3] = torch.lerp(start[:, :3, 3], end[:, :3, 3], t[:, None])
    path[:, :3, :3] = start[:, :3, :3] @ _partial_rotation(start[:, :3, :3].mT @ end[:, :3, :3], t)
    return path.to(keys.dtype)


def pose_scale(c2w: Float[Tensor, "v 4 4"], typical_spread: float | None) -> float:
    """Return the factor for positions that matches the spread of the cameras to that of the training scenes.

    It is 1 if `typical_spread`, the spread in training, is unknown (None), or if all cameras are in one place.
    """
    if typical_spread is None or in_one_place(c2w):
        return 1.0
    return typical_spread / camera_spread(c2w)


def in_one_place(c2w: Float[Tensor, "v 4 4"]) -> bool:
    """Whether all cameras are at one position, up to rounding. The result does not depend on the unit."""
    return camera_spread(c2w) <= ONE_PLACE * float(c2w[:, :3, 3].abs().amax())


STRAY_DISTANCE = 5.0
"""A camera is a stray if it is farther from the middle than this multiple of the distance that nine tenths of the
cameras stay within."""
LEAST_CAMERAS = 5
"""Number of cameras below which none is a stray: too few to show what is usual."""
MOST_STRAYS = 0.1
"""Largest share of the cameras that can be strays; a larger group is a part of the scene."""


def stray_cameras(c2w: Float[Tensor, "v 4 4"]) -> Bool[Tensor, " v"]:
    """Mark cameras that are far away from all others, most likely through a failed pose.

    Such cameras would determine the scene's scale.
    """
    if len(c2w) < LEAST_CAMERAS:
        return torch.zeros(len(c2w), dtype=torch.bool, device=c2w.device)
    positions = c2w[:, :3, 3].double()
    distances = (positions - positions.median(0).values).norm(dim=1)
    usual = distances.sort().values[int((1 - MOST_STRAYS) * (len(c2w) - 1))]
    astray = distances > STRAY_DISTANCE * usual
    # If most cameras are in one place, the others are not mistakes.
    return astray & (usual > 0)


def farthest_points(c2w: Float[Tensor, "v 4 4"], count: int, start: int) -> Int64[Tensor, " count"]:
    """Choose `count` different frames by farthest-point sampling, starting with frame `start`. Returns them sorted.

    This is the published context selection (parity c11_fps), which draws `start` uniformly. No frame comes twice,
    because two frames with equal poses still count as an angle of arccos(COSINE_LIMIT) apart. Raises ValueError if
    there are fewer than `count` poses.
    """
    if not 0 < count <= len(c2w):
        raise ValueError(f"farthest_points: expected a count from 1 to {len(c2w)}, the number of poses, got {count}")
    distances = pose_distances(c2w)
    nearest = distances[start].clone()
    taken = [start]
    for _ in range(count - 1):
        taken.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distances[taken[-1]])
    return torch.tensor(sorted(taken))


def _partial_rotation(rotation: Float[Tensor, "n 3 3"], fraction: Float[Tensor, " n"]) -> Float[Tensor, "n 3 3"]:
    """Return rotations by `fraction` of each given rotation's angle (at most pi) about its axis, in float64."""
    w, axis = _quaternion(rotation).split([1, 3], dim=-1)
    sine = axis.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, w) * fraction[:, None]
    x, y, z = (axis / sine.clamp_min(1e-15)).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    angle = angle[..., None]
    return torch.eye(3).to(rotation) + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)


def _quaternion(rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 4"]:
    """Return the unit quaternion (w, x, y, z) with w >= 0.

    Each row of the matrix below is the quaternion multiplied by four times one of its components. The row of the
    largest component is accurate for every rotation, including those by pi.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rotation.unbind(-2))
    rows = [
        [1 + a + e + i, h - f, c - g, d - b],
        [h - f, 1 + a - e - i, b + d, c + g],
        [c - g, b + d, 1 - a + e - i, f + h],
        [d - b, c + g, f + h, 1 - a - e + i],
    ]
    products = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    best = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quaternion = products[torch.arange(len(rotation), device=rotation.device), best]
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[:, :1] < 0, -quaternion, quaternion)


def flip_axes(c2w: Float[Tensor, "*n 4 4"]) -> Float[Tensor, "*n 4 4"]:
    """Convert camera axes between OpenGL and OpenCV: y and z change sign. The function is its own inverse."""
    return c2w * c2w.new_tensor([1.0, -1.0, -1.0, 1.0])
