"""The predicted memory of training agrees with measured steps, and with the tensors that blocks really save."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scenetok_ns.models.fused.blocks import fused_forward
from scenetok_ns.models.networks.block_execution import Checkpointing
from scenetok_ns.models.networks.compressor import CompressorBlock
from scenetok_ns.models.networks.dit import Block
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.training.step_memory import (
    GIB,
    Blocks,
    Network,
    Rows,
    TrainingRun,
    Workload,
    predicted_memory,
    workload,
)


def model(preset: str) -> SceneTok:
    with torch.device("meta"):
        found = SceneTok(load_preset(preset))
    found.compressor.requires_grad_(not found.preset.training.freeze_compressor)
    found.denoiser.requires_grad_(not found.preset.training.freeze_denoiser)
    return found


@pytest.fixture(scope="module")
def re10k() -> SceneTok:
    return model("re10k")


@pytest.mark.parametrize(
    ("batch", "blocks", "checkpointing", "measured"),
    [
        (32, "fused", "none", 44.8),
        (16, "fused", "none", 28.3),
        (8, "fused", "none", 20.4),
        (32, "fused", "selective", 42.8),
        (8, "compiled", "none", 23.2),
        (32, "compiled", "selective", 41.9),
        (8, "plain", "none", 25.9),
    ],
)
def test_measured_steps_are_predicted(
    re10k: SceneTok, batch: int, blocks: Blocks, checkpointing: Checkpointing, measured: float
) -> None:
    """Compares with the peaks in docs/performance.md, on one H100 and one H200."""
    memory = predicted_memory(workload(re10k, TrainingRun(batch)), blocks, checkpointing)
    assert memory.total / GIB == pytest.approx(measured, rel=0.04)


BATCH, POSITIONS, KEYS = 2, 24, 20


def saved_bytes(block: nn.Module, *args: Any) -> int:
    """Bytes of a block's input stream, and of all tensors that its fused pass holds for the backward pass."""
    streams = args[:2] if isinstance(block, CompressorBlock) else args[:1]
    for stream in streams:
        stream.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = fused_forward(block, "selective", *args)
    held: dict[int, int] = {}
    _collect((out[0] if isinstance(out, tuple) else out).grad_fn.saved, held, set())
    for tensor in (*block.parameters(), *(x for x in args if isinstance(x, Tensor))):
        held.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(held.values()) + sum(x.untyped_storage().nbytes() for x in streams)


def _collect(found: Any, held: dict[int, int], seen: set[int]) -> None:
    """Add the sizes of all storages that an object refers to, directly or not, to `held`."""
    if id(found) in seen or isinstance(found, nn.Module):
        return
    seen.add(id(found))
    if isinstance(found, Tensor):
        held[found.untyped_storage().data_ptr()] = found.untyped_storage().nbytes()
    elif isinstance(found, (list, tuple, dict)):
        for one in found.values() if isinstance(found, dict) else found:
            _collect(one, held, seen)
    elif hasattr(found, "__dict__"):
        _collect(vars(found), held, seen)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16)


def test_a_block_saves_what_is_predicted() -> None:
    """A CPU keeps the same tensors as a GPU, and also the norms that `none` writes over the shifts on a GPU."""
    width, heads = 128, 4
    block = Block(width, heads, 4.0)
    saved = saved_bytes(
        block, random(BATCH, POSITIONS, width), random(BATCH, POSITIONS, width), random(BATCH, KEYS, width)
    )
    rows = Rows(POSITIONS, width, heads, padded(block.mlp))
    assert saved == pytest.approx(BATCH * Network(1, 0, rows, KEYS).saved, rel=0.03)


def test_a_compressor_block_saves_what_is_predicted() -> None:
    width, heads = 128, 4
    block = CompressorBlock(width, heads, 4.0, last=False)
    tokens = torch.randn(BATCH, KEYS, width)
    saved = saved_bytes(block, tokens, random(BATCH, POSITIONS, width), random(BATCH, POSITIONS, width), None)
    rows = Rows(POSITIONS, width, heads, padded(block.mlp2))
    network = Network(1, 0, rows, 0, Rows(KEYS, width, heads, padded(block.mlp2)))
    norms = 2 * 2 * BATCH * KEYS * width  # of the tokens: they have no modulation, and `selective` computes them twice
    assert saved + norms == pytest.approx(BATCH * network.saved, rel=0.03)


def padded(layer: Any) -> int:
    return layer.w3.in_features + -layer.w3.in_features % 64


def test_sizes_of_a_preset(re10k: SceneTok) -> None:
    load = workload(re10k, TrainingRun(32))
    compressor, denoiser = load.networks
    assert (load.trained, load.frozen) == (238_013_824 + 564_188_256, 0)
    assert (compressor.blocks, compressor.rows.count, compressor.rows.feed_forward) == (12, 12 * 64, 2048)
    assert compressor.tokens is not None and compressor.tokens.count == 512
    assert (denoiser.blocks, denoiser.rows.count, denoiser.context, denoiser.rows.feed_forward) == (24, 512, 512, 2752)
    assert load.pictures == 0 and workload(re10k, TrainingRun(32), pictures=True).pictures == pytest.approx(9.7 * GIB)


def test_a_frozen_network_takes_its_weights_only() -> None:
    generator = model("scenegen-shift4")
    load = workload(generator, TrainingRun(4))
    assert load.frozen == sum(p.numel() for n in (generator.compressor, generator.denoiser) for p in n.parameters())
    (network,) = load.networks
    assert network.rows.count == 512 and network.context == 3 * 16 * 16 + 12


def test_more_that_is_kept_is_counted(re10k: SceneTok) -> None:
    parameters = workload(re10k, TrainingRun(8)).trained

    def total(averaged: bool = False, **fields: Any) -> int:
        return predicted_memory(workload(re10k, TrainingRun(8, **fields), averaged=averaged), "fused", "none").total

    for fields in ({"averaged": True}, {"processes": 2}, {"accumulates": True}):
        assert total(**fields) - total() == 4 * parameters


def test_recomputing_and_smaller_batches_need_less() -> None:
    tiny: Workload = workload(model("scenetok-tiny"), TrainingRun(64))
    needs = [predicted_memory(tiny, "fused", c).total for c in ("none", "selective", "full")]
    assert needs == sorted(needs, reverse=True) and needs[0] > 1.5 * needs[2]
    assert predicted_memory(workload(model("scenetok-tiny"), TrainingRun(8)), "fused", "none").total < needs[0]
