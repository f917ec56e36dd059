"""The low-VRAM wrapper moves the weights at the right moments and does not change results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor

from scenetok_ns.models.autoencoders.offload import OffloadedAutoencoder
from scenetok_ns.models.autoencoders.pixel import PixelAutoencoder, pixel_latent_space
from scenetok_ns.models.autoencoders.registry import cuda_dtype
from scenetok_ns.models.presets import AutoencoderConfig, load_preset
from scenetok_ns.models.scenetok import SceneTok

SPACE = pixel_latent_space(AutoencoderConfig("pixel", spatial_factor=8))


class Watched(PixelAutoencoder):
    """Records the devices that it is moved to. Like Video DC-AE, it holds one piece back and decodes it at the end."""

    def __init__(self) -> None:
        super().__init__(SPACE)
        self.events: list[str] = []

    def _decode_pieces(self, pieces: Iterable[Tensor], num_frames: int | None) -> Iterator[Tensor]:
        held = None
        for piece in pieces:
            if held is not None:
                self.events.append("decode")
                yield self.decode(held)
            held = piece
        assert held is not None
        self.events.append("decode")
        yield self.decode(held)


def latents(count: int) -> Tensor:
    return torch.randn(1, count, SPACE.channels, 1, 1, generator=torch.Generator().manual_seed(0))


def test_results_are_those_of_the_inner_one() -> None:
    plain, offloaded = PixelAutoencoder(SPACE), OffloadedAutoencoder(PixelAutoencoder(SPACE))
    frames = torch.rand(1, 3, 3, 8, 8)
    assert torch.equal(offloaded.encode(frames), plain.encode(frames))
    pieces = [latents(2), latents(1)]
    streamed = torch.cat(list(offloaded.decode_stream(pieces)), dim=1)
    assert torch.equal(streamed, plain.decode(torch.cat(pieces, dim=1)))


def test_weights_are_away_only_while_they_work(monkeypatch: pytest.MonkeyPatch) -> None:
    # Everything is on the CPU here, so the test replaces the wrapper's HOME and distinguishes devices by identity.
    from scenetok_ns.models.autoencoders import offload

    home = torch.device("meta")
    monkeypatch.setattr(offload, "HOME", home)
    inner = Watched()
    log = inner.events
    inner.to = lambda device: (log.append("home" if device == home else "device"), inner)[1]  # type: ignore[method-assign]
    wrapper = OffloadedAutoencoder(inner)
    assert log == ["home"]

    def pieces() -> Iterator[Tensor]:
        for _ in range(2):
            log.append("denoise")
            yield latents(1)

    del log[:]
    list(wrapper.decode_stream(pieces()))
    where, state = {"denoise": [], "decode": []}, None
    for event in log:
        if event in where:
            where[event].append(state)
        else:
            state = event
    assert where == {"denoise": ["home"] * 2, "decode": ["device"] * 2}
    assert log[-1] == "home"

    del log[:]
    with pytest.raises(RuntimeError, match="stop"):
        monkeypatch.setattr(inner, "_decode", lambda latents: (_ for _ in ()).throw(RuntimeError("stop")))
        wrapper.decode(latents(1))
    assert log == ["device", "home"]


def test_on_a_gpu_the_weights_are_in_the_published_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = PixelAutoencoder(SPACE)
    inner.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))
    moves: list[object] = []
    wrapper = OffloadedAutoencoder(inner, torch.bfloat16)
    monkeypatch.setattr(inner, "to", lambda device=None, dtype=None: (moves.append(dtype or device.type), inner)[1])
    wrapper._go_to(torch.device("cpu"))
    wrapper._go_to(torch.device("cuda"))
    assert moves == ["cpu", torch.bfloat16, "cuda"]
    monkeypatch.undo()
    wrapper.to(torch.bfloat16)
    assert inner.weight.dtype == torch.float32
    assert cuda_dtype(load_preset("re10k").context_autoencoder) == torch.bfloat16
    assert cuda_dtype(load_preset("re10k").target_autoencoder) == torch.float32
    assert cuda_dtype(load_preset("scenetok-tiny").target_autoencoder) is None


def test_the_model_takes_it() -> None:
    preset = load_preset("scenetok-tiny")
    model = SceneTok.from_preset(preset, low_vram=True)
    assert isinstance(model.target_autoencoder, OffloadedAutoencoder)
    model.to(torch.float64)
    assert next(model.target_autoencoder.parameters()).dtype == torch.float32
