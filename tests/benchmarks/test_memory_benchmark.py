"""The benchmark of a generator's memory does real training steps and generations, without Nerfstudio."""

from __future__ import annotations

import argparse
import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.small_runs import GENERATOR

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scenegen_memory.py"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def benchmark_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scenegen_memory", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_step_trains_the_generator_alone(benchmark_script: ModuleType) -> None:
    model = benchmark_script.make_model(str(GENERATOR), CPU, "none")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step = benchmark_script.training_step(model, 2)
    assert 0 < step() < 10
    changed = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"scene_generator"}


def test_every_batch_and_the_generation_are_measured(benchmark_script: ModuleType) -> None:
    options = argparse.Namespace(
        preset=str(GENERATOR), batch_size=[1, 2], steps=1, checkpointing="full", generation_steps=None
    )
    rows = benchmark_script.results(options, CPU)
    assert list(rows) == ["weights", "training step, batch 1", "training step, batch 2", "generation"]
    assert all(row["seconds"] > 0 and row["value"] > 0 for name, row in rows.items() if name != "weights")


def test_machines_without_nerfstudio_can_run_it() -> None:
    imported = {node.module for node in ast.walk(ast.parse(SCRIPT.read_text())) if isinstance(node, ast.ImportFrom)}
    own = {name for name in imported if name.startswith("scenetok_ns")}
    assert own and all(name.startswith("scenetok_ns.models.") for name in own - {"scenetok_ns.tools.cuda_memory"})
    assert not {name for name in imported if name.startswith(("nerfstudio", "tyro", "viser", "diffusers"))}
