"""Render scenes with one set of settings, for the tools, the viewer, the evaluation and the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from scenetok_ns.bridge.cameras import request_of
from scenetok_ns.bridge.evaluation_scenes import EvaluationScenes
from scenetok_ns.data.scenes import Views
from scenetok_ns.data.sources.photograph import GenerationInputs
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.flow.windows import RenderedFrames
from scenetok_ns.models.released_checkpoints import module_sha256
from scenetok_ns.models.rendered_depth import depth_windows, sweep_views
from scenetok_ns.models.scenegen import generate
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.path_renderer import PathRenderer
from scenetok_ns.rendering.pictures import picture_outputs, relative_uncertainty
from scenetok_ns.rendering.ray_outputs import RayOutputs
from scenetok_ns.rendering.seed_spread import SEEDS, is_by_seeds, spread
from scenetok_ns.rendering.token_renderer import TokenRenderer
from scenetok_ns.tools.seeds import named_generator, named_seed


@dataclass(frozen=True)
class AutoencoderFile:
    """Weight file of an autoencoder, for records."""

    path: Path
    sha256: str | None = None
    """SHA-256 with which the file was verified; None: it was not verified."""


class WeightsVersion:
    """Version number of the networks' weights, shared by all renderers of the same networks."""

    def __init__(self) -> None:
        self.number = 0

    def advance(self) -> None:
        """Call this when weights have changed, so that cached tokens and frames are no longer used."""
        self.number += 1


@dataclass(frozen=True, eq=False, kw_only=True)
class SceneRenderer(TokenRenderer):
    """Encodes, generates and renders evaluation scenes.

    Only its caches change between renders, and they are valid for one version of `weights`. For other settings or
    scenes, use `dataclasses.replace`: the new renderer shares the networks and has its own caches.

    >>> quick = replace(renderer, settings=replace(renderer.settings, sampler=replace(sampler, steps=4)))
    >>> frames = quick.render(quick.tokens_of(0), cameras)  # [f, 3, side, side] in [0, 1]
    """

    scenes: EvaluationScenes
    autoencoder_files: dict[str, AutoencoderFile] = field(default_factory=dict)
    """Role ("context", "target") -> file, for autoencoders that were loaded from one."""
    weights: WeightsVersion = field(default_factory=WeightsVersion)
    _tokens: dict[tuple[int, int], SceneTokens] = field(default_factory=dict, init=False, repr=False)
    """(scene, version of the weights) -> tokens."""

    encodes = True
    """Whether tokens depend on the context views."""

    @property
    def generates(self) -> bool:
        """Whether scenes are generated from a few photographs, not encoded."""
        return self.settings.scene_sampler is not None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all trained weights that pictures depend on."""
        return module_sha256(self.scenetok)

    # --- Tokens ---

    def tokens_of(self, scene: int, on_step: OnStep | None = None) -> SceneTokens:
        """Tokens of an evaluation scene: the stored ones, else encoded or generated on first use with current weights.

        `on_step` receives the progress of a generation. An exception that it raises ends the generation.
        """
        if (stored := self.scenes.stored_tokens(scene)) is not None:
            return stored.to(self.device)
        key = scene, self.weights.number
        if key not in self._tokens:
            conditions = self.scenes.conditions(scene)
            if conditions is None:
                tokens = self.tokens_from(self.scenes.context_views(scene), scene)
            else:
                tokens = self.generate(conditions, self.scenes.keys[scene], on_step)
            for old in [old for old in self._tokens if old[1] != key[1]]:
                del self._tokens[old]
            self._tokens[key] = tokens
        return self._tokens[key]

    def tokens_from(self, views: Views, scene: int) -> SceneTokens:
        """Encode an evaluation scene from the given views."""
        return self.encode_views(views, self.scenes.keys[scene], self.scenes.pose_scale(scene))

    def encode_views(self, views: Views, scene: str, pose_scale: float = 1.0) -> SceneTokens:
        """Encode posed photographs. `pose_scale` is the factor from their units to those of the training data."""
        cameras = CameraBatch(views.c2w[None], views.intrinsics[None]).to(self.device)
        images = views.images.to(self.device).float() / 255
        noise = self._latent_noise(self.settings.seed, scene)
        tokens = self.scenetok.encode(
            images, cameras, scene=scene, pose_scale=pose_scale, noise=noise, axes_checked=True
        )
        if self.settings.encoding != "published":
            return tokens
        return tokens.sample(named_seed("scene tokens", self.settings.seed, scene))

    def _latent_noise(self, seed: int, scene: str) -> torch.Generator | None:
        """Generator for drawing context latents; None: their means are used."""
        return None if self.settings.encoding == "mean" else named_generator("context latents", seed, scene)

    def generate(self, conditions: GenerationInputs, scene: str, on_step: OnStep | None = None) -> SceneTokens:
        """Generate the tokens of a scene from photographs and anchors."""
        views, anchors = conditions.views, conditions.anchors
        return generate(
            self.scenetok,
            views.images.to(self.device).float() / 255,
            CameraBatch(views.c2w[None], views.intrinsics[None]),
            CameraBatch(anchors[None], views.intrinsics[:1].expand(len(anchors), -1, -1)[None]),
            seed=self.settings.scene_seed,
            sampler=self.settings.scene_sampler,
            scene=scene,
            pose_scale=conditions.pose_scale,
            noise=self._latent_noise(self.settings.scene_seed, scene),
            on_step=on_step,
        )

    # --- Pictures ---

    @torch.no_grad()
    def outputs(self, camera: Cameras) -> dict[str, Tensor]:
        """Return the outputs that Nerfstudio's tools expect for a one-camera slice, at exactly the camera's size."""
        wide, key = self.settings.wide, str(self.weights.number)
        frame = self.path_renderer.frame(camera, self.scenes.active, key, wide)
        request = request_of(camera, wide)
        rgb = request.fit(frame.picture[None])[0].permute(1, 2, 0).clamp(0, 1)

        def uncertainty() -> Float[Tensor, "height width 1"]:
            if not is_by_seeds(self.preset, self.settings.sampler):
                channels = latent_space(self.preset.target_autoencoder).channels
                square = relative_uncertainty(frame.uncertainty, channels)
            else:
                others = [one.frame(camera, self.scenes.active, key, wide).picture for one in self._other_seeds]
                square = spread(torch.stack([frame.picture, *others]))
            return request.fit(square[None, None])[0].permute(1, 2, 0)

        return picture_outputs(rgb, uncertainty, request, frame.depth)

    @cached_property
    def ray_outputs(self) -> RayOutputs:
        """Outputs for exporters: for rays of the active scene's context views."""
        scene = self.scenes.active
        cameras = self.scenes.context_set.cameras.to(self.device)
        return RayOutputs(cameras, lambda batch: self.render_with_depth(self.tokens_of(scene), batch))

    @cached_property
    def path_renderer(self) -> PathRenderer:
        """Renderer of the paths to which one-camera slices belong."""
        layout = latent_space(self.preset.target_autoencoder).layout
        return PathRenderer(self._sample, layout, self._sweep, self.tokens_of)

    @cached_property
    def _other_seeds(self) -> list[PathRenderer]:
        """Frames of the same paths from further seeds; they are sampled only if they are asked for."""
        layout = latent_space(self.preset.target_autoencoder).layout
        further = range(1, SEEDS)
        return [PathRenderer(partial(self._sample, further=n), layout, self._sweep, self.tokens_of) for n in further]

    def _sample(
        self, scene: int, cameras: CameraBatch, on_step: Callable[[int, int], None], further: int = 0
    ) -> Iterator[RenderedFrames]:
        seed = self.settings.seed + further
        return self.windows(self.tokens_of(scene, on_step), cameras, on_step, depth=not further, seed=seed)

    def _sweep(
        self, scene: int, frames: Float[Tensor, "n 3 side side"], cameras: CameraBatch, number: int
    ) -> DepthMaps:
        settings = self.settings
        return sweep_views(
            self.networks, self.tokens_of(scene), frames, cameras, [number], settings.sampler, settings.seed
        )

    @torch.no_grad()
    def render_with_depth(
        self, tokens: SceneTokens, cameras: CameraBatch, on_step: OnStep | None = None
    ) -> tuple[Float[Tensor, "f 3 side side"], DepthMaps]:
        """Render all frames of a path, and their depth along the optical axis in units of the capture."""
        here, settings = cameras.to(self.device), self.settings
        windows = list(
            depth_windows(self.networks, tokens, here, seed=settings.seed, sampler=settings.sampler, on_step=on_step)
        )
        maps = [window.maps for window in windows if window.maps is not None]
        depth, confidence = (torch.cat([part[0] for part in parts]) for parts in zip(*maps, strict=True))
        return torch.cat([window.frames[0] for window in windows]), DepthMaps(depth, confidence)
