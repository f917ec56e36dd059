"""The benchmark of solvers measures errors relative to the reference's Euler steps."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from support.small_networks import randomized
from support.small_runs import GENERATOR, small_pipeline, write_small_re10k

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scenegen_solver.py"


@pytest.fixture(scope="module")
def benchmark_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scenegen_solver", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_errors_are_against_the_euler_steps_of_the_reference(benchmark_script: ModuleType, tmp_path: Path) -> None:
    pipeline = small_pipeline(write_small_re10k(tmp_path), preset=GENERATOR)
    randomized(pipeline.model.scenetok)
    scenes = [pipeline.datamanager.scenes.conditions(0)]
    rows = {
        (r["solver"], r["steps"]): r
        for r in benchmark_script.solver_errors(pipeline.model.renderer, scenes, [10, 20, 40], 40)
    }
    assert set(rows) == {(s, n) for s in ("euler", "multistep") for n in (10, 20, 40)} | {("another seed", 40)}
    assert rows["euler", 40]["token_error"] == 0 and rows["euler", 40]["psnr"] > 90
    for solver in ("euler", "multistep"):
        assert rows[solver, 10]["token_error"] > rows[solver, 20]["token_error"] > rows[solver, 40]["token_error"]
        assert rows[solver, 10]["psnr"] < rows[solver, 20]["psnr"] < rows[solver, 40]["psnr"]
    assert 0 < rows["multistep", 40]["token_error"] < 0.01
    assert rows["another seed", 40]["token_error"] > 0.5
