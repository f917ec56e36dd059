"""A Gaussian splat of the scene, which the viewer draws in videos and, instead of previews, while the camera moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from scenetok_ns.data.camera_path_files import CameraPath
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.splats.gaussians import Gaussians, load_splat
from scenetok_ns.splats.rasterizer import render_splat, require_gsplat


class SplatPreview:
    """The splat of the displayed scene, if one is loaded."""

    def __init__(self) -> None:
        self._gaussians: Gaussians | None = None
        self._version = ""

    def load(self, path: Path, device: torch.device, version: str) -> int:
        """Load a splat of the scene `version`; it is not drawn for other scenes. Returns its number of Gaussians.

        Raises ImportError if gsplat cannot work, FileNotFoundError or ValueError for files that are not splats.
        """
        found = load_splat(path)
        require_gsplat()
        self._gaussians, self._version = found.to(device), version
        return len(found)

    def clear(self) -> None:
        self._gaussians = None

    def is_of(self, version: str) -> bool:
        """Whether a splat of the scene `version` is loaded."""
        return self._gaussians is not None and version == self._version

    def along(self, path: CameraPath) -> Iterator[Float[Tensor, "1 3 height width"]]:
        """Draw the frames of a path one by one. They are filled completely, because a splat needs no border."""
        gaussians = self._gaussians
        assert gaussians is not None, "asked for before it is used: is_of"
        (height, width), side = path.size, path.request.side
        intrinsics = path.intrinsics.clone()  # those of the squares from which pictures are cut; converted below
        intrinsics[:, 0, 0] *= side / width
        intrinsics[:, 1, 1] *= side / height
        for c2w, lens in zip(path.c2w, intrinsics, strict=True):
            camera = CameraBatch(c2w[None, None], lens[None, None]).to(gaussians.means.device)
            yield render_splat(gaussians, camera, path.size).rgb

    def picture(self, camera: Cameras, version: str) -> Float[Tensor, "height width 3"] | None:
        """Draw the splat for a one-camera slice at the camera's size; None if no splat of this scene is loaded."""
        gaussians = self._gaussians
        if gaussians is None or not self.is_of(version):
            return None
        size = int(camera.height.flatten()[0]), int(camera.width.flatten()[0])
        seen = nerfstudio_to_camera_batch(camera).to(gaussians.means.device)
        return render_splat(gaussians, seen, size).rgb[0].permute(1, 2, 0)
