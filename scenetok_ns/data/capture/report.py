"""Measure the quality of a reconstruction, and describe problems, or the reason why there is no reconstruction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scenetok_ns.data.capture.photographs import Picture

if TYPE_CHECKING:
    import pycolmap

FEW_MATCHES = 15
"""Number of verified matches below which a pair of pictures is ignored; COLMAP's own limit."""
AGREEING = 0.5
"""Minimum share of a pair's tracked matches with both ends in one track for the two cameras to agree."""
FEW_JOINED = 0.8
"""Share of all tracked matches with both ends in one track, below which a reconstruction is doubtful. Good
reconstructions of 12 and 50 pictures had 0.91 and 0.94, broken ones 0.65 to 0.68."""
SMALL_ANGLE = 3.0
"""Triangulation angle in degrees below which depths are guesses."""
LARGE_ERROR = 1.5
"""Reprojection error in pixels, for pictures of 1,000 pixels, above which something moved or the lens is wrong."""
FEW_FEATURES = 100
"""Number of features below which a picture shows almost no detail."""
SOME = 5
"""Maximum number of names in a message; the others are only counted."""


@dataclass(frozen=True)
class Pair:
    """Two pictures, by index, and the number of their verified matches."""

    first: int
    second: int
    tracked: int
    """Number of verified matches with at least one end in a track of the model."""
    joined: int
    """Number of these matches with both ends in one track."""


@dataclass(frozen=True)
class Quality:
    """Quality figures of a reconstruction. Pictures are indices into the list that it was made from."""

    registered: tuple[int, ...]
    other_models: tuple[tuple[int, ...], ...]
    """Pictures of further models, which share no coordinate system with the first."""
    points: int
    reprojection_error: float
    """Mean reprojection error in pixels."""
    joined_matches: float
    """Among the verified matches between registered pictures with an end in a track: share with both ends in one."""
    triangulation_angle: float
    """Median over points of the widest angle between rays to two of the point's cameras, in degrees."""
    parts: tuple[tuple[int, ...], ...]
    """Groups of registered pictures that agree within the group but not with other groups, the largest first."""

    @property
    def is_broken(self) -> bool:
        """Whether groups of cameras, each consistent in itself, are in wrong places relative to each other.

        Neither the number of registered pictures nor the reprojection error shows this.
        """
        return len(self.parts) > 1 and self.joined_matches < FEW_JOINED


def measure(
    models: Sequence[pycolmap.Reconstruction], database: Path, pictures: Sequence[Picture], pycolmap: Any
) -> Quality:
    """Measure the first of several models.

    Args:
        models: Models of one capture, the largest first.
        database: COLMAP's database with the matches that they were made from.
        pictures: The pictures of the capture.
        pycolmap: The module.
    """
    best = models[0]
    index_of = {picture.name: index for index, picture in enumerate(pictures)}
    registered = _registered(best, index_of)
    others = tuple(_registered(model, index_of) for model in models[1:])
    pairs = _pairs(best, database, index_of, pycolmap)
    tracked = sum(pair.tracked for pair in pairs)
    return Quality(
        registered=registered,
        # A picture that two models share is counted with the first.
        other_models=tuple(left for other in others if (left := tuple(sorted(set(other) - set(registered))))),
        points=best.num_points3D(),
        reprojection_error=float(best.compute_mean_reprojection_error()),
        joined_matches=sum(pair.joined for pair in pairs) / tracked if tracked else 0.0,
        triangulation_angle=_median_angle(best),
        parts=agreeing_parts(registered, pairs),
    )


def agreeing_parts(registered: Sequence[int], pairs: Sequence[Pair]) -> tuple[tuple[int, ...], ...]:
    """Group pictures that are connected by pairs whose matches mostly have both ends in one track.

    In a broken reconstruction the cameras fall into parts: there are many verified matches between them, but few
    tracks. Pictures without any agreeing pair belong to no part.
    """
    parent = {index: index for index in registered}

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    for pair in pairs:
        if pair.joined >= max(FEW_MATCHES, AGREEING * pair.tracked):
            parent[root(pair.first)] = root(pair.second)
    groups: dict[int, list[int]] = {}
    for index in registered:
        groups.setdefault(root(index), []).append(index)
    parts = sorted((tuple(group) for group in groups.values()), key=lambda group: (-len(group), group))
    return tuple(part for part in parts if len(part) > 1) or tuple(parts[:1])


def _registered(model: pycolmap.Reconstruction, index_of: dict[str, int]) -> tuple[int, ...]:
    return tuple(sorted(index_of[image.name] for image in model.images.values() if image.has_pose))


def _pairs(model: pycolmap.Reconstruction, database: Path, index_of: dict[str, int], pycolmap: Any) -> list[Pair]:
    with closing(pycolmap.Database.open(database)) as opened:
        numbers, geometries = opened.read_two_view_geometries()
    tracks = {
        number: np.array([point.point3D_id if point.has_point3D() else -1 for point in image.points2D], dtype=np.int64)
        for number, image in model.images.items()
        if image.has_pose
    }
    pairs = []
    for number, geometry in zip(numbers, geometries, strict=True):
        first, second = pycolmap.pair_id_to_image_pair(number)
        matches = np.asarray(geometry.inlier_matches)
        if len(matches) < FEW_MATCHES or first not in tracks or second not in tracks:
            continue
        one, other = tracks[first][matches[:, 0]], tracks[second][matches[:, 1]]
        joined = int(((one == other) & (one >= 0)).sum())
        names = model.images[first].name, model.images[second].name
        tracked = int(((one >= 0) | (other >= 0)).sum())
        pairs.append(Pair(index_of[names[0]], index_of[names[1]], tracked, joined))
    return pairs


def _median_angle(model: pycolmap.Reconstruction, most: int = 2000) -> float:
    """Median over about `most` points of the widest angle between rays to a point's cameras, in degrees."""
    centres = {number: image.projection_center() for number, image in model.images.items() if image.has_pose}
    numbers = sorted(model.points3D)
    angles = []
    for number in numbers[:: max(1, len(numbers) // most)]:
        point = model.points3D[number]
        rays = np.array([centres[element.image_id] for element in point.track.elements]) - point.xyz
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        angles.append(np.degrees(np.arccos(np.clip((rays @ rays.T).min(), -1.0, 1.0))))
    return float(np.median(angles)) if angles else 0.0


def warnings_of(quality: Quality, pictures: Sequence[Picture]) -> list[str]:
    """Warnings about a reconstruction, each in one line with advice; empty if there are none."""
    lines = []
    total, count = len(pictures), len(quality.registered)
    known = set(quality.registered)
    for other in quality.other_models:
        show = "1 picture shows" if len(other) == 1 else f"{len(other)} pictures show"
        lines.append(
            f"{show} a place that is not connected with the rest ({listed(pictures, other)}): take pictures of the way "
            "between, each overlapping the last by two thirds"
        )
        known |= set(other)
    if rest := [index for index in range(total) if index not in known]:
        overlap, are = ("it overlaps", "is") if len(rest) == 1 else ("they overlap", "are")
        lines.append(
            f"{len(rest)} of {total} pictures could not be placed ({listed(pictures, rest)}): {overlap} too little "
            f"with the others, or {are} blurred or without detail"
        )
    if quality.joined_matches < FEW_JOINED and not quality.is_broken:
        lines.append(
            f"only {quality.joined_matches:.0%} of the matches agree with the cameras (usually 90 %): objects moved, "
            "or places look alike; check the result in the viewer"
        )
    if quality.triangulation_angle < SMALL_ANGLE:
        lines.append(
            f"the camera hardly moved (the median triangulation angle is {quality.triangulation_angle:.1f} degrees), "
            "so depths are uncertain; walk sideways around the scene, do not turn on the spot"
        )
    size = max(max(pictures[index].width, pictures[index].height) for index in quality.registered)
    if quality.reprojection_error > LARGE_ERROR * max(size, 1000) / 1000:
        lines.append(
            f"the reprojection error is large ({quality.reprojection_error:.2f} pixels): objects moved, or pictures "
            "were cropped or zoomed (--separate-lenses gives each a lens of its own)"
        )
    if count < 0.5 * total:
        lines.append(f"fewer than half of the pictures ({count} of {total}) have a camera")
    return lines


def broken_line(quality: Quality) -> str:
    """Describe why a broken reconstruction is refused, and what may help."""
    sizes = ", ".join(str(len(part)) for part in quality.parts)
    return (
        f"the reconstruction is broken: its cameras fall into {len(quality.parts)} parts ({sizes} pictures) that do "
        f"not fit together, {quality.joined_matches:.0%} of the matches agree (usually 90 %); try --seed 1, or take "
        "more pictures between the parts"
    )


def still_line(database: Path, pictures: Sequence[Picture], pycolmap: Any) -> str | None:
    """Describe why matched pictures contain no depth: the camera did not move, or only turned. None if it moved.

    Call this before mapping, which also finds cameras for such pictures: wrong ones, with a small error.
    """
    motions = Counter(_motions(database, pycolmap))
    pairs = sum(motions.values())
    if not pairs or motions["moved"] > (1 - STATIONARY) * pairs:
        return None
    if motions["still"] > pairs / 2:
        return f"the camera did not move: {len(pictures)} pictures show one view; walk around the scene"
    return "the camera only turned on the spot, so there is no depth to see; walk sideways around the scene"


def failure_line(database: Path, pictures: Sequence[Picture], pycolmap: Any) -> str:
    """Describe why no model was found, as far as features and matches show."""
    with closing(pycolmap.Database.open(database)) as opened:
        images = opened.read_all_images()
        features = np.array([opened.num_keypoints_for_image(image.image_id) for image in images])
    poor = int((features < FEW_FEATURES).sum())
    if poor > len(pictures) / 2:
        return (
            f"{poor} of {len(pictures)} pictures show almost no detail (blank walls, blur, darkness); take pictures "
            "of textured surfaces"
        )
    pairs = len(list(_motions(database, pycolmap)))
    if pairs < len(pictures) / 2:
        return (
            f"only {pairs} pairs of {len(pictures)} pictures have enough in common; take pictures of one place, each "
            "overlapping the last by two thirds"
        )
    return (
        f"the matches of {len(pictures)} pictures fit no camera path; walk sideways and take more pictures, each "
        "overlapping the last by two thirds"
    )


STATIONARY = 0.9
"""Share of pairs without a change of the camera's position from which the whole capture counts as stationary."""
STILL_PIXELS = 0.004
"""Median shift of matches, as a share of the picture's longer side, below which the camera did not move at all."""
TURNING = 0.01
"""Largest logarithm of the moduli of a homography's eigenvalues below which the homography is a rotation.

All eigenvalues of K R K^-1 have modulus 1, whatever the lens. Pictures of a room had 0.0006 for a turning camera and
0.03 for a walking one."""


def _motions(database: Path, pycolmap: Any) -> Iterator[str]:
    """Yield for every matched pair how the camera moved between its pictures: "still", "turned" or "moved"."""
    one_plane = pycolmap.TwoViewGeometryConfiguration.PLANAR_OR_PANORAMIC
    with closing(pycolmap.Database.open(database)) as opened:
        images = {image.image_id: image for image in opened.read_all_images()}
        points = {number: opened.read_keypoints(number)[:, :2] for number in images}
        sizes = {camera.camera_id: max(camera.width, camera.height) for camera in opened.read_all_cameras()}
        for pair, geometry in zip(*opened.read_two_view_geometries(), strict=True):
            matches = np.asarray(geometry.inlier_matches)
            if len(matches) < FEW_MATCHES:
                continue
            first, second = pycolmap.pair_id_to_image_pair(pair)
            shift = np.linalg.norm(points[first][matches[:, 0]] - points[second][matches[:, 1]], axis=1)
            if float(np.median(shift)) < STILL_PIXELS * sizes[images[first].camera_id]:
                yield "still"
            elif geometry.config == one_plane and geometry.H is not None and is_rotation(geometry.H):
                yield "turned"
            else:
                yield "moved"


def is_rotation(homography: np.ndarray) -> bool:
    """Whether a homography between two pictures comes from a camera that only turned."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = homography / np.cbrt(np.linalg.det(homography))
        return bool(np.abs(np.log(np.abs(np.linalg.eigvals(scaled)))).max() < TURNING)


def listed(pictures: Sequence[Picture], indices: Sequence[int]) -> str:
    """List the first SOME names, and how many more there are."""
    names = ", ".join(pictures[index].source for index in indices[:SOME])
    return names + (f" and {len(indices) - SOME} more" if len(indices) > SOME else "")
