"""Causal streams of latents: each chunk is denoised in a few steps and attends to keys and values of finished chunks.

The network is the denoiser of the windows, run with attention that is causal over chunks in time. A chunk (one latent,
or all latents that an autoencoder decodes together) sees the scene tokens, itself, and earlier chunks up to a window.
Keys and values of its last step are kept. Keys are kept without rotation, and rotated by their place among the seen
chunks. Positions therefore stay within the rotary table, however long the stream is.

Streams of video models pass a finished chunk through the network once more, at time 0 (Self Forcing, 2506.08009). Here
that would double the work of one-step chunks, and it gave worse pictures (docs/performance.md).

All chunks start from the same noise, so that the picture does not flicker while the camera rests.

`StreamMemory` bounds the memory and chooses what a chunk sees: the latest chunks, and earlier views near the camera.
`models/engine/stream.py` is the fast twin of `LatentStream`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.rectified_flow import euler_step, network_time, time_grid
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.layers import KeyValues
from scenetok_ns.models.ops.rope import RotaryTable, apply_rotary
from scenetok_ns.models.temporal import TemporalLayout

KEYFRAMES = 48
"""Maximum number of keyframes: earlier views that a stream can return to. The oldest keyframe is dropped first."""
KEYFRAME_DISTANCE = 0.2
"""Minimum distance between keyframes: the angle in radians plus the movement in units of the networks."""
WIDEST_TURN = 1.0
"""Maximum angle in radians between the directions of two views that can overlap."""
MOST_STEPS = 8


@dataclass(frozen=True)
class StreamConfig:
    """How a stream denoises."""

    steps: int
    """Euler steps of a chunk."""
    timestep_shift: float | None
    """Shift of the noise levels towards noise; None: uniform levels."""
    window: int
    """Chunks that the network sees together, the new one included."""
    recalled: int
    """Number of places in the window that are reserved for earlier views near the camera."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"stream: expected 1 to {MOST_STEPS} steps, got {self.steps}")
        if not 0 <= self.recalled < self.window:
            raise ValueError(f"stream: {self.recalled} recalled chunks do not fit beside the new one in {self.window}")

    @classmethod
    def for_denoiser(
        cls, denoiser: Denoiser, layout: TemporalLayout, steps: int, timestep_shift: float | None
    ) -> StreamConfig:
        """Fill the denoiser's window; half of the past is for views that the camera comes back to.

        Raises:
            ValueError: The window holds less than one chunk, or cuts one in two.
        """
        chunks, rest = divmod(denoiser.config.num_latents, layout.latents_per_chunk)
        if rest or not chunks:
            raise ValueError(
                f"stream: a window of {denoiser.config.num_latents} latents is not whole chunks of "
                f"{layout.latents_per_chunk}, so it cannot be streamed"
            )
        return cls(steps, timestep_shift, chunks, (chunks - 1) // 2)

    @property
    def latest(self) -> int:
        """Maximum number of latest chunks, which are always seen."""
        return self.window - 1 - self.recalled

    @property
    def slots(self) -> int:
        """Maximum number of chunks whose keys and values are kept, including the one that is being written."""
        return self.latest + (KEYFRAMES if self.recalled else 0) + 1

    @property
    def times(self) -> Float[Tensor, " steps+1"]:
        return time_grid(self.steps, self.timestep_shift)


class _Kept(NamedTuple):
    number: int
    slot: int
    c2w: Float[Tensor, "4 4"]


class StreamMemory:
    """Which finished chunks are kept, in which slot, and which of them a new chunk sees.

    The latest chunks are always seen. A chunk that is no longer among them becomes a keyframe, unless another keyframe
    has nearly the same view. A new chunk also sees the keyframes nearest to its camera. Runs on the CPU only.
    """

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self._free = list(range(config.slots))
        self._latest: list[_Kept] = []
        self._keyframes: list[_Kept] = []
        self._count = 0

    def seen_from(self, c2w: Float[Tensor, "4 4"]) -> tuple[int, ...]:
        """Slots of the chunks that a new chunk at this pose sees, oldest first."""
        near = sorted(self._near(c2w))[: self.config.recalled]
        recalled = [kept for _, _, kept in near]
        return tuple(kept.slot for kept in sorted([*recalled, *self._latest], key=lambda kept: kept.number))

    def keep(self, c2w: Float[Tensor, "4 4"]) -> int:
        """Register a new chunk at this pose and return the slot for its keys and values."""
        slot = self._free.pop()
        self._latest.append(_Kept(self._count, slot, c2w.detach().cpu().double()))
        self._count += 1
        if len(self._latest) > self.config.latest:
            self._leave_latest(self._latest.pop(0))
        return slot

    def _leave_latest(self, kept: _Kept) -> None:
        known = [distance for distance, _, _ in self._near(kept.c2w, widest=torch.inf)]
        if not self.config.recalled or (known and min(known) < KEYFRAME_DISTANCE):
            self._free.append(kept.slot)
            return
        self._keyframes.append(kept)
        if len(self._keyframes) > KEYFRAMES:
            self._free.append(self._keyframes.pop(0).slot)

    def _near(self, c2w: Tensor, widest: float = WIDEST_TURN) -> list[tuple[float, int, _Kept]]:
        """Distance (angle plus movement), number and keyframe, for keyframes less than `widest` radians away."""
        if not self._keyframes:
            return []
        poses, mine = torch.stack([kept.c2w for kept in self._keyframes]), c2w.detach().cpu().double()
        turn = (poses[:, :3, 2] @ mine[:3, 2]).clamp(-1, 1).arccos()
        apart = turn + (poses[:, :3, 3] - mine[:3, 3]).norm(dim=-1)
        rows = zip(apart.tolist(), turn.tolist(), self._keyframes, strict=True)
        return [(distance, kept.number, kept) for distance, angle, kept in rows if angle < widest]


@dataclass(frozen=True)
class StreamedChunk:
    """A finished chunk of a stream."""

    latents: Float[Tensor, "b l c h w"]
    uncertainty: Float[Tensor, "b l h w"]
    """Norm of the last velocity over its channels."""


class LatentStream:
    """Streams chunks of latents through scenes. This is the plain twin of `engine.stream.EngineStream`."""

    def __init__(
        self,
        denoiser: Denoiser,
        tokens: Float[Tensor, "b n dim"],
        layout: TemporalLayout,
        config: StreamConfig,
        *,
        autocast: bool = False,
    ) -> None:
        """Start a stream before its first chunk.

        Args:
            denoiser: Causal student, or any denoiser.
            tokens: Scene tokens before projection; the stream runs on their device. All scenes of a batch recall
                earlier views by the camera of the first scene.
            layout: Temporal layout of the latents.
            config: Steps and memory.
            autocast: Run the network in bfloat16.
        """
        self.denoiser, self.layout, self.config = denoiser, layout, config
        self.memory = StreamMemory(config)
        self._precision = partial(torch.autocast, tokens.device.type, torch.bfloat16, enabled=autocast)
        with torch.no_grad(), self._precision():
            self._context = denoiser.cross_attention_kv(denoiser.project(tokens))
        self._kept: dict[int, list[KeyValues]] = {}
        table = denoiser.rotary(config.window * layout.latents_per_chunk, tokens.device)
        self._rotary = [rotary_rows(table, place, layout.latents_per_chunk * denoiser.positions) for place in
                        range(config.window)]  # fmt: skip

    @torch.no_grad()
    def next(self, cameras: CameraBatch, noise: Float[Tensor, "b l c h w"]) -> StreamedChunk:
        """Denoise the next chunk.

        Args:
            cameras: Cameras of the chunk's frames, relative to the scenes' reference views.
            noise: Latents of the chunk at time 1.
        """
        check_chunk(self.layout, cameras, noise)
        pose = cameras.c2w[0, cameras.num_views // 2]
        with self._precision():
            poses = self.denoiser.embed_poses(cameras.to(noise.device))
            slots = self.memory.seen_from(pose)
            past, rotary = self._seen(slots, noise), self._rotary[len(slots)]
            x, velocity, times = noise, noise, self.config.times.to(noise.device)
            own: list[KeyValues] = []
            for now, after in itertools.pairwise(times):
                t = now.expand(noise.shape[:2])
                velocity, own = self.denoiser.forward_after(x, poses, network_time(t), self._context, rotary, past)
                x = euler_step(x, velocity, t, after.expand(noise.shape[:2]))
        self._kept[self.memory.keep(pose)] = own
        return StreamedChunk(x, velocity.norm(dim=2))

    def _seen(self, slots: Sequence[int], like: Tensor) -> list[KeyValues]:
        """Keys, rotated by their place, and values of the chunks in these slots, for every block."""
        chunks = [self._kept[slot] for slot in slots]
        past = []
        for index, (keys, values) in enumerate(self._context):
            shape = (len(keys), keys.shape[1], 0, keys.shape[3])
            rotated = [apply_rotary(chunk[index][0], rows) for chunk, rows in zip(chunks, self._rotary, strict=False)]
            past.append(
                (
                    torch.cat([keys.new_empty(shape), *rotated], dim=2),
                    torch.cat([values.new_empty(shape), *(chunk[index][1] for chunk in chunks)], dim=2),
                )
            )
        return past


def rotary_rows(table: RotaryTable, place: int, tokens: int) -> RotaryTable:
    """Rows of a window's rotary table for the chunk at `place`, where each chunk has `tokens` tokens."""
    rows = slice(place * tokens, (place + 1) * tokens)
    return table[0][rows], table[1][rows]


def check_chunk(layout: TemporalLayout, cameras: CameraBatch, noise: Tensor) -> None:
    """Raise ValueError unless cameras and noise are one chunk of the layout."""
    if cameras.num_views != layout.frames_per_chunk or noise.shape[1] != layout.latents_per_chunk:
        raise ValueError(
            f"stream: expected a chunk of {layout.frames_per_chunk} cameras and {layout.latents_per_chunk} latents, "
            f"got {cameras.num_views} and {noise.shape[1]}"
        )
