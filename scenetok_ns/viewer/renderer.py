"""Pictures for the viewer: previews while the camera moves, full quality at rest, and never an exception.

The viewer asks for each pose several times, in a thread for each browser, one render at a time (it holds a lock). A
pose is sampled once with the few steps of a preview and once with all steps, from the same noise and the same earlier
views, so that the picture at rest refines the preview. If the networks can stream, a stream renders the previews.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from threading import Thread, current_thread
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from torch import Tensor

from scenetok_ns.bridge.cameras import request_of, square_cameras
from scenetok_ns.bridge.viewer_threads import RenderThread, Untraced
from scenetok_ns.data.square_pictures import Aspect, PictureRequest
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.flow.windows import CleanViews, OnFrame
from scenetok_ns.models.presets import SamplerConfig
from scenetok_ns.models.rendered_depth import sweep_views
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.pictures import FAR, ViewDepth, for_display, picture_outputs, relative_uncertainty
from scenetok_ns.rendering.scene_renderer import SceneRenderer
from scenetok_ns.rendering.seed_spread import SEEDS, is_by_seeds, render_spread
from scenetok_ns.viewer.comparison import DIFFERENCE, PHOTOGRAPH, Comparison
from scenetok_ns.viewer.estimates import EstimateCost, Estimates
from scenetok_ns.viewer.memory import SpareMemory
from scenetok_ns.viewer.message_picture import ERROR, NOTE, message_picture, with_caption
from scenetok_ns.viewer.shown_scene import NotReadyError, Shown, ShownScene
from scenetok_ns.viewer.splat_preview import SplatPreview
from scenetok_ns.viewer.stream_preview import StreamPreview
from scenetok_ns.viewer.view_cache import View, ViewCache

logger = logging.getLogger(__name__)

SEEDS_MOVING = 2
"""Number of seeds for the uncertainty while the camera moves; `SEEDS` at rest."""
ENCODING_PAUSE = 0.3
"""Minimum seconds between pictures that show the progress of an encoding."""


@dataclass(frozen=True)
class ViewSettings:
    """How the viewer's pictures are made."""

    rest: SamplerConfig
    moving: SamplerConfig
    seed: int = 0
    previous_views: int = 1
    """Maximum number of earlier views that a new one continues from; 0: render each view alone, as ns-render does."""
    num_tokens: int | None = None
    """Number of tokens of the scene to use; None: all."""
    wide: Aspect = "border"

    @classmethod
    def of(cls, renderer: SceneRenderer) -> ViewSettings:
        """Begin with the settings of the tools, and previews of a few steps that continue from one earlier view."""
        settings, layout = renderer.settings, latent_space(renderer.preset.target_autoencoder).layout
        rest = settings.sampler
        preview = settings.preview_steps or (4 if renderer.device.type == "cuda" else 2)
        return cls(
            rest=rest,
            moving=replace(rest, steps=min(preview, rest.steps)),
            seed=settings.seed,
            previous_views=min(1, most_previous_views(rest, layout.latents_per_chunk)),
            wide=settings.wide,
        )


class ViewerRenderer:
    """Pictures of `scene` for the viewer's threads. `settings` may be replaced at any time between two renders."""

    def __init__(self, renderer: SceneRenderer) -> None:
        self.renderer, self.scene = renderer, ShownScene(renderer)
        self._space = latent_space(renderer.preset.target_autoencoder)
        self.settings = ViewSettings.of(renderer)
        self.comparison = Comparison(self.scene, renderer.preset.data.image_size)
        self.views = ViewCache()
        self._estimate_cost = EstimateCost()
        self.splat, self.stream = SplatPreview(), StreamPreview()
        self._sent: WeakKeyDictionary[Thread, tuple[View, PictureRequest]] = WeakKeyDictionary()
        """View and request that each thread last sent to its browser."""
        self._interruptions = 0
        self._memory = SpareMemory()

    def interrupt(self) -> None:
        """Abort the current render at its next step. The caller must trigger a re-render."""
        self._interruptions += 1

    def outputs(self, camera: Cameras) -> dict[str, Tensor]:
        """Render a one-camera slice at exactly the camera's size. If anything fails, the picture shows the message.

        Raises IOChangeException, with which the viewer interrupts a render, and nothing else.
        """
        thread, before, request = RenderThread(), self._interruptions, request_of(camera, self.settings.wide)
        with Untraced() as untraced:

            def on_step(done: int, total: int) -> None:
                untraced.check()
                thread.check()
                if self._interruptions != before:
                    raise IOChangeException
                if thread.others_move():
                    thread.ask_again()
                    raise IOChangeException

            if thread.adopt(for_display) and thread.starts_over():
                raise IOChangeException
            try:
                outputs = self._pictures(camera, request, thread, on_step)
            except IOChangeException:
                raise
            except NotReadyError as note:
                outputs = self._waiting(str(note), request)
            except Exception as error:
                logger.exception("rendering for the viewer failed")
                if isinstance(error, torch.OutOfMemoryError):
                    self.views.clear()
                    torch.cuda.empty_cache()
                outputs = self._message(str(error) or type(error).__name__, request, ERROR)
            self._memory.maybe_return()
            thread.go_on()
            thread.catch_up(camera.camera_to_worlds[0])
        return outputs

    def picture(self, camera: Cameras) -> Float[Tensor, "height width 3"]:
        """Render a one-camera slice in full quality, in [0, 1]. Errors are raised."""
        request = request_of(camera, self.settings.wide)
        square = nerfstudio_to_camera_batch(square_cameras(camera, request.wide)).to("cpu")
        view = self._view(square, min(request.height, request.width), False, lambda done, total: None)
        return self._fitted(view, square, request)["rgb"]

    def photograph(self, height: int, width: int) -> Float[Tensor, "height width 3"] | None:
        """Return the photograph where the camera starts, in [0, 1] on the CPU; None: there is none."""
        framed = self._photograph(PictureRequest(height, width, self.settings.wide))
        waits = self.scene.ready and not self.scene.is_encoded
        return with_caption(framed, self._encoding()) if waits and framed is not None else framed

    def _pictures(
        self, camera: Cameras, request: PictureRequest, thread: RenderThread, on_step: OnStep
    ) -> dict[str, Tensor]:
        """Render all outputs of a camera. Raises IOChangeException for a preview that this browser just received."""
        if not self.scene.is_encoded and self.scene.ready:
            if thread.moving:
                return self._waiting(self._encoding(), request)
            self._encode(thread, request)
            if thread.starts_over():  # the preview comes first
                raise IOChangeException
        if thread.moving and (drawn := self.splat.picture(camera, self.scene.current(on_step).version)) is not None:
            outputs = picture_outputs(drawn, drawn.new_zeros(*drawn.shape[:2], 1), None)
            return self.comparison.add(outputs, camera, request)
        square = nerfstudio_to_camera_batch(square_cameras(camera, request.wide)).to("cpu")
        estimates = None if thread.moving else self._estimates(thread, camera, request)
        view = self._view(square, min(request.height, request.width), thread.moving, on_step, estimates)
        last, self._sent[current_thread()] = self._sent.get(current_thread()), (view, request)
        if thread.waiting and last == (view, request):
            thread.go_on()
            raise IOChangeException
        if not thread.moving:
            self.comparison.measure(view)
        depth = self._depth(view, thread.moving, on_step)
        outputs = self._fitted(view, square, request, depth, self._uncertainty(view, thread.moving, on_step))
        return self.comparison.add(outputs, camera, request)

    def _fitted(
        self,
        view: View,
        square: CameraBatch,
        request: PictureRequest,
        depth: ViewDepth | None = None,
        doubt: Tensor | None = None,
    ) -> dict[str, Tensor]:
        fitting = view.camera.intrinsics[0, 0], square.intrinsics[0, 0]
        rgb = request.fit(view.picture[None], *fitting)[0].permute(1, 2, 0).clamp(0, 1)
        doubt = view.uncertainty if doubt is None else doubt
        uncertainty = request.fit(doubt[None, None], *fitting)[0].permute(1, 2, 0)
        return picture_outputs(rgb, uncertainty, request, depth, *fitting)

    def _depth(self, view: View, moving: bool, on_step: OnStep) -> ViewDepth | None:
        """Depth of a view, computed when it is read. None for previews without a depth head: they show a far plane."""
        shown, seed = self.scene.current(on_step), self.settings.seed
        if view.maps is None and moving:
            return None

        def find() -> DepthMaps:
            if view.maps is not None:
                return view.maps
            if not view.swept:
                view.swept.append(sweep())
            return view.swept[0]

        def sweep() -> DepthMaps:
            try:
                around = shown.networks, shown.tokens, view.picture[None], view.camera, [0], view.sampler, seed
                return sweep_views(*around, latents=view.latents)
            except Exception:  # an error here would end the viewer's thread
                logger.exception("finding depth for the viewer failed")
                far = torch.full_like(view.picture[None, :1], FAR)
                return DepthMaps(far, torch.zeros_like(far))

        return ViewDepth(find, view.camera, shown.tokens)

    def _uncertainty(self, view: View, moving: bool, on_step: OnStep) -> Tensor:
        """Uncertainty of a view. A spread of seeds is rendered only while the output `uncertainty` is displayed."""
        by_seeds = is_by_seeds(self.renderer.preset, view.sampler)
        if not by_seeds or "uncertainty" not in self.comparison.wanted():
            return view.uncertainty
        shown, seed = self.scene.current(on_step), self.settings.seed
        tokens, count = self._tokens(shown), SEEDS_MOVING if moving and SEEDS not in view.spreads else SEEDS
        if count not in view.spreads:
            view.spreads[count] = render_spread(
                shown.networks, tokens, view.camera, seed=seed, sampler=view.sampler, count=count, on_step=on_step
            )
        return view.spreads[count]

    def _estimates(self, thread: RenderThread, camera: Cameras, request: PictureRequest) -> OnFrame | None:
        """Return a callback that shows estimates of a picture; None if a displayed output has no estimates."""
        if self.comparison.wanted() - {"rgb", PHOTOGRAPH, DIFFERENCE}:
            return None

        def show(picture: Float[Tensor, "3 side side"]) -> None:
            rgb = request.fit(picture[None])[0].permute(1, 2, 0)
            outputs = picture_outputs(rgb, torch.zeros_like(rgb[..., :1]), request)
            thread.show(self.comparison.add(outputs, camera, request))

        return Estimates(self._estimate_cost, show).on_frame

    def _view(
        self, camera: CameraBatch, short_side: int, moving: bool, on_step: OnStep, on_frame: OnFrame | None = None
    ) -> View:
        shown, settings = self.scene.current(on_step), self.settings
        key = f"{shown.version}|{settings.seed}|{settings.num_tokens}|{settings.previous_views}"
        wanted = [settings.rest, settings.moving] if moving else [settings.rest]
        found = self.views.find(key, wanted, camera, short_side)
        if moving and settings.previous_views and (found is None or found.sampler != settings.rest):
            on_step(0, 1)
            found = self.stream.view(shown, self._tokens(shown), key, settings.moving, settings.seed, camera) or found
        if found is None:
            on_step(0, wanted[-1].steps)  # raises now if the render would be aborted at its first step
            before = self.views.near(key, settings.rest, camera, self._room(), self._reach(shown.tokens))
            found = self._sampled(shown, key, wanted[-1], camera, before, on_step, on_frame)
            self.views.add(found)
        return found

    def _sampled(
        self,
        shown: Shown,
        key: str,
        sampler: SamplerConfig,
        camera: CameraBatch,
        before: list[View],
        on_step: OnStep,
        on_frame: OnFrame | None,
    ) -> View:
        settings, space, tokens, networks = self.settings, self._space, self._tokens(shown), shown.networks
        windows = networks.render_windows(
            tokens,
            camera.to(networks.device),
            seed=settings.seed,
            sampler=sampler,
            clean=clean_views(before, space.layout.frames_per_chunk),
            on_step=on_step,
            depth=True,
            on_frame=on_frame,
        )
        part = next(windows)
        denoised = part.denoised[0]
        return View(
            settings=key,
            sampler=sampler,
            camera=camera,
            picture=part.frames[0, 0].clone(),  # of a window, which would stay in memory with a part of it
            latents=denoised.latents[:, : space.layout.latents_per_chunk].clone(),
            uncertainty=relative_uncertainty(denoised.uncertainty[0, -denoised.window_first], space.channels),
            maps=None if part.maps is None else DepthMaps(*(maps[0, :1].clone() for maps in part.maps)),
        )

    def _tokens(self, shown: Shown) -> SceneTokens:
        """The scene's tokens, cut to the number in the settings."""
        count = self.settings.num_tokens
        return shown.tokens if count is None else shown.tokens.subset(min(count, len(shown.tokens.mean)))

    def _room(self) -> int:
        """Number of earlier views that fit into the window beside the new view."""
        chunk = self._space.layout.latents_per_chunk
        return min(self.settings.previous_views, most_previous_views(self.settings.rest, chunk))

    def _reach(self, tokens: SceneTokens) -> float:
        """Distance in capture units that changes a view as much as turning by one radian."""
        return 1 / tokens.pose_scale

    def _message(self, message: str, request: PictureRequest, background: tuple[int, int, int]) -> dict[str, Tensor]:
        rgb = message_picture(message, request.height, request.width, background).to(self.renderer.device)
        return self._all_alike(rgb)

    def _encode(self, thread: RenderThread, request: PictureRequest) -> None:
        """Encode the scene and show the progress. Moves of the camera do not abort the encoding."""
        last = time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal last
            if done < total and time.monotonic() >= last + ENCODING_PAUSE:
                last = time.monotonic()
                thread.show(self._waiting(self._encoding(), request, done / total))

        self.scene.current(report)

    def _encoding(self) -> str:
        return f"encoding {len(self.scene.given)} views of {self.scene.title} ..."

    def _waiting(self, message: str, request: PictureRequest, share: float | None = None) -> dict[str, Tensor]:
        """Show the photograph where the camera starts, with a message and, given `share`, a progress bar."""
        framed = self._photograph(request)
        if framed is None:
            return self._message(message, request, NOTE)
        return self._all_alike(with_caption(framed, message, share).to(self.renderer.device))

    def _photograph(self, request: PictureRequest) -> Float[Tensor, "height width 3"] | None:
        found = self.comparison.photograph(at_start=True)
        if found is None:
            return None
        square = request.fit(found[0][None])[0].permute(1, 2, 0).clamp(0, 1)
        return request.with_border(square) if request.wide == "border" else square

    @staticmethod
    def _all_alike(rgb: Tensor) -> dict[str, Tensor]:
        """Return a picture that is not a view as all outputs, so that it is visible whichever output is displayed."""
        outputs = picture_outputs(rgb, rgb.mean(dim=-1, keepdim=True), None)
        outputs |= {PHOTOGRAPH: rgb, DIFFERENCE: outputs["uncertainty"]}
        return outputs


def most_previous_views(sampler: SamplerConfig, latents_per_chunk: int) -> int:
    """Maximum number of earlier views that the sampler's window has room for."""
    return sampler.clean_targets // latents_per_chunk


def clean_views(views: list[View], frames_per_chunk: int) -> CleanViews | None:
    """Turn views into the beginning of a path: a chunk of frames from the camera of each view."""
    if not views:
        return None
    c2w, intrinsics = (
        torch.cat([getattr(view.camera, name).expand(-1, frames_per_chunk, -1, -1) for view in views], dim=1)
        for name in ("c2w", "intrinsics")
    )
    return CleanViews(torch.cat([view.latents for view in views], dim=1), CameraBatch(c2w, intrinsics))
