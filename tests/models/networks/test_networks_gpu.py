"""On a CUDA device, the networks give the recorded results without waiting for it, also as graphs and compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from support.parity_cases import Limits, build_compressor, build_denoiser, build_scene_generator, difference, load_case
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch, ray_map
from scenetok_ns.models.networks.denoiser import Denoiser

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise an error for any operation that makes the host wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def video() -> tuple[Denoiser, Tensor, CameraBatch, Tensor, Tensor]:
    """Denoiser, latents, cameras, network times and tokens of the recorded case c03, on the device."""
    case = load_case("c03_denoiser_vdc")
    moved = {name: tensor.cuda() for name, tensor in case.inputs.items()}
    return build_denoiser(case).cuda(), moved["latents"], case.cameras().to("cuda"), moved["timestep"], moved["tokens"]


@torch.no_grad()
def test_compressor_meets_the_recording_without_waiting() -> None:
    case = load_case("c02_compressor")
    network, latents, cameras = build_compressor(case).cuda(), case.inputs["latents"].cuda(), case.cameras().to("cuda")
    network(latents, cameras)
    with no_waiting():
        parameters = network.gaussian_parameters(latents, cameras)
    assert difference(parameters.cpu(), case.outputs["parameters"], Limits(1e-4)) == []


@torch.no_grad()
def test_denoiser_meets_the_recording_without_waiting() -> None:
    network, latents, cameras, t_net, tokens = video()
    network(latents, cameras, t_net, network.project(tokens))
    with no_waiting():
        velocity = network(latents, cameras, t_net, network.project(tokens))
    case = load_case("c03_denoiser_vdc")
    assert difference(velocity.cpu(), case.outputs["velocity"], case.limits) == []


@torch.no_grad()
def test_scene_generator_meets_the_recording_without_waiting() -> None:
    case = load_case("c05_scene_generator")
    given = {name: tensor.cuda() for name, tensor in case.inputs.items()}
    network = build_scene_generator(case).cuda()
    cameras, anchors = case.cameras("cond_").to("cuda"), case.cameras("anchor_").to("cuda")
    arguments = (given["tokens"], given["timestep"], given["cond_latents"], cameras, anchors, given["cond_mask_mixed"])
    network(*arguments)
    with no_waiting():
        velocity = network(*arguments)
    assert difference(velocity.cpu(), case.outputs["velocity_mixed"], case.limits) == []


def test_geometry_is_exact_whatever_the_matmul_precision() -> None:
    _, _, cameras, _, _ = video()
    exact = ray_map(cameras.to("cpu"), (16, 16), rays="plucker", normalize=True)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16), no_waiting():
            rays = ray_map(cameras, (16, 16), rays="plucker", normalize=True)
            relative = cameras.relative_to(cameras.c2w[:, 0])
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(rays.cpu(), exact, rtol=0, atol=2e-5)
    expected = cameras.to("cpu").relative_to(cameras.c2w[:, 0].cpu()).c2w
    torch.testing.assert_close(relative.c2w.cpu(), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_step_runs_as_a_graph() -> None:
    network, latents, cameras, t_net, tokens = video()
    network.bfloat16()
    poses, kv = network.embed_poses(cameras), network.cross_attention_kv(network.project(tokens))
    expected = network.velocity(latents, poses, t_net, kv)
    held_latents, held_times = torch.zeros_like(latents), torch.zeros_like(t_net)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        network.velocity(held_latents, poses, held_times, kv)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        velocity = network.velocity(held_latents, poses, held_times, kv)
    held_latents.copy_(latents)
    held_times.copy_(t_net)
    graph.replay()
    torch.testing.assert_close(velocity, expected, rtol=0, atol=1e-2)


def test_compiled_blocks_train_like_plain_ones() -> None:
    gradients = []
    for compiled in (False, True):
        network, latents, cameras, t_net, tokens = video()
        if compiled:
            for block in network.model.blocks:
                block.compile(fullgraph=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            velocity = network(latents, cameras, t_net, network.project(tokens))
        velocity.float().square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    plain, fast = gradients
    assert ((fast - plain).norm() / plain.norm()).item() < 0.03
