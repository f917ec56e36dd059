"""The engine on a CUDA device in bfloat16: as close to float32 as the plain loop in bfloat16 is; memory."""

from __future__ import annotations

import gc
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
    # Without the fit to the photograph, which enlarges differences of rounding. A mean over seeds, because one scene's
    # error varies by half (H200, four scenes: 0.014 to 0.028 by the engine, 0.010 to 0.031 by the plain loop).
    sampler = replace(model.preset.scene_sampler, steps=5, guidance=guidance, fit_steps=0)
    arguments = views(model, 1), path(1).to(CUDA), path(12).to(CUDA)
    options, errors = model.engine_options, []
    for seed in range(4):
        found = []
        for engine, autocast in ((options, False), (options, None), (None, None)):
            model.engine_options = engine
            found.append(generate(model, *arguments, sampler=sampler, autocast=autocast, seed=seed).mean)
        errors.append([relative_error(mean, found[0]) for mean in found[1:]])
    fast, rough = (sum(column) / len(errors) for column in zip(*errors, strict=True))
    assert fast < 1.5 * rough + 1e-3


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


def test_copies_that_make_room_leave_the_device_at_once_with_their_graphs() -> None:
    model = SceneTok.from_preset(load_preset("scenetok-tiny"), low_vram=True).eval()
    model.load_embedded()
    model = model.requires_grad_(False).to(CUDA)
    model.encode(views(model, 12), path(12).to(CUDA))
    assert model._engine is not None
    copies = model._engine.copies
    ((_, compressing),) = copies.compressing.values()
    assert compressing._runs is not None
    graphs = compressing._runs[1]._graphs
    assert graphs is not None
    del compressing
    pool = tuple(graphs._pool)
    del graphs
    assert pool in {tuple(segment["segment_pool_id"]) for segment in torch.cuda.memory_snapshot()}
    before = torch.cuda.memory_allocated()
    gc.disable()
    try:
        copies.make_room("compressing", autoencoders=[])
    finally:
        gc.enable()
    weights = 2 * sum(parameter.numel() for parameter in model.compressor.parameters())
    assert before - torch.cuda.memory_allocated() > 0.9 * weights
    assert pool not in {tuple(segment["segment_pool_id"]) for segment in torch.cuda.memory_snapshot()}


def test_the_engine_is_the_default_and_exact_leaves_autoencoders_alone() -> None:
    model = tiny()
    assert model.rendered_by() == "engine" and model.rendered_by(autocast=False) == "plain loop"
    model.engine_options = "exact"
    tokens = model.encode(views(model, 12), path(12).to(CUDA))
    assert model.rendered_by() == "exact engine" and model.render(tokens, path(3).to(CUDA)).shape[0] == 3
    assert model._engine is not None and not model._engine.copies.autoencoders


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


def test_decoder_in_bfloat16_is_as_close_to_float32_as_the_plain_one() -> None:
    torch.manual_seed(0)
    network = VideoDCAENetwork(VideoDCAEConfig(128, (16, 32, 64, 64, 64, 128), (1,) * 6)).to(CUDA).requires_grad_(False)
    x = torch.randn(1, 128, 4, 2, 2, device=CUDA)
    exact = network.double().decoder(x.double()).float()
    rough = network.bfloat16().decoder(x.bfloat16())
    network.float()
    for strips in (1, 4, 16):
        found = FastDecoder(network.decoder, CUDA, torch.bfloat16, strip_positions=16 * 64 * 64 // strips)(x)
        assert relative_error(found, exact) < 1.3 * relative_error(rough, exact)
        leading = FastDecoder(network.decoder, CUDA, torch.bfloat16, strip_positions=16 * 64 * 64 // strips)(x, 3)
        assert relative_error(leading, exact[:, :, :3]) < 1.3 * relative_error(rough, exact)
