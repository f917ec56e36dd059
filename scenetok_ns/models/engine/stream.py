"""Runs `flow.streaming.LatentStream` as one CUDA graph per chunk, on buffers at fixed addresses.

A graph computes the modulations of all steps, gathers and rotates the keys of the chunks that are
seen, denoises, and writes keys and values of the last step into the chunk's slot. There is a graph for each number of
seen chunks. The host never waits for the device: the CPU decides which chunks are seen and copies an index.
"""

from __future__ import annotations

import itertools
import weakref
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.engine import trunk
from scenetok_ns.models.engine.denoising import DenoisingEngine
from scenetok_ns.models.engine.window import to_device
from scenetok_ns.models.flow.rectified_flow import network_time
from scenetok_ns.models.flow.streaming import StreamConfig, StreamedChunk, StreamMemory, check_chunk, rotary_rows
from scenetok_ns.models.networks.layers import embed_patches
from scenetok_ns.models.ops.graphs import StepGraphs, working
from scenetok_ns.models.ops.rope import RotaryTable
from scenetok_ns.models.temporal import TemporalLayout

KEPT_BUFFERS = 2
"""Maximum number of buffer sets of ended streams that are kept for new streams."""


class StreamingEngine:
    """Streams of one denoiser. Several may be open; use them from one thread, one chunk at a time."""

    def __init__(self, denoising: DenoisingEngine) -> None:
        self.denoising = denoising
        self._free: list[_Buffers] = []

    def open(self, tokens: Float[Tensor, "1 n dim"], layout: TemporalLayout, config: StreamConfig) -> EngineStream:
        """Start a stream through a scene. Captures CUDA graphs, unless matching buffers of an ended stream are free.

        Raises ValueError for more than one scene, because keys are gathered for one scene only.
        """
        if len(tokens) != 1:
            raise ValueError(f"stream: expected the tokens of one scene, got {len(tokens)}; open a stream for each")
        with working(self.denoising.stream):
            kind = (config, layout, tokens.shape[1])
            found = next((each for each in self._free if each.kind == kind), None)
            if found is None:
                found = _Buffers(self.denoising, layout, config, tokens.shape[1])
            else:
                self._free.remove(found)
            found.load_scene(tokens)
        return EngineStream(self, found)

    def take_back(self, buffers: _Buffers) -> None:
        """Keep the buffers of a stream that has ended for the next one."""
        self._free = [*self._free, buffers][-KEPT_BUFFERS:]


class EngineStream:
    """A stream of chunks through one scene; same contract as `flow.streaming.LatentStream`.

    The returned tensors are valid on the engine's CUDA stream.
    """

    def __init__(self, engine: StreamingEngine, buffers: _Buffers) -> None:
        self.memory = StreamMemory(buffers.config)
        self._engine, self._buffers = engine, buffers
        weakref.finalize(self, engine.take_back, buffers).atexit = False

    def next(self, cameras: CameraBatch, noise: Float[Tensor, "1 l c h w"]) -> StreamedChunk:
        """Denoise the next chunk; see `LatentStream.next`. Cameras on the CPU avoid waiting for the device."""
        buffers = self._buffers
        check_chunk(buffers.layout, cameras, noise)
        pose = cameras.c2w[0, cameras.num_views // 2]
        with working(self._engine.denoising.stream):
            slots = self.memory.seen_from(pose)
            return buffers.advance(cameras, noise, slots, self.memory.keep(pose))


class _Buffers:
    """Memory of one stream and the graphs that work on it."""

    def __init__(self, denoising: DenoisingEngine, layout: TemporalLayout, config: StreamConfig, tokens: int) -> None:
        self.layout, self.config, self.kind = layout, config, (config, layout, tokens)
        self._denoising, self._weights = denoising, denoising.weights
        weights, device, dtype = self._weights, denoising.device, self._weights.patches.dtype
        depth, d = weights.trunk.cross_k_norm.shape
        hidden = weights.trunk.modulation.shape[1]
        heads, latents = hidden // d, layout.latents_per_chunk
        self._tokens = latents * weights.grid[0] * weights.grid[1]

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        self._poses = zeros(1, self._tokens, hidden)
        self._noise = zeros(1, latents, *weights.latent_shape)
        self._x, self._velocity = torch.zeros_like(self._noise), torch.zeros_like(self._noise)
        self._slots = torch.zeros(config.window, device=device, dtype=torch.long)
        """Slots of the seen chunks, oldest first, followed by the slot to write."""
        self._cross = [zeros(depth, 1, heads, tokens, d, dtype=dtype) for _ in range(2)]
        self._kept = [zeros(depth, config.slots, self._tokens, heads, d, dtype=dtype) for _ in range(2)]
        """Keys, not yet rotated, and values of finished chunks."""
        self._seen = [zeros(depth, 1, heads, config.window * self._tokens, d, dtype=dtype) for _ in range(2)]
        """Rotated keys and values that a chunk attends to; those of the chunk itself come last."""
        times = config.times
        self._lengths = [float(after - now) for now, after in itertools.pairwise(times)]
        self._times = denoising.embed_times(network_time(times[:-1].to(device)))
        self._rotary = denoising.rotary(config.window * latents)
        self._graphs = StepGraphs() if denoising.options.graphs else None
        if self._graphs is not None:
            for count in reversed(range(config.window)):
                self._graphs.capture(count, partial(self._compute, count))

    def load_scene(self, tokens: Tensor) -> None:
        """Compute the keys and values of the scene tokens in every block."""
        state = self._denoising.states(tokens.to(self._denoising.device), False)
        for own, found in zip(self._cross, trunk.keys_values(self._weights.trunk, state), strict=True):
            own.copy_(found)

    def advance(self, cameras: CameraBatch, noise: Tensor, slots: tuple[int, ...], slot: int) -> StreamedChunk:
        device, count = self._noise.device, len(slots)
        # Outside the graph, because embedding poses inverts matrices with a library that may wait for the device.
        here = CameraBatch(to_device(cameras.c2w, device), to_device(cameras.intrinsics, device))
        self._poses.copy_(self._denoising.embed_poses(here, self.layout).flatten(1, 2))
        self._noise.copy_(to_device(noise, device))
        self._slots[: count + 1].copy_(to_device(torch.tensor([*slots, slot]), self._slots.device))
        if self._graphs is None:
            self._compute(count)
        else:
            self._graphs.replay(count)
        return StreamedChunk(self._x.clone(), self._velocity.norm(dim=2))

    def _compute(self, count: int) -> None:
        """Do all work for a chunk that sees `count` others. The graphs capture this."""
        modulation = self._modulations()
        self._gather(count)
        rotary = rotary_rows(self._rotary, count, self._tokens)
        self._x.copy_(self._noise)
        for step, length in enumerate(self._lengths):
            keep = step == len(self._lengths) - 1
            self._velocity.copy_(self._predict(modulation[step], rotary, count, keep))
            self._x.add_(self._velocity, alpha=length)

    def _modulations(self) -> Float[Tensor, "steps 1 n all"]:
        condition = F.silu(self._times[:, None] + self._poses).to(self._weights.patches.dtype)
        made = trunk.modulations(self._weights.trunk, condition.flatten(0, 1))
        return made.unflatten(0, (len(self._times), 1, self._tokens))

    def _gather(self, count: int) -> None:
        """Copy keys, rotated by their place, and values of the seen chunks in front of those of the new chunk."""
        if not count:
            return
        table = self._rotary[0][: count * self._tokens], self._rotary[1][: count * self._tokens]
        for kept, seen, rotary in zip(self._kept, self._seen, (table, None), strict=True):
            chosen = kept.index_select(1, self._slots[:count]).flatten(1, 2)
            seen[:, 0, :, : count * self._tokens].copy_(trunk.rotated(chosen, rotary))

    def _predict(self, modulation: Tensor, rotary: RotaryTable, count: int, keep: bool) -> Float[Tensor, "1 l c h w"]:
        """Predict the velocity of the chunk; with `keep`, also write its keys and values into its slot."""
        weights = self._weights
        x = embed_patches(self._x.to(weights.patches.dtype), weights.patches, weights.patches_bias)
        tokens = (count + 1) * self._tokens
        seen_keys, seen_values = (buffer[:, :, :, :tokens] for buffer in self._seen)
        keys, values = self._cross
        patches, made = trunk.trunk_forward_after(
            weights.trunk,
            x.flatten(1, 2)[None],
            modulation,
            keys,
            values,
            rotary,
            seen_keys,
            seen_values,
            keep=keep,
        )
        for kept, own in zip(self._kept, made, strict=False):
            kept.index_copy_(1, self._slots[count : count + 1], own)
        h, w = weights.grid
        p = weights.patch_size
        return rearrange(patches, "k b (l h w) (p q c) -> (k b) l c (h p) (w q)", h=h, w=w, p=p, q=p).float()
