"""Impossible changes to a run are refused when `RunChanges` is created, before any run is read."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command_line import failure

from scenetok_ns.cli.photograph_options import PhotographOptions
from scenetok_ns.cli.run_options import EMBEDDED, MOST_STREAM_STEPS, GenerationOptions, RunChanges, run_for
from scenetok_ns.models.flow.streaming import MOST_STEPS
from scenetok_ns.models.tokens import SceneTokens

PHOTOGRAPH = PhotographOptions(image=Path("photo.jpg"))
TOKENS = (Path("scene.safetensors"),)
NAN = float("nan")


def test_options_are_read_without_nerfstudio() -> None:
    names = (
        "new_run",
        "encode",
        "evaluate",
        "generate",
        "render",
        "export_splat",
        "import_checkpoint",
        "latents",
        "demo",
    )
    modules = ", ".join(f"scenetok_ns.cli.{name}" for name in names)
    code = f"import sys, {modules}; assert 'nerfstudio' not in sys.modules, 'nerfstudio was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"tokens": TOKENS, "data": Path("d"), "scene": "s"},
            "--tokens already gives the scene: leave out --data, --scene",
        ),
        ({"tokens": TOKENS, "index": Path("i")}, "--tokens already gives the scene: leave out --index"),
        ({"tokens": TOKENS, "photograph": PHOTOGRAPH}, "--tokens already gives the scene: leave out --image"),
        ({"tokens": TOKENS, "pose_scale": 1.0}, "--tokens already gives the scene: leave out --pose-scale"),
        ({"photograph": PHOTOGRAPH, "num_context": 3}, "--image already gives the scene: leave out --num-context"),
        ({"photograph": PHOTOGRAPH, "num_condition": 1}, "--image already gives the scene: leave out --num-condition"),
        ({"photograph": PhotographOptions(photo_at="origin")}, "--photo-at only works with --image"),
        (
            {"photograph": PhotographOptions(image=Path("a"), path=Path("b"), trajectory="turn")},
            "--path and --trajectory both say where the cameras are: leave one out",
        ),
        ({"num_context": 0}, "--num-context must be at least 1, got 0"),
        ({"steps": -1}, "--steps must be at least 1, got -1"),
        ({"stream": True, "steps": 25}, "--stream takes at most 8 --steps, got 25"),
        (
            {"stream": True, "guidance": 2.0},
            "--stream renders with a student, which takes no --guidance: leave one of them out",
        ),
        (
            {"stream": True, "solver": "multistep"},
            "--stream renders with a student, which takes no --solver: leave one of them out",
        ),
        ({"student_weights": Path("none.safetensors")}, "--student: there is no file none.safetensors"),
        ({"guidance": 0.5}, "--guidance must be at least 1 (1 is off), got 0.5"),
        ({"guidance": NAN}, "--guidance must be at least 1 (1 is off), got nan"),
        ({"guidance": float("inf")}, "--guidance must be at least 1 (1 is off), got inf"),
        ({"pose_scale": 0.0}, "--pose-scale must be above 0, got 0"),
        ({"pose_scale": NAN}, "--pose-scale must be above 0, got nan"),
        ({"generation": GenerationOptions(scene_steps=0)}, "--scene-steps must be at least 1, got 0"),
        (
            {"generation": GenerationOptions(scene_guidance=NAN)},
            "--scene-guidance must be at least 1 (1 is off), got nan",
        ),
    ],
)
def test_impossible_changes_are_refused_by_their_option(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        RunChanges(**values)
    assert str(error.value) == message


def test_streams_have_as_many_steps_as_the_networks_take() -> None:
    assert MOST_STREAM_STEPS == MOST_STEPS


def test_changes_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        RunChanges().seed = 3  # type: ignore[misc]


def test_tokens_choose_the_model_in_the_package(tmp_path: Path) -> None:
    assert run_for(()) == Path(EMBEDDED)
    for preset in ("scenegen-tiny", "own"):
        SceneTokens(torch.zeros(4, 8), torch.eye(4), preset=preset).save(tmp_path / f"{preset}.safetensors")
    assert run_for((tmp_path / "scenegen-tiny.safetensors",)) == Path("scenegen-tiny")
    with pytest.raises(ValueError, match="made by preset own, which is not in this package: give --run"):
        run_for((tmp_path / "own.safetensors",))


def test_a_device_that_is_not_there_is_one_line(workplace: Path, tmp_path: Path) -> None:
    """Every command that computes takes --device."""
    run, data = workplace / "run", workplace / "data"
    out = tmp_path / "x.safetensors"
    calls = {
        "encode": ("--run", run, "--output", out),
        "generate": ("--data", data, "--output", out),
        "render": ("--run", run, "--output", tmp_path / "videos"),
        "evaluate": (run, "--output", tmp_path / "figures"),
        "export-dataset": ("--run", run, "--output", tmp_path / "dataset"),
        "export-mesh": ("--run", run, "--output", tmp_path / "mesh.ply"),
    }
    for name, words in calls.items():
        assert "--device cuda:99: this machine has cpu" in failure(name, *words, "--device", "cuda:99"), name
    assert not list(tmp_path.iterdir())
    said = failure("capture", workplace, "--device", "cpu")
    assert "--device only works with --open" in said
