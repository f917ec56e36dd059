"""The common interface of all autoencoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.presets import AutoencoderConfig
from scenetok_ns.models.temporal import TemporalLayout


@dataclass(frozen=True)
class LatentSpace:
    """Properties of an autoencoder that the networks depend on. Needs no weights.

    `mean` and `std` have one entry for each channel, or one for all: the networks see (raw - mean) / std.
    """

    layout: TemporalLayout
    spatial_factor: int
    channels: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(
                    f"LatentSpace: {name} needs 1 or {self.channels} entries, got {len(getattr(self, name))}"
                )

    def latent_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the latents of images of (height, width) pixels."""
        height, width = image_size
        if height % self.spatial_factor or width % self.spatial_factor:
            raise ValueError(
                f"LatentSpace: image size {height} x {width} is not divisible by {self.spatial_factor}; crop it first"
            )
        return height // self.spatial_factor, width // self.spatial_factor

    def normalize(self, raw: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        """Convert raw latents, from the autoencoder or from a latent file, to those that the networks see.

        Computed in float32 or wider, returned in the dtype of `raw`.
        """
        return ((raw - _per_channel(self.mean, raw.device)) / _per_channel(self.std, raw.device)).to(raw.dtype)

    def denormalize(self, latents: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        """The inverse of `normalize`."""
        mean, std = _per_channel(self.mean, latents.device), _per_channel(self.std, latents.device)
        return (latents * std + mean).to(latents.dtype)


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Float[Tensor, "c 1 1"]:
    """The statistics on `device`, copied there once: a copy for each call would wait for the device."""
    with torch.inference_mode(False):  # an inference tensor in the cache could not take part in training later
        return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


class Autoencoder(nn.Module, ABC):
    """A frozen autoencoder between frames in [0, 1] and latents as the networks see them.

    The wrapper handles range conversion, latent statistics, chunking and precision. Frames and latents come
    back in the dtype of the input, whatever the dtype of the weights. A subclass writes `_encode` and `_decode`, which
    may rely on checked shapes.
    """

    def __init__(self, space: LatentSpace) -> None:
        super().__init__()
        self.space = space

    def encode_raw(
        self,
        frames: Float[Tensor, "b f 3 height width"],
        *,
        noise: torch.Generator | Float[Tensor, "b l c h w"] | None = None,
    ) -> Float[Tensor, "b l c h w"]:
        """Frames in [0, 1], whole chunks of the temporal layout -> raw latents.

        `noise` is for autoencoders that sample: a generator (on the CPU: the same latents on every device), the
        standard normal noise itself, or None for the mean. Deterministic autoencoders ignore it.
        """
        self._check_frames(frames)
        return self._encode(frames, noise)

    def decode_raw(self, latents: Float[Tensor, "b l c h w"]) -> Float[Tensor, "b f 3 height width"]:
        """Raw latents, whole chunks -> exactly `space.layout.num_frames(l)` frames, clamped to [0, 1]."""
        if latents.ndim != 5 or latents.shape[2] != self.space.channels:
            raise ValueError(
                f"{type(self).__name__}: expected latents [b, l, {self.space.channels}, h, w], "
                f"got shape {list(latents.shape)}"
            )
        self.space.layout.num_frames(latents.shape[1])  # refuses what is not whole chunks
        return self._decode(latents).clamp(0, 1)

    def encode(
        self,
        frames: Float[Tensor, "b f 3 height width"],
        *,
        noise: torch.Generator | Float[Tensor, "b l c h w"] | None = None,
    ) -> Float[Tensor, "b l c h w"]:
        """`encode_raw`, normalised."""
        return self.space.normalize(self.encode_raw(frames, noise=noise))

    def decode(self, latents: Float[Tensor, "b l c h w"]) -> Float[Tensor, "b f 3 height width"]:
        """`decode_raw` of normalised latents."""
        return self.decode_raw(self.space.denormalize(latents))

    def decode_next(
        self, latents: Float[Tensor, "b l c h w"], before: Float[Tensor, "b l c h w"] | None
    ) -> Float[Tensor, "b f 3 height width"]:
        """Decode one chunk of a clip without an end, as soon as it is there.

        Args:
            latents: The chunk.
            before: The chunk before it, for autoencoders whose chunks influence one another; None: it is the first.
        """
        return self.decode(latents)

    def decode_stream(
        self, pieces: Iterable[Float[Tensor, "b l c h w"]], *, num_frames: int | None = None
    ) -> Iterator[Float[Tensor, "b f 3 height width"]]:
        """Decode a clip whose latents arrive in pieces of whole chunks; frames come as soon as they are final.

        Joined, they equal the first `num_frames` (None: all) frames of `decode` of the joined latents; work for others
        is left out where that changes nothing. All pieces are consumed, even if fewer frames are wanted.
        """
        given = 0
        for frames in self._decode_pieces(pieces, num_frames):
            wanted = frames if num_frames is None else frames[:, : max(num_frames - given, 0)]
            given += frames.shape[1]
            if wanted.shape[1]:
                yield wanted

    def latents_needed(self, num_frames: int) -> int:
        """How many leading latents to decode where only the first `num_frames` frames are wanted."""
        return self.space.layout.num_latents(num_frames)

    def for_inference(self, device: torch.device, dtype: torch.dtype, *, graphs: bool = False) -> Autoencoder:
        """Return a faster autoencoder that computes the same in the direction that rendering needs, up to rounding.

        It holds copies of the weights, and serves one thread and one stream at a time. If there is no faster version,
        it is this autoencoder itself.

        Args:
            device: Device of the copies.
            dtype: Dtype of the copies and of the computation.
            graphs: Replay CUDA graphs where launching kernels would take longer.
        """
        return self

    def _decode_pieces(self, pieces: Iterable[Tensor], num_frames: int | None) -> Iterator[Tensor]:
        """All frames, of which those from `num_frames` on need not be right. Chunks are taken as independent; an
        autoencoder whose chunks influence one another overrides this."""
        for piece in pieces:
            yield self.decode(piece)

    @abstractmethod
    def _encode(self, frames: Tensor, noise: torch.Generator | Tensor | None) -> Tensor: ...

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor: ...

    def _check_frames(self, frames: Tensor) -> None:
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"{type(self).__name__}: expected frames [b, f, 3, h, w], got shape {list(frames.shape)}")
        self.space.latent_size((frames.shape[3], frames.shape[4]))
        chunk = self.space.layout.frames_per_chunk
        if frames.shape[1] == 0 or frames.shape[1] % chunk:
            raise ValueError(
                f"{type(self).__name__}: {frames.shape[1]} frames are not whole chunks of {chunk}; "
                "cut the clip or repeat its last frame"
            )


def temporal_layout(config: AutoencoderConfig) -> TemporalLayout:
    """Layout of an autoencoder that takes it from its configuration (pixel and conv)."""
    if config.frames_per_latent is None:
        return TemporalLayout(config.frames_per_chunk, config.latents_per_chunk)
    return TemporalLayout(config.frames_per_chunk, config.latents_per_chunk, config.frames_per_latent)


def to_channels_last(module: nn.Module) -> None:
    """Lay out the weights of 2-D and 3-D convolutions with channels last, which their inputs then follow; in place."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
