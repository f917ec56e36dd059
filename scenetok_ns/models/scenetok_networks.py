"""The networks and autoencoders of a preset: build and load them, and choose where and how they run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from scenetok_ns.models.autoencoders.base import Autoencoder
from scenetok_ns.models.autoencoders.offload import HOME, OffloadedAutoencoder
from scenetok_ns.models.autoencoders.registry import build_autoencoder, cuda_dtype
from scenetok_ns.models.depth_weights import DepthSource, embedded_depth_head
from scenetok_ns.models.engine.engine import RenderingEngine
from scenetok_ns.models.engine.options import EngineOptions, suits_engine
from scenetok_ns.models.fused.blocks import fuse_for_training
from scenetok_ns.models.networks.block_execution import Checkpointing, checkpoint_for_training, compile_for_training
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.dit import Trunk
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.presets import AutoencoderConfig, Preset
from scenetok_ns.models.released_checkpoints import module_sha256
from scenetok_ns.models.student_weights import StudentSource, embedded_student
from scenetok_ns.models.weight_files import CheckpointError, embedded_weights, header_of, load_weights
from scenetok_ns.tools.cuda_memory import let_segments_grow

if TYPE_CHECKING:
    from typing_extensions import Self

GENERATOR_OF = "compressor"
"""Entry in the header of an embedded generator: digest of the compressor whose tokens it generates."""


class SceneTokNetworks(nn.Module):
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
        """Build networks with random weights. Users call `SceneTok.from_pretrained`.

        Args:
            preset: Architecture and recipe.
            context_autoencoder: Frozen autoencoder of photographs, or a function that builds it on first use. None: any
                use of it raises ValueError.
            target_autoencoder: The same for the autoencoder of frames.
            low_vram: Keep idle networks in CPU memory.
        """
        super().__init__()
        if low_vram:
            let_segments_grow()
        self.preset, self.low_vram = preset, low_vram
        self.compressor = Compressor.from_preset(preset)
        self.denoiser = Denoiser.from_preset(preset)
        if preset.scene_generator is not None:
            self.scene_generator = SceneGenerator.from_preset(preset)
        # A list, because nn.Module registers modules that are set as attributes.
        self._autoencoders = [context_autoencoder, target_autoencoder]
        self.engine_options: EngineOptions | Literal["auto", "exact"] | None = "auto"
        """auto: the rendering engine on CUDA, and the plain loop elsewhere. exact: the engine with the autoencoders in
        their own precision. None: the plain loop. During training and with autocast=False, the plain loop is used in
        any case."""
        self.depth = DepthSource()  # the head is not a submodule: it is trained and saved separately
        self.students = StudentSource()
        self._engine: RenderingEngine | None = None
        self._trains = False
        self._is_trained = False
        """Whether `warn_if_untrained` has already looked at the weights."""
        self._away_from: torch.device | None = None
        """With low_vram: device of the networks while they are in CPU memory and the engine does their work."""

    @classmethod
    def from_preset(
        cls,
        preset: Preset,
        context_weights: Path | None = None,
        target_weights: Path | None = None,
        *,
        low_vram: bool = False,
        deferred: bool = False,
    ) -> Self:
        """Build a model for training: networks with random weights, and autoencoders from their published files.

        The networks are untrained: they encode and render noise, and the model logs a warning. Load weights with
        `load_embedded` or `load_state_dict`, or call `from_pretrained` instead.

        Args:
            preset: Architecture and recipe (`load_preset`).
            context_weights: Weight file of the autoencoder of photographs. None: it has no file.
            target_weights: Weight file of the autoencoder of frames. None: it has no file.
            low_vram: Keep autoencoders in CPU memory while idle, and the networks too, once the engine, which has
                copies in half precision, takes over. Halves GPU memory; starts more slowly.
            deferred: Build the autoencoders on first use; training from latents may never need them.

        Returns:
            The model on the CPU, in training mode.

        Raises:
            ValueError: A weight file is missing, or is not the one of the preset's autoencoder.

        >>> model = SceneTok.from_preset(load_preset("re10k"), Path("vavae.pt"), Path("video_dcae.safetensors"))
        """

        def make(config: AutoencoderConfig, weights: Path | None) -> Autoencoder:
            autoencoder = build_autoencoder(config, weights)
            return OffloadedAutoencoder(autoencoder, cuda_dtype(config)) if low_vram else autoencoder

        context = partial(make, preset.context_autoencoder, context_weights)
        target = partial(make, preset.target_autoencoder, target_weights)
        return cls(preset, *((context, target) if deferred else (context(), target())), low_vram=low_vram)

    def load_embedded(self) -> None:
        """Load the trained weights that come with the package, if the preset has any.

        >>> model = SceneTok.from_preset(load_preset("scenetok-tiny"))
        >>> model.load_embedded()
        """
        if self.preset.embedded_weights is not None:
            tokenizer = {"compressor": self.compressor, "denoiser": self.denoiser}
            load_weights(tokenizer, embedded_weights(self.preset.embedded_weights))
            self.depth = DepthSource(embedded_depth_head(self.preset), required=False)
            self.students = StudentSource(embedded_student(self.preset), required=False)
        if self.preset.embedded_generator is not None:
            file = embedded_weights(self.preset.embedded_generator)
            load_weights({"scene_generator": self.scene_generator}, file)
            if header_of(file).get(GENERATOR_OF) != module_sha256(self.compressor):
                raise CheckpointError(
                    f"{file}: this generator was trained on the tokens of another compressor than that of "
                    f"{self.preset.embedded_weights}; put both into the package together (scripts/ship_weights.py)"
                )

    def prepare_training(
        self, *, compiled: bool, checkpointing: Checkpointing, fused: bool = False, in_float8: bool = False
    ) -> None:
        """Choose how the networks run in training.

        Args:
            compiled: Compile the networks with torch.compile.
            checkpointing: Activations to recompute in the backward pass, which saves memory.
            fused: Use the fused kernels if they fit (CUDA with Triton).
            in_float8: Compute the products of the fused kernels in FP8.
        """
        for network in self.children():
            checkpoint_for_training(network, checkpointing)
            if fused:
                fuse_for_training(network, in_float8=in_float8)
            if compiled:
                compile_for_training(network)

    def warn_if_untrained(self) -> None:
        """Warn once if the networks still have the random weights that they were built with."""
        if self._is_trained or self.training or self._trains:
            return
        self._is_trained = True  # one look, one warning
        trunks = [getattr(network, "model", None) for network in (self.denoiser, self._modules.get("scene_generator"))]
        # Untrained networks have output layers of zeros.
        if not all(bool(trunk.final_layer.linear.weight.any()) for trunk in trunks if isinstance(trunk, Trunk)):
            warnings.warn(
                f"these networks of preset {self.preset.name} have random weights, so pictures are noise: build the "
                "model with SceneTok.from_pretrained, or load weights",
                stacklevel=3,
            )

    @property
    def device(self) -> torch.device:
        """Device on which the model works."""
        return self._away_from or self.compressor.scene_tokens.device

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of all images and frames, in pixels."""
        return (self.preset.data.image_size,) * 2

    def __dir__(self) -> list[str]:
        """List attributes without the autoencoders: the viewer reads every attribute of a model, which would build the
        autoencoders, or raise an error."""
        return [name for name in super().__dir__() if name not in ("context_autoencoder", "target_autoencoder")]

    @property
    def context_autoencoder(self) -> Autoencoder:
        """Autoencoder of photographs, on the model's device. Raises ValueError if there is none."""
        return self._autoencoder(0, None)

    @property
    def target_autoencoder(self) -> Autoencoder:
        """Autoencoder of frames, on the model's device. Raises ValueError if there is none."""
        return self._autoencoder(1, None)

    def engine_for(self, autocast: bool | None) -> RenderingEngine | None:
        """Return the engine, or None if the plain loop does the work; see `engine_options`."""
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
        """Options of the engine, or None if the plain loop does the work."""
        options = self.engine_options
        if options is None or self.training or self._trains or autocast is False:
            return None
        if not isinstance(options, str):
            return options
        if not suits_engine(self.device):
            return None
        return EngineOptions.for_device(self.device, autoencoders=options == "auto", low_vram=self.low_vram)

    def _leave(self) -> None:
        """Move the networks to CPU memory, from which the engine copies them."""
        if self._away_from is None:
            self._away_from = self.device
            for network in self.children():
                network.to(HOME)
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def _come_back(self) -> None:
        """Move the networks back to their device, because they are needed themselves."""
        if self._away_from is not None:
            device, self._away_from = self._away_from, None
            for network in self.children():
                network.to(device)

    def begin_training(self) -> None:
        """Prepare for training: weights change from now on and training needs the memory, so the plain loop renders.

        Call this before the first step of an optimizer. Training mode does not show this, because the viewer of
        Nerfstudio switches every model to it after each picture."""
        self._trains, self._engine = True, None
        self._come_back()

    def autocasts(self, wanted: bool | None) -> bool:
        """Whether to run in bfloat16, by an argument `autocast`: None means on CUDA only."""
        return self.device.type == "cuda" if wanted is None else wanted

    def _autoencoder(self, index: int, engine: RenderingEngine | None) -> Autoencoder:
        """Return an autoencoder, built on first use, on the model's device in the published code's precision.

        An engine that works with copies gets it where it is.
        """
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._come_back()
        before = self.device
        super()._apply(fn, recurse)
        if self.device != before:
            self._engine = None
        for autoencoder in self._autoencoders:
            if isinstance(autoencoder, Autoencoder) and self.device == HOME:
                autoencoder.to(HOME)
        return self
