"""Render pictures from tokens with one set of settings. Does not import Nerfstudio, which takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.square_pictures import Aspect
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.flow.windows import RenderedFrames
from scenetok_ns.models.presets import Encoding, Preset, SamplerConfig, SceneSamplerConfig, as_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.tools.devices import chosen_device


@dataclass(frozen=True)
class RenderSettings:
    """Everything that pictures depend on, apart from networks, scene and camera."""

    sampler: SamplerConfig
    """Sampler for frames."""
    scene_sampler: SceneSamplerConfig | None = None
    """Sampler for generated scenes; None: scenes are encoded."""
    seed: int = 0
    """Random seed for rendering."""
    scene_seed: int = 0
    """Random seed for generating scenes."""
    wide: Aspect = "border"
    """Treatment of pictures that are not square."""
    preview_steps: int | None = None
    """Number of denoising steps for the viewer's previews; None: 4 on a GPU, 2 on a CPU."""
    encoding: Encoding = "mean"
    """Choice of the Gaussians from which samples are drawn when photographs are encoded. Samples depend on the seed and
    the scene's name."""
    stream: bool = False
    """Render paths with the few-step student instead of the sampler."""
    stream_steps: int | None = None
    """Denoising steps of the student; None: those that it was trained for."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenRenderer:
    """Renders scenes from their tokens.

    >>> preset = load_preset("scenetok-tiny")
    >>> renderer = TokenRenderer.of_package(preset, RenderSettings(preset.sampler))
    >>> frames = renderer.render(SceneTokens.load(Path("room.safetensors")), cameras)  # [f, 3, side, side] in [0, 1]
    """

    scenetok: SceneTok
    """The networks that encode and generate scenes."""
    settings: RenderSettings

    @classmethod
    def of_package(cls, preset: Preset | str, settings: RenderSettings, device: str | None = None) -> TokenRenderer:
        """Load the networks of a preset whose weights come with the package.

        Args:
            preset: Preset with bundled weights, or its name.
            settings: Sampler, seeds and more.
            device: Name of the device. None: the GPU, or the CPU if there is no GPU.

        Raises:
            ValueError: The preset has no weights in the package, or this machine does not have the device.
        """
        chosen, preset = chosen_device(device), as_preset(preset)
        preset.check_embedded()
        scenetok = SceneTok.from_preset(preset)
        scenetok.engine_options = "auto"
        scenetok.load_embedded()
        return cls(scenetok=scenetok.to(chosen).eval(), settings=settings)

    @property
    def networks(self) -> SceneTok:
        """Networks that render frames."""
        return self.scenetok

    @property
    def preset(self) -> Preset:
        return self.scenetok.preset

    @property
    def device(self) -> torch.device:
        return self.scenetok.device

    @torch.no_grad()
    def render(
        self, tokens: SceneTokens, cameras: CameraBatch, on_step: OnStep | None = None
    ) -> Float[Tensor, "f 3 side side"]:
        """Render all frames of a path, in [0, 1].

        `cameras` are a batch of one: OpenCV camera-to-world poses in capture units, normalised intrinsics.
        """
        return torch.cat([window.frames[0] for window in self.windows(tokens, cameras, on_step)])

    def windows(
        self,
        tokens: SceneTokens,
        cameras: CameraBatch,
        on_step: OnStep | None = None,
        *,
        depth: bool = False,
        seed: int | None = None,
    ) -> Iterator[RenderedFrames]:
        """Render frames of a path as they become final, with the sampler or with the student, which predicts no depth.

        Arguments and errors as in `SceneTok.render_windows` and `SceneTok.stream_windows`. `seed` replaces the seed of
        the settings.
        """
        here, settings = cameras.to(self.device), self.settings
        seed = settings.seed if seed is None else seed
        if settings.stream:
            return self.networks.stream_windows(tokens, here, seed=seed, steps=settings.stream_steps, on_step=on_step)
        return self.networks.render_windows(
            tokens, here, seed=seed, sampler=settings.sampler, on_step=on_step, depth=depth
        )
