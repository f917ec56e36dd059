"""A photograph of the scene as another output beside the model's picture, and the difference between the two."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from scenetok_ns.bridge.cameras import square_cameras
from scenetok_ns.data.scenes import Scene
from scenetok_ns.data.square_pictures import PictureRequest
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.metrics import picture_metrics
from scenetok_ns.viewer.shown_scene import ShownScene
from scenetok_ns.viewer.view_cache import View

PHOTOGRAPH, DIFFERENCE = "photograph", "difference"
OUTPUTS = (PHOTOGRAPH, DIFFERENCE)
SAME_PLACE = 1e-3
"""Maximum difference of pose entries, in units of the capture, for a camera to count as that of a photograph."""
NOTHING = 0.25
"""Grey that stands for a missing photograph."""


class Comparison:
    """The photograph that pictures are compared with: the model's first context view, or a chosen view."""

    def __init__(self, shown: ShownScene, side: int) -> None:
        """`side`: Side of the model's pictures in pixels."""
        self._shown, self._side = shown, side
        self.chosen: int | None = None
        self.wanted: Callable[[], set[str]] = set
        """Returns the outputs that are displayed; others are not computed."""
        self.measured: Callable[[int, float], None] = lambda index, psnr: None
        """Receives the PSNR of pictures in full quality that were rendered for the photograph's camera."""
        self._loaded: tuple[Scene, int, Float[Tensor, "3 s s"], CameraBatch] | None = None

    @property
    def index(self) -> int | None:
        """Number of the photograph in its scene; None: there are no photographs."""
        found = self._shown.photographs
        if found is None:
            return None
        scene, given = found
        return self.chosen if self.chosen is not None and self.chosen < scene.num_frames else given[0]

    def photograph(self, *, at_start: bool = False) -> tuple[Float[Tensor, "3 s s"], CameraBatch] | None:
        """The photograph's square crop in [0, 1] and its camera, a batch of one; None: there are no photographs.

        `at_start`: The photograph where browsers start, the first context view, instead of the chosen one.
        """
        found, index = self._shown.photographs, self.index
        if found is None or index is None:
            return None
        scene, index = found[0], found[1][0] if at_start else index
        loaded = self._loaded  # of another thread, too
        if loaded is None or loaded[0] is not scene or loaded[1] != index:
            views = scene.load_views([index], (self._side, self._side))
            camera = CameraBatch(views.c2w[None], views.intrinsics[None])
            self._loaded = loaded = scene, index, views.images[0].float() / 255, camera
        return loaded[2:]

    def add(self, outputs: dict[str, Tensor], camera: Cameras, request: PictureRequest) -> dict[str, Tensor]:
        """Add the photograph and the difference to it to the outputs of a one-camera slice.

        The outputs are changed in place, because copying them would compute depth, which is only computed on demand.
        """
        rgb = outputs["rgb"]
        wanted = self.wanted() & set(OUTPUTS)
        found = self.photograph() if wanted else None
        if found is None:
            nothing = torch.full_like(rgb, NOTHING) if wanted else rgb
            outputs[PHOTOGRAPH] = nothing
            outputs[DIFFERENCE] = torch.zeros_like(rgb[..., :1]) if wanted else rgb[..., :1]
            return outputs
        square = nerfstudio_to_camera_batch(square_cameras(camera, request.wide)).to("cpu")
        picture, taken = found
        fitted = request.fit(picture[None], taken.intrinsics[0, 0], square.intrinsics[0, 0])[0]
        photograph = fitted.permute(1, 2, 0).clamp(0, 1).to(rgb)
        difference = (rgb - photograph).abs().mean(dim=-1, keepdim=True)
        if request.wide == "border":
            difference = difference * request.inside(rgb.device)[..., None].to(rgb.dtype)
            photograph = request.with_border(photograph)
        outputs[PHOTOGRAPH], outputs[DIFFERENCE] = photograph, difference
        return outputs

    def measure(self, view: View) -> None:
        """Report the PSNR of a picture if it was rendered for the camera of the chosen photograph."""
        if self.chosen is None or (found := self.photograph()) is None:
            return
        picture, taken = found
        pose, lens = view.camera.c2w[0, 0], view.camera.intrinsics[0, 0]
        near = (pose - taken.c2w[0, 0]).abs().max() < SAME_PLACE and (
            (lens[:2, :2] / taken.intrinsics[0, 0, :2, :2].clamp(min=1e-6))[[0, 1], [0, 1]] - 1
        ).abs().max() < 0.02
        if not near:
            return
        psnr = float(picture_metrics(pred=view.picture[None].float().cpu(), target=picture[None])["psnr"].mean())
        if math.isfinite(psnr):
            self.measured(self.chosen, psnr)
