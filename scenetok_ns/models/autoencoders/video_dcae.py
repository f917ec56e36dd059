"""Video DC-AE (f32 t4 c128): 4 frames share a latent of 1/32 the height and width, with 128 channels.

Published as `F32T4C128_AE.safetensors` (https://huggingface.co/hpcai-tech/Open-Sora-v2-Video-DC-AE). Long clips and
large frames run in overlapping tiles that are cross-faded, as published, which also bounds memory.

The frames of a clip influence each other: inside a tile, attention sums over all of time and space. Encoding or
decoding a clip in different pieces therefore gives different numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.autoencoders import weights as weight_files
from scenetok_ns.models.autoencoders.base import Autoencoder, LatentSpace
from scenetok_ns.models.autoencoders.video_dcae_fast import SMALL_STRIP_POSITIONS, STRIP_POSITIONS, FastDecoder
from scenetok_ns.models.autoencoders.video_dcae_layers import VideoDCAEConfig, VideoDCAENetwork
from scenetok_ns.models.ops.graphs import Replayed
from scenetok_ns.models.presets import AutoencoderConfig
from scenetok_ns.models.temporal import TemporalLayout

WEIGHTS_FILE = "F32T4C128_AE.safetensors"
TIME, SPACE = 4, 32
"""Number of frames per latent, and of pixels per latent position in each direction."""


@dataclass(frozen=True)
class Tiling:
    """How long clips and large frames are cut into tiles. Memory must hold one tile of `frames` x `pixels`^2."""

    frames: int = 32
    """Length of a tile; a multiple of 4, at least 8. Clips up to this length are not cut in time."""
    pixels: int = 256
    """Side of a tile; a multiple of 32. Frames up to this size are not cut in space."""
    overlap: float = 0.25
    """Fraction of a tile that is cross-faded with the previous tile."""

    def __post_init__(self) -> None:
        if self.frames % TIME or self.pixels % SPACE or self.frames < 2 * TIME or self.pixels < SPACE:
            raise ValueError(
                f"Tiling: frames must be a multiple of {TIME} and at least {2 * TIME}, pixels a multiple of {SPACE}; "
                f"got {self}"
            )
        if not 0 <= self.overlap < 1 or int(self.frames // TIME * (1 - self.overlap)) < 2:
            raise ValueError(f"Tiling: overlap {self.overlap} leaves less than two latents of a tile; got {self}")

    def encode_axes(self) -> tuple[_Axis, _Axis]:
        return (
            _Axis.make(self.frames, self.frames // TIME, self.overlap),
            _Axis.make(self.pixels, self.pixels // SPACE, self.overlap),
        )

    def decode_axes(self) -> tuple[_Axis, _Axis]:
        return (
            _Axis.make(self.frames // TIME, self.frames, self.overlap),
            _Axis.make(self.pixels // SPACE, self.pixels, self.overlap),
        )


ONLINE_TILING = Tiling()
"""Tiling with which the published code encodes and decodes on the fly."""
REPLAYED_LATENTS = 2
"""Maximum number of latents that a CUDA graph decodes: for so few, launching kernels takes longer than running them."""
PRECOMPUTE_TILING = Tiling(frames=16, overlap=0.0)
"""Tiling with which the published code computes stored latents: independent groups of 16 frames."""


@dataclass(frozen=True)
class _Axis:
    """Tiling of one axis: input positions of a tile and between tiles, output positions kept and blended."""

    size: int
    step: int
    keep: int
    blend: int

    @classmethod
    def make(cls, size_in: int, size_out: int, overlap: float) -> _Axis:
        blend = int(size_out * overlap)
        return cls(size_in, int(size_in * (1 - overlap)), size_out - blend, blend)

    def cut(self, x: Tensor, dim: int) -> list[Tensor]:
        """Cut `x` into tiles along `dim`. The last ones may be short, and may lie inside the tile before them."""
        length = x.shape[dim]
        return [x.narrow(dim, i, min(self.size, length - i)) for i in range(0, length, self.step)]

    def trim(self, x: Tensor, dim: int) -> Tensor:
        return x.narrow(dim, 0, min(self.keep, x.shape[dim]))


def video_dcae_latent_space(config: AutoencoderConfig) -> LatentSpace:
    return LatentSpace(TemporalLayout(TIME, 1, TIME), SPACE, 128, std=(1 / config.scale,))


class VideoDCAE(Autoencoder):
    """Autoencoder of groups of 4 frames. It corrects the lengths that the published network gets wrong.

    The published network decodes a tile of a single latent (a clip of one latent, or one left over for the last tile)
    to one frame instead of four. `decode_raw` repeats the latent in such a tile and keeps the first 4 frames, so
    n latents always give 4 n frames; all other tiles are as published. The autoencoder is deterministic, so it ignores
    noise.
    """

    def __init__(self, space: LatentSpace, network: VideoDCAENetwork, tiling: Tiling = ONLINE_TILING) -> None:
        super().__init__(space)
        self.network = network
        self.tiling = tiling
        self._fast: FastDecoder | None = None
        """Decoder of copies from `for_inference`, which then replaces the network's."""
        self._replayed: Replayed | None = None
        """The same decoder as a CUDA graph, for small tiles."""

    def encode_video(
        self, video: Float[Tensor, "b f 3 height width"], tiling: Tiling | None = None
    ) -> Float[Tensor, "b l c h w"]:
        """Encode pixels in [-1, 1] to raw latents exactly as published, in tiles if the video is larger than a tile.

        One or two frames give one latent. Other lengths fail if the number of frames is odd where it is halved.
        """
        time, space = (tiling or self.tiling).encode_axes()
        return _run_tiled(self.network.encoder, self._to_network(video), time, space).transpose(1, 2)

    def decode_video(
        self, latents: Float[Tensor, "b l c h w"], tiling: Tiling | None = None
    ) -> Float[Tensor, "b f 3 height width"]:
        """Decode raw latents exactly as published: pixels of about [-1, 1], not clamped, possibly too few frames."""
        time, space = (tiling or self.tiling).decode_axes()
        return _run_tiled(self.network.decoder, self._to_network(latents), time, space).transpose(1, 2)

    def _to_network(self, x: Tensor) -> Tensor:
        if self._fast is not None:
            return x.transpose(1, 2).to(self._fast.dtype)
        return x.transpose(1, 2).to(self.network.encoder.project_in.conv.weight.dtype)

    def _encode(self, frames: Tensor, noise: torch.Generator | Tensor | None) -> Tensor:
        return self.encode_video(frames * 2 - 1).to(frames.dtype)

    def _decode(self, latents: Tensor) -> Tensor:
        time, space = self.tiling.decode_axes()
        video = _run_tiled(self._decode_all_frames, self._to_network(latents), time, space).transpose(1, 2)
        return video.to(latents.dtype) / 2 + 0.5

    def decode_next(self, latents: Tensor, before: Tensor | None) -> Tensor:
        """Decode the latent together with the one before it: the network would get a single latent twice anyway."""
        both = latents if before is None else torch.cat([before, latents], dim=1)
        _, space = self.tiling.decode_axes()
        raw = self._to_network(self.space.denormalize(both))
        video = _run_tiled_in_space(lambda x: self._decode_all_frames(x, replay=True), raw, space).transpose(1, 2)
        return (video[:, -TIME * latents.shape[1] :].to(latents.dtype) / 2 + 0.5).clamp(0, 1)

    def latents_needed(self, num_frames: int) -> int:
        """Number of leading latents to decode: at least two, because the network treats a single one as an image."""
        return max(super().latents_needed(num_frames), 2)

    def for_inference(
        self, device: torch.device, dtype: torch.dtype, *, graphs: bool = False, low_vram: bool = False
    ) -> VideoDCAE:
        """Return a copy that decodes faster. It encodes with this autoencoder's network, which is not faster."""
        inference_copy = copy.copy(self)
        positions = SMALL_STRIP_POSITIONS if low_vram else STRIP_POSITIONS
        inference_copy._fast = FastDecoder(self.network.decoder, device, dtype, strip_positions=positions)
        inference_copy._replayed = Replayed(inference_copy._fast) if graphs else None
        return inference_copy

    def _decode_pieces(self, pieces: Iterable[Tensor], num_frames: int | None) -> Iterator[Tensor]:
        """Decode each tile as soon as its latents have arrived.

        The last frames of a tile are held back, because the next tile is faded in over them.
        """
        time, space = self.tiling.decode_axes()
        waiting: Tensor | None = None
        before: Tensor | None = None
        tiles = 0

        def tile(latents: Tensor) -> Tensor:
            wanted = None if num_frames is None else num_frames - tiles * time.keep
            raw = self._to_network(self.space.denormalize(latents))
            # Only the first tile uses a graph: later the device is busy, so launching kernels costs no time.
            video = _run_tiled_in_space(lambda x: self._decode_all_frames(x, wanted, replay=tiles == 0), raw, space)
            return video if before is None else cross_fade(before, video, time.blend, 2)

        def finished(video: Tensor, dtype: torch.dtype) -> Tensor:
            return (video.transpose(1, 2).to(dtype) / 2 + 0.5).clamp(0, 1)

        for piece in pieces:
            waiting = piece if waiting is None else torch.cat([waiting, piece], dim=1)
            while waiting.shape[1] >= time.size:
                before = tile(waiting[:, : time.size])
                yield finished(time.trim(before, 2), piece.dtype)
                waiting, tiles = waiting[:, time.step :], tiles + 1
        if waiting is None:
            return
        if tiles == 1 and waiting.shape[1] == time.size - time.step and before is not None:
            # A clip of exactly one tile is not cut in time, so nothing is faded in over its end.
            yield finished(before[:, :, time.keep :], waiting.dtype)
            return
        if tiles == 0:  # a clip shorter than a tile is not cut in time either
            yield finished(tile(waiting), waiting.dtype)
            return
        while waiting.shape[1]:
            before = tile(waiting)
            yield finished(time.trim(before, 2), waiting.dtype)
            waiting, tiles = waiting[:, time.step :], tiles + 1

    def _decode_all_frames(
        self, latents: Float[Tensor, "b c l h w"], wanted: int | None = None, *, replay: bool = False
    ) -> Float[Tensor, "b 3 f height width"]:
        """Decode one tile.

        Args:
            latents: Raw latents of the tile.
            wanted: Number of leading frames that are needed; later ones may be missing. None: all.
            replay: Use a CUDA graph if the tile is small.
        """
        single = latents.shape[2] == 1
        if single:
            latents = latents.expand(-1, -1, 2, -1, -1)
        if self._fast is None:
            frames = self.network.decoder(latents)
        else:
            length = TIME * latents.shape[2]
            small = replay and latents.shape[2] <= REPLAYED_LATENTS
            run = self._replayed if small and self._replayed is not None else self._fast
            frames = run(latents, length if wanted is None else min(max(wanted, 1), length))
        return frames[:, :, :TIME] if single else frames


def _run_tiled(network: Callable[[Tensor], Tensor], x: Tensor, time: _Axis, space: _Axis) -> Tensor:
    """Run `network` on [b, c, t, h, w] in tiles of time, and each of them in tiles of space."""
    if x.shape[2] <= time.size:
        return _run_tiled_in_space(network, x, space)
    done: list[Tensor] = []
    for tile in time.cut(x, 2):
        tile = _run_tiled_in_space(network, tile, space)
        done.append(cross_fade(done[-1], tile, time.blend, 2) if done else tile)
    return torch.cat([time.trim(tile, 2) for tile in done], dim=2)


def _run_tiled_in_space(network: Callable[[Tensor], Tensor], x: Tensor, space: _Axis) -> Tensor:
    if x.shape[3] <= space.size and x.shape[4] <= space.size:
        return _run_one_by_one(network, x)
    above: list[Tensor] = []
    rows = []
    for strip in space.cut(x, 3):
        row: list[Tensor] = []
        for column, tile in enumerate(space.cut(strip, 4)):
            tile = _run_one_by_one(network, tile)
            if above:
                tile = cross_fade(above[column], tile, space.blend, 3)
            if row:
                tile = cross_fade(row[-1], tile, space.blend, 4)
            row.append(tile)
        rows.append(torch.cat([space.trim(space.trim(tile, 3), 4) for tile in row], dim=4))
        above = row
    return torch.cat(rows, dim=3)


def _run_one_by_one(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run batch items one after the other. They are independent, and memory then holds only one tile."""
    return torch.cat([network(item) for item in x.split(1)])


def cross_fade(before: Tensor, tile: Tensor, length: int, dim: int) -> Tensor:
    """Fade the first positions of `tile` along `dim` in over the last ones of `before`, which is already faded.

    At offset y of n the new tile has the weight y / n, so the first position comes from the old tile alone.
    """
    n = min(before.shape[dim], tile.shape[dim], length)
    if n == 0:
        return tile
    shape = [1] * tile.ndim
    shape[dim] = n
    weight = (torch.arange(n, device=tile.device, dtype=torch.float32) / n).view(shape)
    old, new = before.narrow(dim, before.shape[dim] - n, n), tile.narrow(dim, 0, n)
    faded = (old * (1 - weight) + new * weight).to(tile.dtype)
    return torch.cat([faded, tile.narrow(dim, n, tile.shape[dim] - n)], dim=dim)


def load_network(
    path: Path, config: VideoDCAEConfig, device: torch.device | str, dtype: torch.dtype
) -> VideoDCAENetwork:
    """Build the network with the weights of the published file."""
    network = weight_files.instantiate_on_meta(lambda: VideoDCAENetwork(config))
    weight_files.load_strict(
        network,
        weight_files.read_state(path),
        what=f"Video DC-AE f32t4c128 ({WEIGHTS_FILE})",
        path=path,
        device=device,
        dtype=dtype,
    )
    return network
