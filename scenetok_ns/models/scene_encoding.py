"""Encode the photographs of one or several scenes to scene tokens, and add photographs to a scene later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch, relative_cameras
from scenetok_ns.models.engine.engine import RenderingEngine
from scenetok_ns.models.flow.windows import join_paths
from scenetok_ns.models.inputs import as_images, check_axes, check_cameras, check_scale, check_views, warn_of_units
from scenetok_ns.models.networks.compressor import TokenDistribution
from scenetok_ns.models.ops.finite import require_finite
from scenetok_ns.models.quirks import network_cameras
from scenetok_ns.models.scenetok_networks import SceneTokNetworks
from scenetok_ns.models.tokens import SceneTokens, check_tokens

if TYPE_CHECKING:
    from scenetok_ns.models.inputs import Pictures

Photographs = Float[Tensor, "b v 3 height width"]


class SceneEncoder(SceneTokNetworks):
    """Networks that encode photographs of scenes."""

    @torch.no_grad()
    def encode(
        self,
        images: Pictures,
        cameras: CameraBatch,
        *,
        scene: str = "",
        pose_scale: float | None = None,
        sources: tuple[str, ...] = (),
        noise: torch.Generator | None = None,
        autocast: bool | None = None,
        keep_latents: bool = False,
        axes_checked: bool = False,
    ) -> SceneTokens:
        """Encode the photographs of one scene.

        The tokens are the means of the compressor's Gaussians. The photographs' latents are means, too, unless `noise`
        is given. Poses are taken relative to the middle view (index v // 2), as in the published evaluation.

        Args:
            images: Context views [v, 3, height, width] or [v, height, width, 3] of the model's size (`image_size`):
                tensor or NumPy array, uint8 in 0 to 255 or floating-point in [0, 1]; or a list of PIL pictures.
                Crop pictures of other sizes with `square_views`.
            cameras: CameraBatch of shape [1, v]: OpenCV camera-to-world poses in capture units, intrinsics divided by
                image width and height.
            scene: Name of the scene, saved with the tokens.
            pose_scale: Factor from capture units to training units, here and in `render`, such as
                `pose_scale_of(cameras, model.preset)`. None: 1, with a warning if the cameras spread over three
                times as much as those of the training scenes, or less than a third.
            sources: SHA-256 of the photographs, saved with the tokens.
            noise: Random generator for sampling the latents of VA-VAE. None: take their means.
            autocast: Run the compressor in bfloat16. None: on CUDA only.
            keep_latents: Keep the photographs' latents in the tokens, for `add_views`.
            axes_checked: Accept poses that look like OpenGL's, because you know that they are OpenCV's.

        Returns:
            Tokens on the model's device: mean and log-variance [n, dim].

        Raises:
            ValueError: Numbers or sizes of images and cameras do not fit; images are outside [0, 1]; intrinsics are in
                pixels; poses are not rigid, or look like OpenGL's; any number is NaN or infinite.

        >>> cameras = CameraBatch(c2w[None], intrinsics[None])  # c2w [v, 4, 4], intrinsics [v, 3, 3]
        >>> tokens = model.encode(images, cameras, pose_scale=pose_scale_of(cameras, model.preset))
        """
        views = self._checked_views(images, cameras, "encode", axes_checked)
        if pose_scale is None:
            pose_scale = 1.0
            warn_of_units(cameras, self.preset, "encode", 4)  # no_grad is between
        check_scale(pose_scale, "encode")
        reference = cameras.c2w[:, len(views) // 2]
        if keep_latents:
            latents = self._latents(views, noise, autocast)
            return self._compressed(latents, cameras, reference[0], scene, pose_scale, sources, autocast)
        posed = relative_cameras(cameras, reference, pose_scale).to(self.device)
        found = self.encode_views(views[None].to(self.device), posed, noise=noise, autocast=autocast)
        return self._tokens(found, cameras, reference[0], scene, pose_scale, sources, None)

    def encode_many(
        self,
        images: Sequence[Pictures],
        cameras: Sequence[CameraBatch],
        *,
        scenes: Sequence[str] | None = None,
        pose_scale: float | Sequence[float] | None = None,
        autocast: bool | None = None,
        axes_checked: bool = False,
    ) -> list[SceneTokens]:
        """Encode several scenes, which may have different numbers of views. Each result is what `encode` returns.

        Args:
            images: Context views of each scene, as in `encode`; or one tensor or array [b, v, ...].
            cameras: Cameras of each scene: batches of one; or one CameraBatch of shape [b, v].
            scenes: Names of the scenes, saved with the tokens.
            pose_scale: As in `encode`, for all scenes, or one for each scene.
            autocast: As in `encode`.
            axes_checked: As in `encode`.

        Raises:
            ValueError: There are not as many cameras, names or scales as scenes; otherwise as in `encode`.
        """
        if isinstance(cameras, CameraBatch):
            cameras = [
                CameraBatch(*each) for each in zip(cameras.c2w.split(1), cameras.intrinsics.split(1), strict=True)
            ]
        names = [""] * len(images) if scenes is None else list(scenes)
        given = pose_scale is None or np.ndim(pose_scale) == 0
        scales = [pose_scale] * len(images) if given else list(pose_scale)  # type: ignore[arg-type]
        if not len(images) == len(cameras) == len(names) == len(scales):
            raise ValueError(
                f"encode_many: expected cameras, a name and a pose scale for each scene, got {len(images)} scenes, "
                f"{len(cameras)} sets of cameras, {len(names)} names and {len(scales)} pose scales"
            )
        options: dict[str, Any] = {"autocast": autocast, "axes_checked": axes_checked}
        tokens = []
        for views, posed, name, scale in zip(images, cameras, names, scales, strict=True):
            factor = 1.0 if scale is None else float(scale)  # type: ignore[arg-type]
            tokens.append(self.encode(views, posed, scene=name, pose_scale=factor, **options))
            if scale is None:
                warn_of_units(posed, self.preset, "encode_many", 3)
        return tokens

    @torch.no_grad()
    def add_views(
        self,
        tokens: SceneTokens,
        images: Pictures,
        cameras: CameraBatch,
        *,
        sources: tuple[str, ...] = (),
        autocast: bool | None = None,
        axes_checked: bool = False,
    ) -> SceneTokens:
        """Encode a scene again with additional photographs.

        The first photographs are not needed: their latents are in the tokens. The compressor sees all views again, so
        this is as good as encoding them at once. On six rooms with the 64-pixel scenetok-tiny of version 0.1, twelve
        views at once gave 21.27 dB PSNR. Six views and then six more gave 21.27 dB if the later views lie between the
        first ones, and 21.34 dB if they continue the walk.

        Args:
            tokens: Tokens of `encode(..., keep_latents=True)`, or of an earlier `add_views`.
            images: The new views, as in `encode`.
            cameras: Cameras of the new views, as in `encode`, in the units and axes of the first ones.
            sources: SHA-256 of the new photographs, saved with the tokens.
            autocast: As in `encode`.
            axes_checked: As in `encode`.

        Returns:
            Tokens of all views so far, with their latents. The reference camera stays, so paths still fit.

        Raises:
            ValueError: The tokens keep no latents, or are of another preset; otherwise as in `encode`.

        >>> tokens = model.encode(images, cameras, pose_scale=pose_scale, keep_latents=True)
        >>> tokens = model.add_views(tokens, more_images, more_cameras)
        """
        check_tokens(tokens, self.preset)
        if tokens.latents is None or tokens.cameras_c2w is None or tokens.cameras_intrinsics is None:
            raise ValueError("add_views: these tokens keep no latents: encode with keep_latents=True")
        views = self._checked_views(images, cameras, "add_views", axes_checked)
        latents = torch.cat([tokens.latents.to(self.device), self._latents(views, None, autocast)])
        known = CameraBatch(tokens.cameras_c2w[None].cpu(), tokens.cameras_intrinsics[None].cpu())
        together = join_paths(known, cameras.to("cpu"))
        reference = tokens.reference_c2w
        every = (*tokens.sources, *sources) if tokens.sources and sources else ()
        return self._compressed(latents, together, reference, tokens.scene, tokens.pose_scale, every, autocast)

    def _checked_views(
        self, images: Pictures, cameras: CameraBatch, caller: str, axes_checked: bool
    ) -> Float[Tensor, "v 3 height width"]:
        self.warn_if_untrained()
        views = as_images(images, caller)
        check_views(views, cameras, self.image_size, caller)
        check_cameras(cameras, caller)
        if not axes_checked:
            check_axes(cameras, caller)
        return views

    def _latents(self, views: Tensor, noise: torch.Generator | None, autocast: bool | None) -> Float[Tensor, "v c h w"]:
        return self.encode_images(views[None].to(self.device), self.engine_for(autocast), noise)[0]

    def _compressed(
        self,
        latents: Float[Tensor, "v c h w"],
        cameras: CameraBatch,
        reference: Float[Tensor, "4 4"],
        scene: str,
        pose_scale: float,
        sources: tuple[str, ...],
        autocast: bool | None,
    ) -> SceneTokens:
        """Compress known latents to tokens, which keep the latents."""
        self.engine_for(False)  # moves the networks back to the device
        relative = relative_cameras(cameras, reference.to(cameras.c2w)[None], pose_scale).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocasts(autocast)):
            found = self.compressor(latents[None], network_cameras(relative, "context", self.preset))
        return self._tokens(found, cameras, reference, scene, pose_scale, sources, latents)

    def _tokens(
        self,
        found: TokenDistribution,
        cameras: CameraBatch,
        reference: Float[Tensor, "4 4"],
        scene: str,
        pose_scale: float,
        sources: tuple[str, ...],
        latents: Float[Tensor, "v c h w"] | None,
    ) -> SceneTokens:
        require_finite(found.mean, f"the tokens of {scene or 'the scene'}")
        return SceneTokens(
            mean=found.mean[0],
            logvar=found.logvar[0],
            reference_c2w=reference.float().to(self.device),
            preset=self.preset.name,
            scene=scene,
            pose_scale=pose_scale,
            sources=sources,
            cameras_c2w=cameras.c2w[0].float().to(self.device),
            cameras_intrinsics=cameras.intrinsics[0].float().to(self.device),
            latents=latents,
        )

    def encode_views(
        self,
        images: Photographs,
        cameras: CameraBatch,
        *,
        noise: torch.Generator | None = None,
        autocast: bool | None = None,
    ) -> TokenDistribution:
        """Encode a batch of scenes to distributions of tokens, with gradients if they are on, to train the compressor.

        Unlike `encode`, it takes cameras in the form in which the networks see them, and checks nothing.

        Args:
            images: Context views [b, v, 3, height, width] of the model's size in [0, 1], floating-point, on the model's
                device.
            cameras: CameraBatch of shape [b, v] on the model's device: OpenCV camera-to-world poses in the axes of each
                scene's reference camera and in units of the training data, intrinsics divided by image width and
                height. `relative_cameras(cameras, reference_c2w, pose_scale)` of `scenetok_ns.models.cameras` makes
                them; `encode` takes the middle view (index v // 2) as reference.
            noise: Random generator for sampling the latents of VA-VAE. None: take their means.
            autocast: Run the compressor in bfloat16. None: on CUDA only.

        Returns:
            Gaussians of the tokens: `mean` and `logvar` [b, n, dim].

        >>> posed = relative_cameras(cameras, cameras.c2w[:, 6], pose_scale)
        >>> found = model.encode_views(images[None], posed.to(model.device))
        """
        posed = network_cameras(cameras, "context", self.preset)
        # Called with gradients, too: with low_vram, the networks may have to come back from CPU memory.
        engine = self.engine_for(False if torch.is_grad_enabled() else autocast)
        if engine is not None:
            autoencoder = self._autoencoder(0, engine)
            parameters = engine.gaussian_parameters(self.compressor, autoencoder, images, posed, noise)
            return TokenDistribution.from_parameters(parameters)
        latents = self.encode_images(images, None, noise)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocasts(autocast)):
            return self.compressor(latents, posed)

    @torch.no_grad()
    def encode_images(
        self, images: Photographs, engine: RenderingEngine | None, noise: torch.Generator | None = None
    ) -> Float[Tensor, "b v c h w"]:
        """Encode context or condition views to latents, with the engine if there is one."""
        if engine is None:
            return self.context_autoencoder.encode(images, noise=noise)
        return engine.encode(self._autoencoder(0, engine), images, noise)
