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
    """Properties of an autoencoder that the networks depend on. They are known without its weights.

    `mean` and `std` have one entry for each channel, or one for all. The networks see (raw - mean) / std.
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
        """Height and width of the latents of images of (height, width) pixels, which the factor must divide."""
        height, width = image_size
        if height % self.spatial_factor or width % self.spatial_factor:
            raise ValueError(
                f"LatentSpace: image size {height} x {width} is not divisible by {self.spatial_factor}; crop it first"
            )
        return height // self.spatial_factor, width // self.spatial_factor

    def normalize(self, raw: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        """Convert raw latents, from the autoencoder or a latent file, to the normalised latents that networks see.

        Computed in float32 or wider, returned in the dtype of `raw`.
        """
        return ((raw - _per_channel(self.mean, raw.device)) / _per_channel(self.std, raw.device)).to(raw.dtype)

    def denormalize(self, latents: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        """Undo `normalize`."""
        mean, std = _per_channel(self.mean, latents.device), _per_channel(self.std, latents.device)
        return (latents * std + mean).to(latents.dtype)


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Float[Tensor, "c 1 1"]:
    """Statistics as a tensor on `device`. They are copied only once, because each copy waits for the device."""
    with torch.inference_mode(False):  # an inference tensor in the cache could not take part in training later
        return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


class Autoencoder(nn.Module, ABC):
    """A frozen autoencoder between frames in [0, 1] and the latents that the networks see.

    The class handles range conversion, latent statistics, chunking and precision. Frames and latents are returned in
    the dtype of the input, whatever the dtype of the weights. A subclass implements `_encode` and `_decode`, which get
    checked shapes.
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
        """Encode frames to raw latents.

        Args:
            frames: Frames in [0, 1], in whole chunks of the temporal layout.
            noise: For autoencoders that sample: a random generator (one on the CPU gives the same latents on every
                device), or the standard normal noise itself. None: the mean. Deterministic autoencoders ignore it.
        """
        self._check_frames(frames)
        return self._encode(frames, noise)

    def decode_raw(self, latents: Float[Tensor, "b l c h w"]) -> Float[Tensor, "b f 3 height width"]:
        """Decode raw latents, in whole chunks, to `space.layout.num_frames(l)` frames, clamped to [0, 1]."""
        if latents.ndim != 5 or latents.shape[2] != self.space.channels:
            raise ValueError(
                f"{type(self).__name__}: expected latents [b, l, {self.space.channels}, h, w], "
                f"got shape {list(latents.shape)}"
            )
        self.space.layout.num_frames(latents.shape[1])  # raises an error unless these are whole chunks
        return self._decode(latents).clamp(0, 1)

    def encode(
        self,
        frames: Float[Tensor, "b f 3 height width"],
        *,
        noise: torch.Generator | Float[Tensor, "b l c h w"] | None = None,
    ) -> Float[Tensor, "b l c h w"]:
        """Encode frames to normalised latents; arguments as in `encode_raw`."""
        return self.space.normalize(self.encode_raw(frames, noise=noise))

    def decode(self, latents: Float[Tensor, "b l c h w"]) -> Float[Tensor, "b f 3 height width"]:
        """Decode normalised latents to frames, as `decode_raw` does."""
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
        """Decode a clip whose latents arrive in pieces of whole chunks, and yield frames as soon as they are final.

        The joined frames equal the first `num_frames` (None: all) frames that `decode` gives for the joined latents.
        Work for further frames is skipped if that changes nothing. All pieces are consumed, even if fewer frames are
        wanted.
        """
        given = 0
        for frames in self._decode_pieces(pieces, num_frames):
            wanted = frames if num_frames is None else frames[:, : max(num_frames - given, 0)]
            given += frames.shape[1]
            if wanted.shape[1]:
                yield wanted

    def latents_needed(self, num_frames: int) -> int:
        """Number of leading latents to decode if only the first `num_frames` frames are wanted."""
        return self.space.layout.num_latents(num_frames)

    def for_inference(
        self, device: torch.device, dtype: torch.dtype, *, graphs: bool = False, low_vram: bool = False
    ) -> Autoencoder:
        """Return a version that is faster in the direction that rendering needs, with the same results up to rounding.

        It holds copies of the weights, and serves one thread and one stream at a time. If there is no faster version,
        returns this autoencoder itself.

        Args:
            device: Device of the copies.
            dtype: Dtype of the copies and of the computation.
            graphs: Replay CUDA graphs for work whose kernels take longer to launch than to run.
            low_vram: Work in smaller pieces where that saves memory, even if it takes longer.
        """
        return self

    def _decode_pieces(self, pieces: Iterable[Tensor], num_frames: int | None) -> Iterator[Tensor]:
        """Yield all frames; those from `num_frames` on may be wrong. Override this if chunks influence one another."""
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
    """Temporal layout from the configuration of a pixel or conv autoencoder."""
    if config.frames_per_latent is None:
        return TemporalLayout(config.frames_per_chunk, config.latents_per_chunk)
    return TemporalLayout(config.frames_per_chunk, config.latents_per_chunk, config.frames_per_latent)


def to_channels_last(module: nn.Module) -> None:
    """Store the weights of 2-D and 3-D convolutions with channels last, in place. Their inputs then follow."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
