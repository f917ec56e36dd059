"""Poses of the viewer's cameras, and the frustums that it draws."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from scenetok_ns.bridge.scene_views import SceneViews
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.models.cameras import camera_spread

if TYPE_CHECKING:
    import viser
    from nerfstudio.viewer.viewer import Viewer

LEAST_DISTANCE = 0.05
"""Minimum distance from the camera to its point of rotation, in units of the scene."""
BEYOND_FRUSTUM = 1.2
"""Distance of a browser's first camera from a frustum's tip, relative to the distance of the frustum's photograph."""
STOCK_SCALE, FRUSTUM_SHARE = 0.1, 0.12
"""Nerfstudio's size of frustums in its viewer's units, and our size relative to the distance between cameras."""


def frustum_scale(cameras: Cameras) -> float | None:
    """Size of frustums, in the viewer's units, in proportion to the distances between neighbouring cameras.

    Returns None if that distance is zero or unknown, as for a single camera.
    """
    from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

    positions = nerfstudio_to_camera_batch(cameras).c2w[0, :, :3, 3].double().cpu()
    if len(positions) < 2:
        return None
    apart = torch.cdist(positions, positions).fill_diagonal_(math.inf).min(dim=1).values.median()
    scale = FRUSTUM_SHARE * float(apart) * VISER_NERFSTUDIO_SCALE_RATIO
    return scale if math.isfinite(scale) and scale > 0 else None


def photograph_distance(scale: float, intrinsics: Float[Tensor, "3 3"]) -> float:
    """Distance of the photograph from the tip of a frustum, in units of `scale`. viser draws equal volumes."""
    half_width, half_height = 0.5 / float(intrinsics[0, 0]), 0.5 / float(intrinsics[1, 1])
    return scale / (half_width * half_height / 3) ** (1 / 3)


def begin_without_frustums(viewer: Viewer) -> None:
    """Hide frustums until the user turns them on, because on a walk those ahead would cover the first picture."""
    draw = viewer.init_scene

    def draw_as_chosen(*args: Any, **options: Any) -> None:
        draw(*args, **options)
        if viewer.show_images.visible:
            viewer.set_camera_visibility(False)

    viewer.init_scene = draw_as_chosen  # type: ignore[method-assign]
    viewer.toggle_cameravis_button()


def draw_frustums(viewer: Viewer, pictures: SceneViews) -> None:
    """Draw the frustums of `pictures` instead of the previous ones."""
    for handle in getattr(viewer, "camera_handles", {}).values():
        handle.remove()
    trainer = viewer.trainer
    viewer.init_scene(pictures, "completed" if trainer is None else trainer.training_state)


def place_camera(client: viser.ClientHandle, cameras: Cameras, scale: float) -> None:
    """Put a browser's camera at the first of the scene's views, with its field of view, the horizon level.

    The camera is placed a little beyond the photograph in the frustum that is drawn there (of size `scale`, in the
    viewer's units). Otherwise it would see nothing but this photograph. It orbits a point ahead, whose distance is the
    spread of the cameras. On an upright canvas, the field of view is wider, so that the whole square is visible.
    """
    from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

    batch = nerfstudio_to_camera_batch(cameras)
    c2w = batch.c2w[0].double().cpu()
    forward = c2w[0, :3, 2]
    beyond = BEYOND_FRUSTUM * photograph_distance(scale, batch.intrinsics[0, 0]) / VISER_NERFSTUDIO_SCALE_RATIO
    position = c2w[0, :3, 3] + beyond * forward
    up = -c2w[:, :3, 1].mean(dim=0)
    if torch.linalg.vector_norm(up) < 0.5:  # cameras that are not held upright
        up = -c2w[0, :3, 1]
    ahead = position + max(camera_spread(c2w), LEAST_DISTANCE) * forward
    with client.atomic():
        client.camera.fov = fov_of_square(batch.intrinsics[0, 0], client.camera.aspect)
        client.camera.up_direction = (up / torch.linalg.vector_norm(up)).numpy()
        client.camera.position = (position * VISER_NERFSTUDIO_SCALE_RATIO).numpy()
        client.camera.look_at = (ahead * VISER_NERFSTUDIO_SCALE_RATIO).numpy()


def look_through(client: viser.ClientHandle, c2w: Float[Tensor, "4 4"], intrinsics: Float[Tensor, "3 3"]) -> None:
    """Put a browser's camera exactly where a square picture was taken, so that the canvas shows its whole view.

    Args:
        client: The browser.
        c2w: Camera-to-world, OpenCV axes, in the capture's units.
        intrinsics: Intrinsics of the square picture, divided by its side.
    """
    from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
    from viser.transforms import SO3

    pose = c2w.double().cpu()
    with client.atomic():
        client.camera.fov = fov_of_square(intrinsics, client.camera.aspect)
        client.camera.position = (pose[:3, 3] * VISER_NERFSTUDIO_SCALE_RATIO).numpy()
        client.camera.wxyz = SO3.from_matrix(pose[:3, :3].numpy()).wxyz


def fov_of_square(intrinsics: Float[Tensor, "3 3"], aspect: float) -> float:
    """Vertical field of view, in radians, of a canvas whose shorter side shows the whole square.

    `aspect` is the canvas's width divided by its height.
    """
    return 2 * math.atan(0.5 / float(intrinsics[1, 1]) / min(aspect, 1.0))


def full_size(aspect: float, most: int) -> tuple[int, int]:
    """Height and width of the picture at rest for a canvas, as Nerfstudio chooses them.

    `aspect` is the canvas's width divided by its height, positive and finite. Both sides are between 1 and `most`.
    """
    if aspect > 1:
        return max(int(most / aspect), 1), most
    return most, max(int(most * aspect), 1)
