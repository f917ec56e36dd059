"""Autoencoders that use GPU memory only while they work (the option --low-vram)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from scenetok_ns.models.autoencoders.base import Autoencoder

HOME = torch.device("cpu")


class OffloadedAutoencoder(Autoencoder):
    """Wraps an autoencoder whose weights stay in CPU memory and move to the device of the input for each call.

    The results are the same; each call takes the time to copy the weights. `.to` moves nothing.
    """

    def __init__(self, inner: Autoencoder, cuda_dtype: torch.dtype | None = None) -> None:
        """Wrap `inner`.

        Args:
            inner: The autoencoder. Its weights move to CPU memory.
            cuda_dtype: Dtype that the weights get when they first move to a GPU. None: they keep their dtype.
        """
        super().__init__(inner.space)
        self.inner, self._cuda_dtype = inner.to(HOME), cuda_dtype

    def latents_needed(self, num_frames: int) -> int:
        return self.inner.latents_needed(num_frames)

    def decode_next(self, latents: Tensor, before: Tensor | None) -> Tensor:
        with self._visit(latents.device):
            return self.inner.decode_next(latents, before)

    def for_inference(
        self, device: torch.device, dtype: torch.dtype, *, graphs: bool = False, low_vram: bool = False
    ) -> Autoencoder:
        """Return the faster version of the inner autoencoder, which stays on the device: its half-precision weights
        are small. Without a faster version, return this autoencoder."""
        inference_copy = self.inner.for_inference(device, dtype, graphs=graphs, low_vram=low_vram)
        return self if inference_copy is self.inner else inference_copy

    def _decode_pieces(self, pieces: Iterable[Tensor], num_frames: int | None) -> Iterator[Tensor]:
        """Decode pieces. While the caller computes the next piece, the weights are in CPU memory."""
        try:
            yield from self.inner._decode_pieces(self._arriving(pieces), num_frames)
        finally:
            self._go_home()

    def _arriving(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        iterator, device = iter(pieces), HOME
        while True:
            self._go_home()
            piece = next(iterator, None)
            device = device if piece is None else piece.device
            self._go_to(device)  # after the last piece too: the inner one may still have frames to decode
            if piece is None:
                return
            yield piece

    def _encode(self, frames: Tensor, noise: torch.Generator | Tensor | None) -> Tensor:
        with self._visit(frames.device):
            return self.inner._encode(frames, noise)

    def _decode(self, latents: Tensor) -> Tensor:
        with self._visit(latents.device):
            return self.inner._decode(latents)

    @contextmanager
    def _visit(self, device: torch.device) -> Iterator[None]:
        self._go_to(device)
        try:
            yield
        finally:
            self._go_home()

    def _go_to(self, device: torch.device) -> None:
        if device.type == "cuda" and self._cuda_dtype is not None:
            self.inner.to(dtype=self._cuda_dtype)
        self.inner.to(device)

    def _go_home(self) -> None:
        self.inner.to(HOME)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OffloadedAutoencoder:
        return self
