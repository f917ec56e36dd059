"""A preset's networks and autoencoders together: photographs -> scene tokens -> frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.autoencoders.base import Autoencoder
from scenetok_ns.models.autoencoders.offload import HOME, OffloadedAutoencoder
from scenetok_ns.models.autoencoders.registry import build_autoencoder, cuda_dtype
from scenetok_ns.models.cameras import CameraBatch, relative_cameras
from scenetok_ns.models.engine.engine import RenderingEngine
from scenetok_ns.models.engine.options import EngineOptions, suits_engine
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.flow.windows import CleanViews, RenderedFrames, finite_windows, render_windows
from scenetok_ns.models.fused.blocks import fuse_for_training
from scenetok_ns.models.networks.block_execution import Checkpointing, checkpoint_for_training, compile_for_training
from scenetok_ns.models.networks.compressor import Compressor, TokenDistribution
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.ops.finite import require_finite
from scenetok_ns.models.presets import AutoencoderConfig, Preset, SamplerConfig, shares_tokens
from scenetok_ns.models.quirks import network_cameras
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.models.weight_files import embedded_weights, load_weights

Photographs = Float[Tensor, "b v 3 height width"]


class SceneTok(nn.Module):
    """The trained parts, under the attribute names of the released checkpoints, and the frozen autoencoders.

    Autoencoders are not submodules: they are neither trained nor saved. They move to the device on first use and keep
    their own dtype; the engine works with copies. Training from latents can leave them out, or build them later.
    """

    def __init__(
        self,
        preset: Preset,
        context_autoencoder: Autoencoder | Callable[[], Autoencoder] | None = None,
        target_autoencoder: Autoencoder | Callable[[], Autoencoder] | None = None,
        *,
        low_vram: bool = False,
    ) -> None:
        """An autoencoder may be given as a function, which is called when the autoencoder is first needed."""
        super().__init__()
        self.preset, self.low_vram = preset, low_vram
        self.compressor = Compressor.from_preset(preset)
        self.denoiser = Denoiser.from_preset(preset)
        if preset.scene_generator is not None:
            self.scene_generator = SceneGenerator.from_preset(preset)
        # A list, because nn.Module registers modules that are set as attributes.
        self._autoencoders = [context_autoencoder, target_autoencoder]
        self.engine_options: EngineOptions | Literal["auto", "exact"] | None = "auto"
        """auto: the rendering engine on CUDA, and the plain loop elsewhere. exact: the engine with the autoencoders in
        their own precision. None: always the plain loop, which also serves where something trains and without
        autocast."""
        self._engine: RenderingEngine | None = None
        self._trains = False
        self._away_from: torch.device | None = None
        """With low_vram: where the networks belong, while they are in main memory and the engine does their work."""

    @classmethod
    def from_preset(
        cls,
        preset: Preset,
        context_weights: Path | None = None,
        target_weights: Path | None = None,
        *,
        low_vram: bool = False,
        deferred: bool = False,
    ) -> SceneTok:
        """With fresh networks, and autoencoders from their published weight files (None: those without any).

        low_vram: the autoencoders are on the GPU only while they work, and the networks, where nothing is trained, only
        until the engine, which has weights of its own in half precision, takes over.
        deferred: they are made when they are first needed; training from latents may never need them.
        """

        def make(config: AutoencoderConfig, weights: Path | None) -> Autoencoder:
            autoencoder = build_autoencoder(config, weights)
            return OffloadedAutoencoder(autoencoder, cuda_dtype(config)) if low_vram else autoencoder

        context = partial(make, preset.context_autoencoder, context_weights)
        target = partial(make, preset.target_autoencoder, target_weights)
        return cls(preset, *((context, target) if deferred else (context(), target())), low_vram=low_vram)

    def load_embedded(self) -> None:
        """Take the trained weights that come with the package, as far as the preset has some."""
        if self.preset.embedded_weights is not None:
            tokenizer = {"compressor": self.compressor, "denoiser": self.denoiser}
            load_weights(tokenizer, embedded_weights(self.preset.embedded_weights))
        if self.preset.embedded_generator is not None:
            load_weights({"scene_generator": self.scene_generator}, embedded_weights(self.preset.embedded_generator))

    def prepare_training(self, *, compiled: bool, checkpointing: Checkpointing, fused: bool = False) -> None:
        """Choose how the networks run where gradients are wanted: compiled, with less kept for the backward pass, on
        the fused kernels where these fit (CUDA with Triton)."""
        for network in self.children():
            checkpoint_for_training(network, checkpointing)
            if fused:
                fuse_for_training(network)
            if compiled:
                compile_for_training(network)

    @property
    def device(self) -> torch.device:
        """Where the work is done."""
        return self._away_from or self.compressor.scene_tokens.device

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of all images and frames, in pixels."""
        return (self.preset.data.image_size,) * 2

    def __dir__(self) -> list[str]:
        """Without the autoencoders: the viewer looks at every attribute of a model, which would make them, or raise."""
        return [name for name in super().__dir__() if name not in ("context_autoencoder", "target_autoencoder")]

    @property
    def context_autoencoder(self) -> Autoencoder:
        return self._autoencoder(0, None)

    @property
    def target_autoencoder(self) -> Autoencoder:
        return self._autoencoder(1, None)

    @torch.no_grad()
    def encode(
        self,
        images: Float[Tensor, "v 3 height width"],
        cameras: CameraBatch,
        *,
        scene: str = "",
        pose_scale: float = 1.0,
        sources: tuple[str, ...] = (),
        noise: torch.Generator | None = None,
        autocast: bool | None = None,
    ) -> SceneTokens:
        """Tokens of one scene: means of the compressor's Gaussian, and of the autoencoder's unless `noise` is given.

        The reference is the middle view (number v // 2), as in the published evaluation.

        Args:
            images: context views in [0, 1]. Their cameras are a batch of one, in the units and axes of the capture.
            pose_scale: factor of positions relative to the reference, here and in `render`.
            scene: name, saved with the tokens like `sources`, the SHA-256 of each photograph.
            noise: draws the latents of an autoencoder that samples (VA-VAE).
            autocast: bfloat16 in the compressor; None: on CUDA only.

        Raises ValueError if numbers of images and cameras, or image sizes, do not fit.
        """
        if images.ndim != 4 or images.shape[1:] != (3, *self.image_size) or cameras.c2w.shape[:2] != (1, len(images)):
            size = self.preset.data.image_size
            raise ValueError(
                f"encode: expected images [v, 3, {size}, {size}] and a batch of one with v cameras, got images "
                f"{list(images.shape)} and cameras {list(cameras.c2w.shape[:2])}"
            )
        reference = cameras.c2w[:, len(images) // 2]
        posed = relative_cameras(cameras, reference, pose_scale).to(self.device)
        tokens = self.encode_views(images[None].to(self.device), posed, noise=noise, autocast=autocast)
        require_finite(tokens.mean, f"the tokens of {scene or 'the scene'}")
        return SceneTokens(
            mean=tokens.mean[0],
            logvar=tokens.logvar[0],
            reference_c2w=reference[0].float().to(self.device),
            preset=self.preset.name,
            scene=scene,
            pose_scale=pose_scale,
            sources=sources,
            cameras_c2w=cameras.c2w[0].float().to(self.device),
            cameras_intrinsics=cameras.intrinsics[0].float().to(self.device),
        )

    def encode_views(
        self,
        images: Photographs,
        cameras: CameraBatch,
        *,
        noise: torch.Generator | None = None,
        autocast: bool | None = None,
    ) -> TokenDistribution:
        """Tokens of a batch of scenes; the cameras are relative to each scene's reference already."""
        posed = network_cameras(cameras, "context", self.preset)
        # The engine is also asked where gradients are wanted: it may have sent the networks away.
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
        """Latents of context or condition views, through the engine where there is one."""
        if engine is None:
            return self.context_autoencoder.encode(images, noise=noise)
        return engine.encode(self._autoencoder(0, engine), images, noise)

    def render(
        self,
        tokens: SceneTokens,
        cameras: CameraBatch,
        *,
        seed: int = 0,
        sampler: SamplerConfig | None = None,
        on_step: OnStep | None = None,
        autocast: bool | None = None,
    ) -> Float[Tensor, "f 3 height width"]:
        """All frames of a path, in [0, 1]. Arguments and errors as `render_windows`."""
        windows = self.render_windows(tokens, cameras, seed=seed, sampler=sampler, on_step=on_step, autocast=autocast)
        return torch.cat([window.frames[0] for window in windows])

    def render_windows(
        self,
        tokens: SceneTokens,
        cameras: CameraBatch,
        *,
        seed: int = 0,
        sampler: SamplerConfig | None = None,
        clean: CleanViews | None = None,
        on_step: OnStep | None = None,
        autocast: bool | None = None,
    ) -> Iterator[RenderedFrames]:
        """Frames of a path as they become final: `render_many` for one scene, so frames are a batch of one."""
        return self.render_many(
            [tokens], [cameras], seeds=[seed], sampler=sampler, clean=clean, on_step=on_step, autocast=autocast
        )

    def render_many(
        self,
        tokens: Sequence[SceneTokens],
        cameras: Sequence[CameraBatch],
        *,
        seeds: int | Sequence[int] = 0,
        sampler: SamplerConfig | None = None,
        clean: CleanViews | None = None,
        on_step: OnStep | None = None,
        autocast: bool | None = None,
    ) -> Iterator[RenderedFrames]:
        """Frames of one path in each of several scenes, rendered together; each scene's are those it has alone.

        Args:
            tokens: the scenes.
            cameras: their paths, equally long: batches of one with a camera for each frame, at least one; units and
                axes of the capture.
            seeds: of each scene, or one for all: same seed, same frames; the frames of one path belong together.
            sampler: None: the preset's. Variants with `dataclasses.replace(preset.sampler, steps=4)`.
            clean: views that the paths go on from, a batch of as many scenes; cameras in units of the capture.
            on_step: progress, called as on_step(done, total); what it raises ends the rendering.
            autocast: bfloat16 in the denoiser; None: on CUDA only. False: float32, without the engine.

        Raises (at once, not at the first frame):
            ValueError: the tokens are of another shape than the preset's; numbers of scenes, paths and cameras do not
                agree; no cameras; see also `sample_windows`.
        """
        if not tokens or len(tokens) != len(cameras) or len({path.c2w.shape for path in cameras}) > 1:
            raise ValueError(
                f"render: expected at least one scene and as many equally long paths, got {len(tokens)} scenes and "
                f"paths of {[path.num_views for path in cameras]} cameras; render paths of other lengths apart"
            )
        for scene in tokens:
            self.check_tokens(scene)
        if clean is not None:
            paths = zip(clean.cameras.c2w.split(1), clean.cameras.intrinsics.split(1), strict=True)
            clean = replace(clean, cameras=self._target_cameras(tokens, [CameraBatch(*path) for path in paths]))
        engine = self.engine_for(autocast)
        render = partial(render_windows, autocast=self.autocasts(autocast)) if engine is None else engine.render_windows
        windows = render(
            self.denoiser,
            self._autoencoder(1, engine),
            torch.stack([scene.mean.to(self.device) for scene in tokens]),
            self._target_cameras(tokens, cameras),
            self.image_size,
            sampler or self.preset.sampler,
            seed=seeds,
            clean=clean,
            on_step=on_step,
        )
        return finite_windows(windows, [scene.scene for scene in tokens])

    def engine_for(self, autocast: bool | None) -> RenderingEngine | None:
        """The engine, if it is to do the work; see `engine_options`."""
        options = self._options_for(autocast)
        if options is None:
            self._come_back()
            return None
        if self._engine is None or (self._engine.device, self._engine.options) != (self.device, options):
            self._engine = RenderingEngine(self.device, options)
        if self.low_vram:
            self._leave()
        return self._engine

    def rendered_by(self, autocast: bool | None = None) -> str:
        """Return the name of the renderer for records: engine, exact engine or plain loop."""
        options = self._options_for(autocast)
        if options is None:
            return "plain loop"
        return "engine" if options.autoencoders else "exact engine"

    def _options_for(self, autocast: bool | None) -> EngineOptions | None:
        """None: the plain loop."""
        options = self.engine_options
        if options is None or self.training or self._trains or autocast is False:
            return None
        if not isinstance(options, str):
            return options
        if not suits_engine(self.device):
            return None
        return EngineOptions.for_device(self.device, autoencoders=options == "auto", low_vram=self.low_vram)

    def _leave(self) -> None:
        """Send the networks to main memory: the engine copies them from there."""
        if self._away_from is None:
            self._away_from = self.device
            for network in self.children():
                network.to(HOME)
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def _come_back(self) -> None:
        """The networks are needed themselves."""
        if self._away_from is not None:
            device, self._away_from = self._away_from, None
            for network in self.children():
                network.to(device)

    def begin_training(self) -> None:
        """From now on weights change all the time, and the memory is the training's: the plain loop renders.

        Call this before the first step of an optimizer. Training mode alone does not tell: the viewer of Nerfstudio
        puts every model into it behind each picture."""
        self._trains, self._engine = True, None
        self._come_back()

    def _target_cameras(self, tokens: Sequence[SceneTokens], paths: Sequence[CameraBatch]) -> CameraBatch:
        """One path for each scene, in units of the capture -> a batch of them as the denoiser needs them."""
        relative = []
        for scene, path in zip(tokens, paths, strict=True):
            reference = scene.reference_c2w[None].to(path.c2w.device)
            relative.append(relative_cameras(path, reference, scene.pose_scale).to(self.device))
        together = CameraBatch(
            torch.cat([path.c2w for path in relative]), torch.cat([path.intrinsics for path in relative])
        )
        return network_cameras(together, "target", self.preset)

    def check_tokens(self, tokens: SceneTokens) -> None:
        """Raise ValueError unless these networks can render the tokens, or some of a scene's tokens."""
        config = self.preset.compressor
        count, dim = tokens.mean.shape
        # Tokens are a set: some of this model's are a scene too, with less in it.
        if dim != config.token_dim or not 0 < count <= config.num_tokens:
            raise ValueError(
                f"render: preset {self.preset.name} has {config.num_tokens} tokens of {config.token_dim} numbers, got "
                f"{list(tokens.mean.shape)}, made by {tokens.preset}; encode the scene with this model"
            )
        if not shares_tokens(self.preset, tokens.preset):
            raise ValueError(
                f"render: the tokens were made by preset {tokens.preset}, and mean nothing to preset "
                f"{self.preset.name}; encode the scene with this model, or render with a run of {tokens.preset}"
            )

    def autocasts(self, wanted: bool | None) -> bool:
        """Whether to run in bfloat16, for the meaning of `autocast` arguments: None is on CUDA only."""
        return self.device.type == "cuda" if wanted is None else wanted

    def _autoencoder(self, index: int, engine: RenderingEngine | None) -> Autoencoder:
        """On the device, in the precision of the published code; where it is, for an engine that works with copies."""
        found = self._autoencoders[index]
        if found is None:
            role = ("context", "target")[index]
            raise ValueError(f"SceneTok: this model was built without its {role} autoencoder; give it the weights")
        if not isinstance(found, Autoencoder):
            self._autoencoders[index] = found = found()
        if engine is not None and engine.options.autoencoders:
            return found
        config = (self.preset.context_autoencoder, self.preset.target_autoencoder)[index]
        return found.to(self.device, cuda_dtype(config) if self.device.type == "cuda" else None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SceneTok:
        self._come_back()
        before = self.device
        super()._apply(fn, recurse)
        if self.device != before:
            self._engine = None
        for autoencoder in self._autoencoders:
            if isinstance(autoencoder, Autoencoder) and self.device == HOME:
                autoencoder.to(HOME)
        return self
