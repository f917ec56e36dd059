"""Render scenes with one set of settings, for the tools, the viewer, the evaluation and the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
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
from scenetok_ns.rendering.token_renderer import TokenRenderer
from scenetok_ns.tools.seeds import named_generator, named_seed


@dataclass(frozen=True)
class AutoencoderFile:
    """Weight file of an autoencoder, for records."""

    path: Path
    sha256: str | None = None
    """SHA-256 that the file was checked for, if it was."""


class WeightsVersion:
    """Number of the networks' present weights. Renderers of the same networks share one."""

    def __init__(self) -> None:
        self.number = 0

    def advance(self) -> None:
        """Call this when weights have changed: tokens and frames made before are out of date."""
        self.number += 1


@dataclass(frozen=True, eq=False, kw_only=True)
class SceneRenderer(TokenRenderer):
    """Encodes, generates and renders evaluation scenes.

    Nothing in it changes between renders but its caches, which follow `weights`. Get one with other settings or scenes
    from `dataclasses.replace`: it shares the networks, and has caches of its own.

    >>> quick = replace(renderer, settings=replace(renderer.settings, sampler=replace(sampler, steps=4)))
    >>> frames = quick.render(quick.tokens_of(0), cameras)  # [f, 3, side, side] in [0, 1]
    """

    scenes: EvaluationScenes
    autoencoder_files: dict[str, AutoencoderFile] = field(default_factory=dict)
    """Role ("context", "target") -> file, where there is one."""
    weights: WeightsVersion = field(default_factory=WeightsVersion)
    _tokens: dict[tuple[int, int], SceneTokens] = field(default_factory=dict, init=False, repr=False)
    """(scene, version of the weights) -> tokens."""

    encodes = True
    """Whether other context views give other tokens."""

    @property
    def generates(self) -> bool:
        """Whether scenes are generated from a few photographs, not encoded."""
        return self.settings.scene_sampler is not None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all trained numbers that pictures depend on."""
        return module_sha256(self.scenetok)

    # --- Tokens ---

    def tokens_of(self, scene: int, on_step: OnStep | None = None) -> SceneTokens:
        """Tokens of an evaluation scene: stored ones, or encoded or generated on first use, with the present weights.

        `on_step` reports the progress of a generation, and ends it by raising.
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
        """Tokens of an evaluation scene, encoded from these views of it."""
        return self.encode_views(views, self.scenes.keys[scene], self.scenes.pose_scale(scene))

    def encode_views(self, views: Views, scene: str, pose_scale: float = 1.0) -> SceneTokens:
        """Tokens of posed photographs; `pose_scale` is the factor from their units to those of the training data."""
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
        """Where context latents are drawn from; None: their means are taken."""
        return None if self.settings.encoding == "mean" else named_generator("context latents", seed, scene)

    def generate(self, conditions: GenerationInputs, scene: str, on_step: OnStep | None = None) -> SceneTokens:
        """Tokens of a scene that is generated from photographs and anchors."""
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
        wide = self.settings.wide
        frame = self.path_renderer.frame(camera, self.scenes.active, str(self.weights.number), wide)
        request = request_of(camera, wide)
        rgb = request.fit(frame.picture[None])[0].permute(1, 2, 0).clamp(0, 1)
        channels = latent_space(self.preset.target_autoencoder).channels
        uncertainty = request.fit(relative_uncertainty(frame.uncertainty, channels)[None, None])[0]
        return picture_outputs(rgb, uncertainty.permute(1, 2, 0), request, frame.depth)

    @cached_property
    def ray_outputs(self) -> RayOutputs:
        """Outputs for rays of the active scene's context views, for exporters."""
        scene = self.scenes.active
        cameras = self.scenes.context_set.cameras.to(self.device)
        return RayOutputs(cameras, lambda batch: self.render_with_depth(self.tokens_of(scene), batch))

    @cached_property
    def path_renderer(self) -> PathRenderer:
        """Frames of the paths that cameras are slices of."""
        layout = latent_space(self.preset.target_autoencoder).layout
        return PathRenderer(self._sample, layout, self._sweep, self.tokens_of)

    def _sample(
        self, scene: int, cameras: CameraBatch, on_step: Callable[[int, int], None]
    ) -> Iterator[RenderedFrames]:
        return self.windows(self.tokens_of(scene, on_step), cameras, on_step, depth=True)

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
        """All frames of a path, and their depth along the optical axis in units of the capture."""
        here, settings = cameras.to(self.device), self.settings
        windows = list(
            depth_windows(self.networks, tokens, here, seed=settings.seed, sampler=settings.sampler, on_step=on_step)
        )
        maps = [window.maps for window in windows if window.maps is not None]
        depth, confidence = (torch.cat([part[0] for part in parts]) for parts in zip(*maps, strict=True))
        return torch.cat([window.frames[0] for window in windows]), DepthMaps(depth, confidence)
