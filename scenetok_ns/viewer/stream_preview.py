"""Render a moving camera with a stream: each picture continues the previous one, and earlier places look the same."""

from __future__ import annotations

import torch

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import SamplerConfig
from scenetok_ns.models.scene_stream import SceneStream
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.pictures import relative_uncertainty
from scenetok_ns.viewer.shown_scene import Shown
from scenetok_ns.viewer.view_cache import View


class StreamPreview:
    """Stream through the displayed scene, if its networks can stream."""

    def __init__(self) -> None:
        self._stream: SceneStream | None = None
        self._key = ""
        self._last: View | None = None

    def view(
        self, shown: Shown, tokens: SceneTokens, key: str, sampler: SamplerConfig, seed: int, camera: CameraBatch
    ) -> View | None:
        """Render the view of a moving camera. The same camera again gets the same view.

        Returns None if the networks cannot stream.

        Args:
            shown: The scene and its networks.
            tokens: Scene tokens to use, possibly fewer than the scene has.
            key: Everything that pictures depend on except the camera; a new key starts a new stream.
            sampler: Sampler to record in the view.
            seed: Random seed of the noise.
            camera: A single camera, on the CPU, in units of the capture.
        """
        if key != self._key:
            self._key, self._last = key, None
            self._stream = shown.networks.open_stream(tokens, seed=seed) if shown.networks.streams else None
        if self._stream is None:
            return None
        last = self._last
        if last is not None and _same(last.camera, camera):
            return last
        made = self._stream.next(camera)
        part = made.denoised[0]
        self._last = View(
            settings=f"{key}|stream",
            sampler=sampler,
            camera=camera,
            picture=made.frames[0, -1].clone(),
            latents=part.latents,
            uncertainty=relative_uncertainty(part.uncertainty[0, -1], part.latents.shape[2]),
        )
        return self._last


def _same(one: CameraBatch, other: CameraBatch) -> bool:
    return torch.equal(one.c2w, other.c2w) and torch.equal(one.intrinsics, other.intrinsics)
