"""The engine on a CUDA device in bfloat16: as close to float32 as the plain loop in bfloat16 is; kernels; memory."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.oracle import path
from torch import Tensor

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.autoencoders.vavae import VAVAE, VAVAEConfig, build_network
from scenetok_ns.models.autoencoders.video_dcae import VideoDCAE
from scenetok_ns.models.autoencoders.video_dcae_fast import FastDecoder
from scenetok_ns.models.autoencoders.video_dcae_layers import VideoDCAEConfig, VideoDCAENetwork
from scenetok_ns.models.autoencoders.wan import WanConfig, WanVAE
from scenetok_ns.models.autoencoders.wan import build_network as wan_network
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.ops import dispatch as kernels
from scenetok_ns.models.ops.rope import angles_3d, rotary_table
from scenetok_ns.models.presets import AutoencoderConfig, load_preset
from scenetok_ns.models.scenegen import generate
from scenetok_ns.models.scenetok import SceneTok

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


def tiny(name: str = "scenetok-tiny") -> SceneTok:
    """The embedded preset with its trained weights, on the device."""
    model = SceneTok.from_preset(load_preset(name)).eval().requires_grad_(False)
    if model.preset.is_embedded:
        model.load_embedded()
    else:
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return model.to(CUDA)


def views(model: SceneTok, count: int) -> Tensor:
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=model.image_size, mode="bicubic").clamp(0, 1).to(CUDA)


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    "change", [{}, {"guidance": 2.0}, {"solver": "multistep"}, {"schedule": "autoregressive"}, {"clean_targets": 0}]
)
def test_frames_are_as_close_to_float32_as_those_of_the_plain_loop_in_bfloat16(change: dict) -> None:
    model = tiny()
    sampler = replace(model.preset.sampler, steps=4, **change)
    cameras = path(20).to(CUDA)
    tokens = model.encode(views(model, 12), path(12).to(CUDA), autocast=False)
    exact = model.render(tokens, cameras, sampler=sampler, autocast=False)
    found = model.render(tokens, cameras, sampler=sampler)
    assert model._engine is not None
    model.engine_options = None
    rough = model.render(tokens, cameras, sampler=sampler)
    assert relative_error(found, exact) < 1.5 * relative_error(rough, exact) + 1e-3


def test_encoding_is_as_close_to_float32_as_the_plain_one_in_bfloat16() -> None:
    model = tiny()
    images, cameras = views(model, 12), path(12).to(CUDA)
    exact, found = (model.encode(images, cameras, autocast=autocast).mean for autocast in (False, None))
    model.engine_options = None
    rough = model.encode(images, cameras).mean
    assert relative_error(found, exact) < 1.5 * relative_error(rough, exact) + 1e-3


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_generation_is_as_close_to_float32_as_the_plain_one_in_bfloat16(guidance: float) -> None:
    model = tiny("scenegen-tiny")
    assert model.preset.scene_sampler is not None
    sampler = replace(model.preset.scene_sampler, steps=5, guidance=guidance)
    arguments = views(model, 1), path(1).to(CUDA), path(12).to(CUDA)
    exact, found = (generate(model, *arguments, sampler=sampler, autocast=a).mean for a in (False, None))
    model.engine_options = None
    rough = generate(model, *arguments, sampler=sampler).mean
    assert relative_error(found, exact) < 1.5 * relative_error(rough, exact) + 1e-3


def test_graphs_and_plain_launches_agree_and_batches_are_scenes_apart() -> None:
    model = tiny()
    tokens = [model.encode(views(model, count), path(count).to(CUDA)) for count in (12, 9)]
    cameras = [path(20).to(CUDA)] * 2
    alone = [
        model.render(scene, path_of, seed=s) for s, (scene, path_of) in enumerate(zip(tokens, cameras, strict=True))
    ]
    both = torch.cat([w.frames for w in model.render_many(tokens, cameras, seeds=[0, 1])], dim=1)
    for found, expected in zip(both, alone, strict=True):
        assert relative_error(found, expected) < 0.02
    model.engine_options = EngineOptions(graphs=False)
    assert relative_error(model.render(tokens[0], cameras[0]), alone[0]) < 1e-3


def test_callers_in_several_threads_get_their_own_frames() -> None:
    model = tiny()
    tokens = model.encode(views(model, 12), path(12).to(CUDA))
    expected = [model.render(tokens, path(20).to(CUDA), seed=seed) for seed in range(3)]
    found: dict[int, Tensor] = {}

    def call(seed: int) -> None:
        found[seed] = model.render(tokens, path(20).to(CUDA), seed=seed).cpu()

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for seed in range(3):
        torch.testing.assert_close(found[seed], expected[seed].cpu(), atol=1e-5, rtol=0)


def test_with_little_memory_networks_and_autoencoders_are_away_and_frames_the_same() -> None:
    model, roomy = SceneTok.from_preset(load_preset("scenetok-tiny"), low_vram=True).eval(), tiny()
    model.load_embedded()
    model = model.requires_grad_(False).to(CUDA)
    images, cameras = views(model, 12), path(12).to(CUDA)
    found = model.render(model.encode(images, cameras), path(20).to(CUDA))
    assert model.device == roomy.device
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert {parameter.device.type for parameter in roomy.parameters()} == {"cuda"}
    torch.testing.assert_close(found, roomy.render(roomy.encode(images, cameras), path(20).to(CUDA)), atol=0.02, rtol=0)
    exact = model.render(model.encode(images, cameras, autocast=False), path(20).to(CUDA), autocast=False)
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    assert relative_error(found, exact) < 0.1


def test_the_engine_is_the_default_and_exact_leaves_autoencoders_alone() -> None:
    model = tiny()
    assert model.rendered_by() == "engine" and model.rendered_by(autocast=False) == "plain loop"
    model.engine_options = "exact"
    tokens = model.encode(views(model, 12), path(12).to(CUDA))
    assert model.rendered_by() == "exact engine" and model.render(tokens, path(3).to(CUDA)).shape[0] == 3
    assert model._engine is not None and not model._engine._autoencoders


# --- autoencoders


def small_decoder() -> VideoDCAE:
    torch.manual_seed(0)
    network = VideoDCAENetwork(VideoDCAEConfig(128, (16, 32, 64, 64, 64, 128), (1,) * 6))
    return VideoDCAE(latent_space(AutoencoderConfig("video_dcae", scale=0.493)), network.requires_grad_(False))


@torch.no_grad()
def test_small_tiles_are_replayed_and_equal_those_that_are_launched() -> None:
    model = small_decoder()
    launched, replayed = (model.for_inference(CUDA, torch.bfloat16, graphs=graphs) for graphs in (False, True))
    for seed, frames in enumerate((1, 8, 1, 3)):
        latents = torch.randn(1, 2, 128, 2, 2, generator=torch.Generator().manual_seed(seed)).to(CUDA)
        found, expected = (
            torch.cat(list(each.decode_stream([latents], num_frames=frames)), dim=1) for each in (replayed, launched)
        )
        assert found.shape[1] == frames
        torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    assert replayed._replayed is not None and len(replayed._replayed._buffers) == 3


@torch.no_grad()
def test_images_are_encoded_by_a_graph_whatever_their_number() -> None:
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = build_network(VAVAEConfig((32, 32, 64, 64, 96), 2)).eval()
    model = VAVAE(latent_space(AutoencoderConfig("vavae")), network)
    launched, replayed = (model.for_inference(CUDA, torch.bfloat16, graphs=graphs) for graphs in (False, True))
    for count in (12, 1, 7):
        images = torch.rand(1, count, 3, 64, 64, device=CUDA)
        found, expected, exact = replayed.encode(images), launched.encode(images), model.to(CUDA).encode(images)
        assert relative_error(found, exact) < 1.1 * relative_error(expected, exact) + 1e-3


@torch.no_grad()
def test_wan_chunks_are_replayed() -> None:
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = WanVAE(latent_space(AutoencoderConfig("wan")), wan_network(WanConfig(8, 8, (1, 2, 2, 2), 1)).eval()).to(
        CUDA
    )
    inference_copy = model.for_inference(CUDA, torch.bfloat16, graphs=True)
    for seed in range(2):
        latents = torch.randn(1, 10, 48, 2, 2, generator=torch.Generator().manual_seed(seed)).to(CUDA)
        found = torch.cat(list(inference_copy.decode_stream([latents], num_frames=20)), dim=1)
        assert relative_error(found, model.decode(latents)[:, :20]) < 0.05


# --- kernels


@pytest.mark.parametrize("shape", [(1, 1, 512, 1024), (2, 1, 640, 1536), (1, 3, 70, 192)])
@pytest.mark.parametrize("kind", ["each token", "one row", "latents first", "channels"])
def test_norm_modulate(shape: tuple[int, ...], kind: str) -> None:
    b, n, dim = shape[1:]
    torch.manual_seed(0)
    x = torch.randn(shape, device=CUDA, dtype=torch.bfloat16)
    rows = {"each token": (b, n), "one row": (1, 1), "latents first": (n, b), "channels": ()}[kind]
    both = torch.randn(*rows, 5 * dim, device=CUDA, dtype=torch.bfloat16)
    both = both.transpose(0, 1) if kind == "latents first" else both
    scale, shift = both[..., dim : 2 * dim], both[..., 3 * dim : 4 * dim]
    exact = F.rms_norm(x.float(), (dim,), eps=1e-6) * scale.float() + shift.float()
    for residual in (None, x):
        found = kernels.norm_modulate(x, scale, shift, 1e-6, residual)
        assert relative_error(found, exact if residual is None else exact + x.float()) < 4e-3


@pytest.mark.parametrize("shape", [(1, 1, 512, 1024), (2, 1, 70, 192)])
@pytest.mark.parametrize("gated", [False, True])
def test_residual_norm(shape: tuple[int, ...], gated: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, *shape, device=CUDA, dtype=torch.bfloat16)
    both = torch.randn(*shape[1:3], 5 * shape[3], device=CUDA, dtype=torch.bfloat16)
    shift, scale, gate = both.chunk(5, dim=-1)[:3]
    total = x.float() + (gate.float() * y.float() if gated else y.float())
    exact = F.rms_norm(total, shape[3:], eps=1e-6) * scale.float() + shift.float()
    found = kernels.residual_norm(x, y, gate if gated else None, scale, shift, 1e-6)
    assert relative_error(found[0], total) < 4e-3 and relative_error(found[1], exact) < 6e-3
    if gated:
        assert relative_error(kernels.gated_residual(x, gate, y), total) < 4e-3


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("normed", [False, True])
def test_norm_rotate(rotary: bool, normed: bool) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, 512, 48, 64, device=CUDA, dtype=torch.bfloat16)
    weight = torch.rand(32, 64, device=CUDA, dtype=torch.bfloat16) + 0.5 if normed else None
    table = rotary_table(angles_3d(64, 8, (8, 8), CUDA)) if rotary else None
    found = kernels.norm_rotate(qkv[:, :, :32], weight, table, 1e-6)
    exact = kernels.norm_rotate(qkv[:, :, :32].float(), None if weight is None else weight.float(), table, 1e-6)
    assert found.shape == exact.shape and relative_error(found, exact) < 4e-3


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("gated", [False, True])
def test_depthwise_conv(side: int, gated: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, 9, 20, 192, device=CUDA, dtype=torch.bfloat16)
    weight = torch.randn(side**3, 192, device=CUDA, dtype=torch.bfloat16) / side
    bias = torch.randn(192, device=CUDA, dtype=torch.bfloat16)
    for own in (bias, None):
        found = kernels.depthwise_conv(x, weight, own, gated=gated)
        exact = kernels.depthwise_conv(x.float(), weight.float(), None if own is None else own.float(), gated=gated)
        assert relative_error(found, exact) < 4e-3


@pytest.mark.parametrize("num_keys", [512, 200])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("batch", [1, 2])  # two do not fit a GPU of 132 processors at once
def test_attend(num_keys: int, rotary: bool, batch: int) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(batch, 512, 48, 64, device=CUDA, dtype=torch.bfloat16)
    weight = torch.rand(16, 64, device=CUDA, dtype=torch.bfloat16) + 0.5
    table = rotary_table(angles_3d(64, 8, (8, 8), CUDA)) if rotary else None
    keys, values = (qkv[:, :num_keys, 16 * i : 16 * (i + 1)].transpose(1, 2) for i in (1, 2))
    found = kernels.attend(qkv[:, :, :16], weight, table, keys, values, 1e-6)
    exact = kernels.attend(qkv[:, :, :16].float(), weight.float(), table, keys.float(), values.float(), 1e-6)
    assert found.shape == exact.shape and relative_error(found, exact) < 6e-3


@pytest.mark.parametrize("rows", [512, 1024, 70])
def test_linear_gated(rows: int) -> None:
    torch.manual_seed(0)
    x, residual = torch.randn(2, 1, 1, rows, 1024, device=CUDA, dtype=torch.bfloat16)
    weight, bias = (torch.randn(*shape, device=CUDA, dtype=torch.bfloat16) / 32 for shape in ((1024, 1024), (1024,)))
    gate = torch.randn(1, rows, 3 * 1024, device=CUDA, dtype=torch.bfloat16)[..., 1024:2048]
    found = kernels.linear_gated(x, weight, bias, residual, gate)
    exact = residual.float() + gate.float() * F.linear(x.float(), weight.float(), bias.float())
    assert relative_error(found, exact) < 6e-3


@pytest.mark.parametrize("fold", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("channels", [128, 256])
def test_join_phases(fold: tuple[int, int, int], channels: int) -> None:
    torch.manual_seed(0)
    phases = fold[0] * fold[1] * fold[2]
    x = torch.randn(1, 3, 5, 7, channels if phases > 1 else 32, device=CUDA, dtype=torch.bfloat16)
    sizes = [size + factor - 1 for size, factor in zip((3, 5, 7), fold, strict=True)]
    computed = torch.randn(1, *sizes, phases * 128, device=CUDA, dtype=torch.bfloat16)
    bias = torch.randn(128, device=CUDA, dtype=torch.bfloat16)
    exact = kernels.join_phases(computed.float(), x.float(), bias.float(), fold)
    assert relative_error(kernels.join_phases(computed, x, bias, fold), exact) < 4e-3


def test_activations() -> None:
    x = torch.randn(3, 50, 2 * 2752, device=CUDA, dtype=torch.bfloat16)
    bias = torch.randn(2 * 2752, device=CUDA, dtype=torch.bfloat16)
    assert relative_error(kernels.silu_product(x), kernels.silu_product(x.float())) < 4e-3
    assert relative_error(kernels.bias_silu(x, bias), kernels.bias_silu(x.float(), bias.float())) < 4e-3


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("channels", [128, 512])
def test_group_norm(silu: bool, channels: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 40, 36, channels, device=CUDA, dtype=torch.bfloat16) + 2
    weight, bias, before = torch.randn(3, channels, device=CUDA, dtype=torch.bfloat16)
    arguments = (weight, bias, 32, 1e-6, before)
    exact = kernels.group_norm(x.double(), *(a.double() if isinstance(a, Tensor) else a for a in arguments), silu=silu)
    assert relative_error(kernels.group_norm(x, *arguments, silu=silu), exact.float()) < 4e-3


def test_decoder_in_bfloat16_is_as_close_to_float32_as_the_plain_one() -> None:
    torch.manual_seed(0)
    network = VideoDCAENetwork(VideoDCAEConfig(128, (16, 32, 64, 64, 64, 128), (1,) * 6)).to(CUDA).requires_grad_(False)
    x = torch.randn(1, 128, 4, 2, 2, device=CUDA)
    exact = network.double().decoder(x.double()).float()
    rough = network.bfloat16().decoder(x.bfloat16())
    network.float()
    for strips in (1, 4):
        found = FastDecoder(network.decoder, CUDA, torch.bfloat16, strip_positions=16 * 64 * 64 // strips)(x)
        assert relative_error(found, exact) < 1.3 * relative_error(rough, exact)
        leading = FastDecoder(network.decoder, CUDA, torch.bfloat16, strip_positions=16 * 64 * 64 // strips)(x, 3)
        assert relative_error(leading, exact[:, :, :3]) < 1.3 * relative_error(rough, exact)
