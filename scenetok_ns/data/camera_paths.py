"""Camera paths for a scene whose photographs' cameras are known: orbit, dolly, spiral, through the cameras, and others.

Poses are camera-to-world with OpenCV axes, in the world and units of the cameras given. Every path follows from the
cameras alone: where they look, how far apart they are, which way is up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.path_names import PATH_NAMES, PathName
from scenetok_ns.data.poses import ONE_PLACE
from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.cameras import camera_spread, pose_distances
from scenetok_ns.tools.suggestions import did_you_mean

SMALLEST_SWING = math.radians(30)
"""Smallest angle of an orbit's swing (radians), used if the directions of the cameras span less."""
FULL_CIRCLE_GAP = math.radians(120)
"""Widest gap between the cameras' directions (radians) for which an orbit is a full circle. Above it, orbits swing."""
PARALLEL = 1e-3
"""Smallest eigenvalue of the optical axes' normal matrix for which these meet in a point (about 2 degrees apart)."""
SPIRAL_TURNS = 2
LARGEST_ZOOM = 2.0
REACH_TO_FOCUS = 0.25
"""Largest share of the distance from the middle camera to what it looks at that dolly, spiral and lemniscate cover."""


def preset_path(name: PathName, c2w: Float[Tensor, "v 4 4"], count: int) -> Float[Tensor, "count 4 4"]:
    """Create a camera path for a photographed scene.

    orbit: around what the cameras look at, or around their middle if they look outwards, at their height, distance and
    tilt. It is a full circle if they look in all directions. Otherwise it swings there and back over the range of their
    directions, at least 30 degrees, so that the camera also moves if all cameras look the same way.
    dolly: straight ahead along the middle camera's view. spiral: two turns around the middle camera, looking at what it
    looks at. interpolate: smoothly through all cameras at constant speed. lemniscate: a horizontal figure of eight
    around the middle camera, looking at what it looks at. zoom: the middle camera stays in place; `zoom_factors` change
    its lens.

    Args:
        name: One of `PATH_NAMES`.
        c2w: Poses of the photographs in their order, camera-to-world, OpenCV axes.
        count: Number of poses.

    Returns:
        Poses in the world and units of `c2w`.

    Raises:
        DataError: There are no cameras, or too few or too close together for this path.
    """
    if name not in PATH_NAMES:
        raise DataError(f"unknown path {name!r}{did_you_mean(name, PATH_NAMES)}; there are {', '.join(PATH_NAMES)}")
    if not len(c2w) or count < 1:
        raise DataError(f"a path needs at least one camera and one frame, got {len(c2w)} and {count}")
    poses = c2w.detach().double()
    made = {"orbit": _orbit, "dolly": _dolly, "spiral": _spiral, "interpolate": _interpolate}
    path = {**made, "lemniscate": _lemniscate, "zoom": _still}[name](poses, count)
    return path.to(c2w.dtype)


def zoom_factors(name: PathName, count: int) -> Float[Tensor, " count"]:
    """Return the factors of the focal length along a path: 1 everywhere; for zoom, up to `LARGEST_ZOOM` and back."""
    if name != "zoom":
        return torch.ones(count)
    turn = torch.arange(count) / count * 2 * math.pi
    return LARGEST_ZOOM ** ((1 - turn.cos()) / 2)


@dataclass(frozen=True)
class _Layout:
    """Geometry of all cameras together."""

    focus: Float[Tensor, "3"]
    """Point at which their optical axes come nearest to one another."""
    inward: bool
    """Whether the focus is in front of the cameras, not behind them."""
    up: Float[Tensor, "3"]


def _layout(c2w: Float[Tensor, "v 4 4"]) -> _Layout:
    positions, forward, down = c2w[:, :3, 3], c2w[:, :3, 2], c2w[:, :3, 1]
    up = -down.mean(0)
    up = up / up.norm() if up.norm() > 1e-3 else -down[len(c2w) // 2]
    across = torch.eye(3).to(c2w) - forward[:, :, None] * forward[:, None, :]
    normal, wanted = across.mean(0), (across @ positions[:, :, None]).mean(0)[:, 0]
    if torch.linalg.eigvalsh(normal)[0] < PARALLEL:
        # Parallel axes meet nowhere; a point some way ahead of the middle serves instead.
        ahead = 4 * max(camera_spread(c2w), 1e-6)
        return _Layout(positions.mean(0) + ahead * _unit(forward.mean(0)), True, up)
    focus = torch.linalg.solve(normal, wanted)
    depth = ((focus - positions) * forward).sum(1)
    return _Layout(focus, bool(depth.median() > 0), up)


def _orbit(c2w: Float[Tensor, "v 4 4"], count: int) -> Float[Tensor, "count 4 4"]:
    layout = _layout(c2w)
    up, middle = layout.up, c2w[len(c2w) // 2]
    level = _level(c2w[:, :3, 2], up)
    ahead = _unit(_level(middle[:3, 2], up)) if _level(middle[:3, 2], up).norm() > 1e-3 else _level_axis(up)
    side = torch.linalg.cross(up, ahead)
    azimuth = torch.atan2(level @ side, level @ ahead)
    offsets = c2w[:, :3, 3] - layout.focus
    height = (offsets @ up).median()
    radius = _level(offsets, up).norm(dim=1).median() * (-1 if layout.inward else 1)
    tilt = torch.asin((c2w[:, :3, 2] @ up).clamp(-1, 1)).median()
    angle = _sweep(azimuth, count)
    seen = angle.cos()[:, None] * ahead + angle.sin()[:, None] * side
    positions = layout.focus + radius * seen + height * up
    return _looking(positions, tilt.cos() * seen + tilt.sin() * up, up)


def _sweep(azimuth: Float[Tensor, " v"], count: int) -> Float[Tensor, " count"]:
    """Return the directions of an orbit: a full circle from 0, or a smooth swing there and back over the cameras'
    directions, of at least `SMALLEST_SWING`."""
    taken = azimuth.sort().values
    gaps = torch.cat([taken[1:], taken[:1] + 2 * math.pi]) - taken
    widest = int(gaps.argmax())
    turn = torch.arange(count, dtype=azimuth.dtype, device=azimuth.device) / count * 2 * math.pi
    if gaps[widest] < FULL_CIRCLE_GAP:
        return turn
    spread = 2 * math.pi - gaps[widest]
    middle = taken[(widest + 1) % len(taken)] + spread / 2
    return middle - spread.clamp(min=SMALLEST_SWING) * turn.cos() / 2


def _dolly(c2w: Float[Tensor, "v 4 4"], count: int) -> Float[Tensor, "count 4 4"]:
    middle = c2w[len(c2w) // 2]
    reach = _reach(c2w, "dolly")
    path = middle.repeat(count, 1, 1)
    path[:, :3, 3] += torch.linspace(-reach, reach, count).to(c2w)[:, None] * middle[:3, 2]
    return path


def _spiral(c2w: Float[Tensor, "v 4 4"], count: int) -> Float[Tensor, "count 4 4"]:
    turn = torch.arange(count).to(c2w) / count * 2 * math.pi
    winding = turn * SPIRAL_TURNS
    inside = torch.stack([winding.cos(), winding.sin() / 2, turn.sin() / 2], dim=1)
    return _before_middle(c2w, inside, "spiral")


def _lemniscate(c2w: Float[Tensor, "v 4 4"], count: int) -> Float[Tensor, "count 4 4"]:
    turn = torch.arange(count).to(c2w) / count * 2 * math.pi
    shrunk = 1 + turn.sin().square()  # Bernoulli's
    inside = torch.stack([turn.cos() / shrunk, turn.sin() * turn.cos() / shrunk, torch.zeros_like(turn)], dim=1)
    return _before_middle(c2w, inside, "lemniscate")


def _before_middle(
    c2w: Float[Tensor, "v 4 4"], inside: Float[Tensor, "count 3"], name: str
) -> Float[Tensor, "count 4 4"]:
    """Return cameras around the middle camera that look at what it looks at.

    `inside` gives their offsets from it, along its axes and in units of `_reach`.
    """
    middle = c2w[len(c2w) // 2]
    positions = middle[:3, 3] + inside * _reach(c2w, name) @ middle[:3, :3].mT
    target = middle[:3, 3] + _distance(c2w) * middle[:3, 2]
    return _looking(positions, target - positions, -middle[:3, 1])


def _still(c2w: Float[Tensor, "v 4 4"], count: int) -> Float[Tensor, "count 4 4"]:
    return c2w[len(c2w) // 2].repeat(count, 1, 1)


def _distance(c2w: Float[Tensor, "v 4 4"]) -> float:
    """Return the distance from the middle camera to what it looks at: to the focus or, if that lies behind it, four
    times the cameras' spread."""
    layout, middle = _layout(c2w), c2w[len(c2w) // 2]
    depth = float((layout.focus - middle[:3, 3]) @ middle[:3, 2])
    return depth if depth > 0 else 4 * camera_spread(c2w)


def _reach(c2w: Float[Tensor, "v 4 4"], name: str) -> float:
    reach = min(camera_spread(c2w), REACH_TO_FOCUS * _distance(c2w))
    if reach <= ONE_PLACE * (1 + float(c2w[:, :3, 3].abs().amax())):
        raise DataError(f"{len(c2w)} cameras are all in one place, so the length of a {name} is unknown; use orbit")
    return reach


def _interpolate(c2w: Float[Tensor, "v 4 4"], count: int) -> Float[Tensor, "count 4 4"]:
    """Interpolate positions and rotation matrices by Catmull-Rom splines, then project the matrices to rotations."""
    if len(c2w) < 2:
        raise DataError("a path through the cameras needs at least two of them")
    scaled = c2w.clone()
    scaled[:, :3, 3] /= max(camera_spread(c2w), 1e-9)
    steps = pose_distances(scaled).diagonal(1).sqrt()
    times = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    wanted = torch.linspace(0, 1, count).to(times) * times[-1]
    segment = (torch.searchsorted(times, wanted, right=True) - 1).clamp(0, len(c2w) - 2)
    along = ((wanted - times[segment]) / steps[segment])[:, None, None]
    before, after = (segment - 1).clamp(min=0), (segment + 2).clamp(max=len(c2w) - 1)
    rows = _spline(c2w[before], c2w[segment], c2w[segment + 1], c2w[after], along)
    u, _, vh = torch.linalg.svd(rows[:, :3, :3])
    turned = torch.ones_like(rows[:, :3, 0])
    turned[:, 2] = torch.linalg.det(u @ vh)
    rows[:, :3, :3] = (u * turned[:, None]) @ vh
    return rows


def _spline(a: Tensor, b: Tensor, c: Tensor, d: Tensor, t: Tensor) -> Tensor:
    """Evaluate a uniform Catmull-Rom spline between b (t = 0) and c (t = 1)."""
    tangents = 2 * a - 5 * b + 4 * c - d, 3 * (b - c) + d - a
    return b + 0.5 * t * (c - a + t * (tangents[0] + t * tangents[1]))


def _looking(
    positions: Float[Tensor, "n 3"], forward: Float[Tensor, "n 3"], up: Float[Tensor, "3"]
) -> Float[Tensor, "n 4 4"]:
    """Return level cameras at `positions` that look `forward`."""
    z = _unit(forward)
    x = torch.linalg.cross(z, up.expand_as(z))
    # For a camera that looks straight up or down, any horizontal axis will do.
    x = torch.where(x.norm(dim=1, keepdim=True) > 1e-6, x, _level_axis(up).expand_as(z))
    x = _unit(x - (x * z).sum(1, keepdim=True) * z)
    poses = torch.eye(4).to(positions).repeat(len(z), 1, 1)
    poses[:, :3] = torch.stack([x, torch.linalg.cross(z, x), z, positions], dim=-1)
    return poses


def _level(vectors: Float[Tensor, "*n 3"], up: Float[Tensor, "3"]) -> Float[Tensor, "*n 3"]:
    return vectors - (vectors @ up)[..., None] * up


def _level_axis(up: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """Return some unit vector perpendicular to `up`."""
    axis = torch.eye(3).to(up)[int(up.abs().argmin())]
    return _unit(_level(axis, up))


def _unit(vectors: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)
