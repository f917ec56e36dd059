"""Compressor, denoiser and scene generator alike: initial values, precision, checkpointing, compilation."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from support.small_networks import NETWORKS, random_cameras, randomized, small_compressor
from torch import Tensor, nn

from scenetok_ns.models.networks.block_execution import checkpoint_for_training
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.layers import PatchEmbed, RMSNorm
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.presets import load_preset

every_network = pytest.mark.parametrize("name", NETWORKS)


@every_network
def test_checkpointing_changes_nothing_but_memory(name: str) -> None:
    make, run = NETWORKS[name]
    network = randomized(make())

    def gradients() -> tuple[int, list[Tensor]]:
        saved = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        network.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = run(network).square().mean()
        loss.backward()
        return saved, [p.grad for p in network.parameters() if p.grad is not None]

    whole, expected = gradients()
    checkpoint_for_training(network, "full")
    less, recomputed = gradients()
    assert less < whole / 2
    assert all(torch.equal(a, b) for a, b in zip(recomputed, expected, strict=True))
    checkpoint_for_training(network, "none")
    assert gradients()[0] == whole


@every_network
def test_training_runs_under_autocast(name: str) -> None:
    make, run = NETWORKS[name]
    network = randomized(make())
    exact = run(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = run(network)
    assert relative_error(rounded, exact) < 0.05
    rounded.float().square().mean().backward()
    gradients = [p.grad for n, p in network.named_parameters() if "null_tokens" not in n or name != "denoiser"]
    assert all(g is not None and g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


@every_network
@torch.no_grad()
def test_rounded_weights_need_no_autocast(name: str) -> None:
    make, run = NETWORKS[name]
    network = randomized(make())
    exact = run(network)
    network.to(torch.bfloat16)
    assert relative_error(run(network), exact) < 0.05


@every_network
@torch.no_grad()
def test_blocks_compile_without_a_break(name: str) -> None:
    make, run = NETWORKS[name]
    network = randomized(make())
    expected = run(network)
    compiled = copy.deepcopy(network)
    blocks = compiled.aggregate if name == "compressor" else compiled.model.blocks
    for block in blocks:
        block.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(run(compiled), expected)
    assert set(compiled.state_dict()) == set(network.state_dict())


@every_network
def test_a_network_made_without_memory_starts_like_any_other(name: str) -> None:
    make, run = NETWORKS[name]
    with torch.device("meta"):
        network = make()
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(float("nan"))
    torch.manual_seed(3)
    network.initialize()
    torch.manual_seed(3)
    other = make()
    other.initialize()
    assert all(p.isfinite().all() for p in network.state_dict().values())
    assert run(network.eval()).isfinite().all()
    buffers, same = dict(network.named_buffers()), dict(other.named_buffers())
    assert all(torch.equal(buffers[key], same[key]) for key in same)


@pytest.mark.parametrize("name", ["denoiser", "scene_generator"])
@torch.no_grad()
def test_a_fresh_network_predicts_nothing(name: str) -> None:
    make, run = NETWORKS[name]
    assert run(make().eval()).eq(0).all()


@pytest.mark.parametrize("name", ["denoiser", "scene_generator"])
def test_the_trunk_starts_as_published(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name][0]()
    # Large layers, so that the statistics are sharp.
    trunk = network.model
    for key, module in trunk.named_modules():
        if isinstance(module, RMSNorm):
            assert module.weight.eq(1).all()
        if not isinstance(module, nn.Linear):
            continue
        assert module.bias.eq(0).all()
        if "adaLN" in key or key == "final_layer.linear":
            assert module.weight.eq(0).all(), key
        elif key.startswith("t_embedder"):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert module.weight.abs().max() > 0.05, "normal, not uniform"
        else:
            assert_uniform(module.weight, math.sqrt(6 / (module.in_features + module.out_features)))
    for module in trunk.modules():
        if isinstance(module, PatchEmbed):
            rows, columns = module.proj.weight.flatten(1).shape
            assert_uniform(module.proj.weight, math.sqrt(6 / (rows + columns)))
            assert module.proj.bias.eq(0).all()
    for key, parameter in network.named_parameters():
        if key.endswith(("null_tokens", "model.pos_embed")):
            assert parameter.eq(0).all()


@every_network
def test_everything_else_starts_from_framework_defaults(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name][0]()
    checked = 0
    for key, module in network.named_modules():
        if key.startswith("model.") or not isinstance(module, (nn.Linear, nn.Conv2d)):
            continue
        bound = 1 / math.sqrt(module.weight[0].numel())
        assert_uniform(module.weight, bound)
        if module.bias is not None:
            assert module.bias.abs().max() <= bound and module.bias.ne(0).any()
        checked += 1
    assert checked > 0


def test_scene_tokens_start_large() -> None:
    torch.manual_seed(0)
    tokens = small_compressor().scene_tokens
    assert tokens.std().item() == pytest.approx(5.0, rel=0.15) and abs(tokens.mean().item()) < 1.0


def assert_uniform(weight: Tensor, bound: float) -> None:
    assert weight.abs().max() <= bound
    few = weight.numel() < 500
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15 if few else 0.08)
    assert weight.abs().max() > 0.95 * bound


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.float() - expected).norm() / expected.norm()).item()


@torch.no_grad()
def test_networks_of_a_preset_fit_each_other() -> None:
    preset = load_preset("scenetok-tiny")
    compressor, denoiser = Compressor.from_preset(preset), Denoiser.from_preset(preset)
    tokens = compressor(torch.randn(1, 2, *compressor.latent_shape), random_cameras(1, 2)).mean
    assert tokens.shape == (1, preset.compressor.num_tokens, preset.compressor.token_dim)
    latents = torch.randn(1, preset.denoiser.num_latents, *denoiser.latent_shape)
    frames = denoiser.pose_embed.layout.num_frames(latents.shape[1])
    velocity = denoiser(latents, random_cameras(1, frames), torch.zeros(latents.shape[:2]), denoiser.project(tokens))
    assert velocity.shape == latents.shape


def test_a_preset_without_generator_is_named() -> None:
    with pytest.raises(ValueError, match="scenetok-tiny has no scene generator"):
        SceneGenerator.from_preset(load_preset("scenetok-tiny"))
