"""The choice of how training steps run: by facts and options, refusals, and recomputed activations."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch

from scenetok_ns.tools.errors import UsageError
from scenetok_ns.training import step_plan
from scenetok_ns.training.step_memory import GIB, Network, Rows, Workload
from scenetok_ns.training.step_plan import Facts, StepPlan, Wishes, choose, facts_of

LOAD = Workload(
    batch=32,
    trained=802_202_080,
    frozen=0,
    networks=(
        Network(12, 236_243_456, Rows(768, 768, 12, 2048), 0, Rows(512, 768, 12, 2048)),
        Network(24, 554_153_952, Rows(512, 1024, 16, 2752), 512),
    ),
)
"""Preset re10k at its published batch, which needs 45 GiB."""
H200 = Facts(cuda=True, triton=True, cpp_compiler=True, steps=1_000_000, available=int(139 * GIB))
CPU = Facts(cuda=False, cpp_compiler=True)


def plan(facts: Facts, load: Workload = LOAD, **wishes: Any) -> StepPlan:
    return choose(facts, Wishes(**wishes), load)


@pytest.mark.parametrize(
    ("facts", "wishes", "expected"),
    [
        (H200, {}, "fused, compiled, recorded, none"),
        (replace(H200, steps=500), {}, "fused, recorded, none"),
        (replace(H200, steps=2_999), {}, "fused, recorded, none"),
        (replace(H200, steps=3_000), {}, "fused, compiled, recorded, none"),
        (replace(H200, steps=500), {"compile": True}, "fused, compiled, recorded, none"),
        (replace(H200, steps=500), {"fused": False}, "compiled, recorded, none"),
        (replace(H200, triton=False, cpp_compiler=False), {}, "recorded, none"),
        (replace(H200, unfusible="frozen"), {}, "compiled, recorded, none"),
        (replace(H200, uncompilable="adapters"), {}, "fused, recorded, none"),
        (replace(H200, unrecordable="they move"), {}, "fused, compiled, none"),
        (H200, {"fused": False, "compile": False, "record": False}, "none"),
        (H200, {"checkpointing": "full"}, "fused, compiled, recorded, full"),
        (replace(H200, available=int(46 * GIB)), {}, "fused, compiled, recorded, selective"),
        (replace(H200, available=int(40 * GIB)), {}, "fused, compiled, recorded, full"),
        (replace(H200, available=int(40 * GIB)), {"checkpointing": "none"}, "fused, compiled, recorded, none"),
        (replace(H200, available=None), {}, "fused, compiled, recorded, none"),
        (CPU, {}, "none"),
        (CPU, {"compile": True}, "compiled, none"),
        (CPU, {"checkpointing": "full"}, "full"),
        (CPU, {"fused": False, "record": False}, "none"),
    ],
)
def test_what_is_chosen(facts: Facts, wishes: dict[str, Any], expected: str) -> None:
    chosen = plan(facts, **wishes)
    names = {"fused": chosen.fused, "compiled": chosen.compile, "recorded": chosen.record}
    assert ", ".join([*(name for name, value in names.items() if value), chosen.checkpointing]) == expected


@pytest.mark.parametrize(
    ("facts", "wishes", "message"),
    [
        (CPU, {"fused": True}, "--fused True is not possible: there is no NVIDIA GPU; leave it out"),
        (CPU, {"record": True}, "--cuda-graph True is not possible: there is no NVIDIA GPU; leave it out"),
        (replace(CPU, cpp_compiler=False), {"compile": True}, "--compile True .*there is no C"),
        (replace(H200, triton=False), {"fused": True}, "--fused True .*Triton does not work here"),
        (replace(H200, triton=False), {"compile": True}, "--compile True .*Triton does not work here"),
        (replace(H200, unfusible="frozen"), {"fused": True}, "--fused True .*frozen"),
        (replace(H200, unrecordable="they move"), {"record": True}, "--cuda-graph True .*they move"),
        (replace(H200, uncompilable="adapters"), {"compile": True}, "--compile True .*adapters"),
        (H200, {"float8": True}, "--float8 is not possible: this GPU does not multiply FP8"),
        (replace(H200, float8=True), {"float8": True, "fused": False}, "--float8 .*the blocks are not fused"),
    ],
)
def test_options_that_cannot_be_met_are_refused(facts: Facts, wishes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(facts, **wishes)


def test_the_line_says_what_was_chosen_and_why() -> None:
    line = plan(H200).line()
    assert line == (
        "Training steps: fused blocks, the rest compiled, recorded as a CUDA graph; about 45.2 GiB of GPU memory, "
        "139.0 available"
    )
    line = plan(replace(H200, steps=10, unrecordable="they move")).line()
    assert line.endswith("; compiling pays from 3,000 steps on; they move") and "recorded" not in line
    assert not plan(replace(H200, float8=True)).float8
    rounded = plan(replace(H200, float8=True), float8=True)
    assert rounded.float8 and rounded.line().startswith("Training steps: fused blocks with FP8 products, the rest")
    assert plan(CPU).line() == "Training steps: plain blocks; there is no NVIDIA GPU"
    selective = plan(replace(H200, available=int(46 * GIB))).line()
    assert "recorded as a CUDA graph, selective checkpointing; about 43.8 GiB of GPU memory, 46.0" in selective


def test_a_batch_that_fits_is_named() -> None:
    little = plan(replace(H200, available=int(14 * GIB)))
    assert not little.fits and little.checkpointing == "full"
    size = int(little.line().split("a batch size of ")[1].split(" ")[0])
    assert plan(replace(H200, available=int(14 * GIB)), replace(LOAD, batch=size)).fits
    assert not plan(replace(H200, available=int(14 * GIB)), replace(LOAD, batch=size + 1)).fits
    assert plan(replace(H200, available=GIB)).line().endswith("no batch fits")


def test_facts_of_a_cpu_and_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert facts_of(torch.device("cpu"), steps=7) == Facts(cuda=False, steps=7)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/clang++" if name == "clang++" else None)
    monkeypatch.setattr(step_plan, "triton_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 23)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    expected = Facts(cuda=True, triton=True, float8=True, cpp_compiler=True, available=123, unrecordable="no")
    assert facts_of(torch.device("cuda"), unrecordable="no") == expected
