from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.models import scenetok_networks
from scenetok_ns.models.autoencoders.conv import CHANNELS, ConvAutoencoder, ConvCodec, conv_latent_space
from scenetok_ns.models.autoencoders.registry import build_autoencoder
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.metrics import psnr
from scenetok_ns.models.presets import AutoencoderConfig, load_preset
from scenetok_ns.models.scenegen import generate
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.scenetok_networks import GENERATOR_OF
from scenetok_ns.models.weight_files import CheckpointError, embedded_weights, load_weights, save_weights


def test_weights_come_back_in_half_precision(tmp_path: Path) -> None:
    saved, loaded = nn.Linear(3, 2), nn.Linear(3, 2)
    save_weights({"a": saved, "b": nn.Linear(1, 1)}, tmp_path / "w.safetensors")
    load_weights({"a": loaded}, tmp_path / "w.safetensors")
    assert torch.equal(loaded.weight, saved.weight.half().float())
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_weights_of_something_else_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights({"a": nn.Linear(3, 2)}, path)
    with pytest.raises(ValueError, match=r"w\.safetensors.*do not fit a"):
        load_weights({"a": nn.Linear(4, 2)}, path)
    with pytest.raises(ValueError, match="do not fit b"):
        load_weights({"b": nn.Linear(3, 2)}, path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="not a readable weights file"):
        load_weights({"a": nn.Linear(3, 2)}, path)


@pytest.mark.parametrize("layout", [(1, 1), (4, 1), (17, 5)])
def test_conv_autoencoder_keeps_frames_in_order_in_every_layout(layout: tuple[int, int]) -> None:
    torch.manual_seed(0)
    config = AutoencoderConfig("conv", frames_per_chunk=layout[0], latents_per_chunk=layout[1])
    codec = ConvCodec().eval()
    model = ConvAutoencoder(conv_latent_space(config), codec)
    frames = torch.rand(1, 2 * layout[0], 3, 16, 24)
    latents = model.encode(frames)
    per_latent = -(-layout[0] // layout[1])
    assert latents.shape == (1, 2 * layout[1], CHANNELS * per_latent, 2, 3)
    alone = torch.cat([codec.decode(codec.encode(f[None] * 2 - 1)) for f in frames[0]]) / 2 + 0.5
    torch.testing.assert_close(model.decode(latents)[0], alone.clamp(0, 1), atol=1e-5, rtol=1e-5)


def test_shipped_codec_gives_pictures_back_and_codes_of_unit_size() -> None:
    rooms = sample_rooms([3])
    c2w = sample_walks(rooms, 12)[:, ::3]
    frames = render_rooms(rooms, c2w, rooms.intrinsics[:, None].expand(-1, 4, 3, 3), 64)
    model = build_autoencoder(load_preset("scenetok-tiny").target_autoencoder)
    latents = model.encode(frames)
    psnr = -10 * (model.decode(latents) - frames).square().mean().log10()
    assert psnr > 28
    assert 0.5 < latents.std() < 1.5


def test_shipped_weights_are_small_enough_to_ship() -> None:
    """All bundled weights are part of the package and its repository, so they must stay small."""
    total = sum(
        embedded_weights(name).stat().st_size for name in ("scenetok-tiny", "scenegen-tiny", "scenetok-tiny-depth")
    )
    assert total <= 34 * 2**20


def test_matrices_in_eight_bits_come_back_within_half_a_step(tmp_path: Path) -> None:
    """Each row has its own scale, so rows of very different size keep their precision. Small tensors, and modules that
    are not named, stay in half precision."""
    torch.manual_seed(0)
    layer, plain, back = nn.Linear(256, 64), nn.Linear(256, 64), nn.Linear(256, 64)
    with torch.no_grad():
        layer.weight *= torch.logspace(-3, 2, 64)[:, None]
    save_weights({"a": layer, "b": plain}, tmp_path / "w.safetensors", eight_bits=("a",))
    load_weights({"a": back}, tmp_path / "w.safetensors")
    step = layer.weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((back.weight - layer.weight).abs() <= 0.5001 * step).all()
    assert torch.allclose(back.bias, layer.bias, atol=1e-3)
    load_weights({"b": back}, tmp_path / "w.safetensors")
    assert torch.equal(back.weight, plain.weight.half().float())


def test_the_shipped_generator_gives_its_photograph_back() -> None:
    """The generated scene reproduces the photograph only with the tokenizer that the generator was trained on, so this
    fails if the two bundled files do not belong together."""
    rooms = sample_rooms([scene_seed(0, "test", index) for index in range(2)])
    c2w = sample_walks(rooms, 12)
    frames = render_rooms(rooms, c2w, rooms.intrinsics, 128)
    model = SceneTok.from_preset(load_preset("scenegen-tiny")).eval()
    model.load_embedded()
    assert model.preset.scene_sampler is not None
    sampler = replace(model.preset.scene_sampler, steps=10, solver="multistep")
    cameras = CameraBatch(c2w[:1], rooms.intrinsics[:1, None].expand(-1, 12, -1, -1))
    photograph = cameras.select([0])
    scores = []
    for given in (frames[0, :1], frames[1, :1]):
        tokens = generate(model, given, photograph, cameras, sampler=sampler)
        scores.append(float(psnr(pred=model.render(tokens, photograph), target=frames[0, :1]).mean()))
    own, wrong = scores
    assert own > 15 and own > wrong + 3


def test_a_generator_of_another_tokenizer_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    generator = SceneTok.from_preset(load_preset("scenegen-tiny")).scene_generator
    save_weights({"scene_generator": generator}, tmp_path / "scenegen-tiny.safetensors", {GENERATOR_OF: "0"})
    monkeypatch.setattr(
        scenetok_networks,
        "embedded_weights",
        lambda name: tmp_path / f"{name}.safetensors" if name == "scenegen-tiny" else embedded_weights(name),
    )
    with pytest.raises(CheckpointError, match="trained on the tokens of another compressor"):
        SceneTok.from_preset(load_preset("scenegen-tiny")).load_embedded()
