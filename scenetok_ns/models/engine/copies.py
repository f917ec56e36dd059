"""Copies of a model's weights laid out for inference.

A copy is created on first use and after a change of the weights, and dropped to save memory.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from scenetok_ns.models.autoencoders.base import Autoencoder
from scenetok_ns.models.autoencoders.offload import HOME
from scenetok_ns.models.engine.compressing import CompressingEngine
from scenetok_ns.models.engine.denoising import DenoisingEngine
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.engine.stream import StreamingEngine
from scenetok_ns.models.engine.token_sampling import TokenEngine
from scenetok_ns.models.networks.adapters import adapters_in_use
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.scene_generator import SceneGenerator

logger = logging.getLogger(__name__)

KEPT_AUTOENCODERS = 2
"""Number of autoencoders whose copies are kept: one for context views, one for targets."""
KEPT_DENOISERS = 2
"""Number of denoisers whose copies are kept: the model's own, and a student."""
Fingerprint = tuple[tuple[int, int], ...]
Kind = Literal["denoising", "generating", "compressing"]


def fingerprint(module: nn.Module) -> Fingerprint:
    """Return a value that changes when a weight or its adapter is replaced or written to (`Tensor._version`).

    Fused optimizers and replayed graphs do not raise the version: a trainer calls `SceneTok.begin_training`, and the
    plain loop renders from then on. This function neither compares values nor waits for the device. It walks the
    modules itself, because `parameters()` would take two thirds of the time, while a preview waits.
    """
    found: list[tuple[int, int]] = []
    left = [module]
    while left:
        one = left.pop()
        found += [(p.data_ptr(), p._version) for p in one._parameters.values() if p is not None]
        found += [(p.data_ptr(), p._version) for p in adapters_in_use(one)]
        left += [child for child in one._modules.values() if child is not None]
    return tuple(found)


class Copies:
    """The copies of one rendering engine. Use it in the engine's thread, or while that thread is idle."""

    def __init__(self, device: torch.device, options: EngineOptions, stream: torch.cuda.Stream | None) -> None:
        """`stream` is the stream on which weights are copied and networks run; None: the current one."""
        self._device, self._options, self._stream = device, options, stream
        self.denoising: dict[int, tuple[Fingerprint, StreamingEngine]] = {}
        self.generating: dict[int, tuple[Fingerprint, TokenEngine]] = {}
        self.compressing: dict[int, tuple[Fingerprint, CompressingEngine]] = {}
        self.autoencoders: dict[int, tuple[Autoencoder, Autoencoder]] = {}
        """Identity -> the autoencoder itself and its copy. For networks: identity -> fingerprint and engine."""

    def make_room(self, *idle: Kind, autoencoders: Sequence[Autoencoder] | None = None) -> None:
        """With `low_vram`, drop copies that the current work does not need. They are created again on their next use.

        Args:
            idle: Kinds of copies to drop.
            autoencoders: Autoencoders whose copies stay; None: all.
        """
        if not self._options.low_vram:
            return
        found = self.autoencoders
        kept = {key: pair for key, pair in found.items() if autoencoders is None or pair[0] in autoencoders}
        changes = len(kept) < len(found) or any(getattr(self, kind) for kind in idle)
        on_cuda = changes and self._device.type == "cuda"
        if on_cuda:
            torch.cuda.synchronize(self._device)  # the other stream may still read them
        self.autoencoders = kept
        del found
        for kind in idle:
            getattr(self, kind).clear()
        if on_cuda:
            torch.cuda.empty_cache()  # else the allocator keeps what their graphs held

    def streaming_engine(self, denoiser: Denoiser) -> StreamingEngine:
        now = fingerprint(denoiser)
        known = self.denoising.get(id(denoiser))
        if known is None or known[0] != now:
            logger.info("rendering engine: laying out the denoiser's weights; first use on a machine compiles kernels")
            known = None
            self.denoising.pop(id(denoiser), None)  # frees the memory first
            while len(self.denoising) >= KEPT_DENOISERS:
                del self.denoising[next(iter(self.denoising))]
            engine = DenoisingEngine(denoiser, self._device, self._options, self._stream)
            self.denoising[id(denoiser)] = known = now, StreamingEngine(engine)
        return known[1]

    def token_engine(self, generator: SceneGenerator) -> TokenEngine:
        now, known = fingerprint(generator), self.generating.get(id(generator))
        if known is None or known[0] != now:
            known = None
            self.generating.clear()
            engine = TokenEngine(generator, self._device, self._options, self._stream)
            self.generating[id(generator)] = known = now, engine
        return known[1]

    def compressing_engine(self, compressor: Compressor) -> CompressingEngine:
        now, known = fingerprint(compressor), self.compressing.get(id(compressor))
        if known is None or known[0] != now:
            known = None
            self.compressing.clear()
            engine = CompressingEngine(compressor, self._device, self._options, self._stream)
            self.compressing[id(compressor)] = known = now, engine
        return known[1]

    def autoencoder(self, autoencoder: Autoencoder) -> Autoencoder:
        """Return the autoencoder that does the work of `autoencoder`: a copy laid out for inference, or itself.

        Weights of autoencoders do not change, so a copy is made once; the original then goes to main memory.
        """
        if not self._options.autoencoders:
            return autoencoder.to(self._device)
        known = self.autoencoders.get(id(autoencoder))
        if known is None or known[0] is not autoencoder:
            while len(self.autoencoders) >= KEPT_AUTOENCODERS:
                del self.autoencoders[next(iter(self.autoencoders))]
            low_vram = self._options.low_vram
            graphs = self._options.graphs and not low_vram
            made = autoencoder.for_inference(self._device, self._options.dtype, graphs=graphs, low_vram=low_vram)
            autoencoder.to(self._device if made is autoencoder else HOME)
            self.autoencoders[id(autoencoder)] = known = autoencoder, made
        return known[1]
