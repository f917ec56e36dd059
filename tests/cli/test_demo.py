"""`scenetok demo`: its texts and figures, the tools that it calls, and the whole command on the smallest model."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import mediapy
import pytest
import torch
from rich.console import Console
from support.docs_pages import Command
from support.docs_runner import run

from scenetok_ns.cli import demo as module
from scenetok_ns.cli.demo import ToolError, Tools, demo, fraction_done, table, verdict
from scenetok_ns.cli.demo_rooms import write_rooms

FRAMES, NUM_CONTEXT = 20, 12
"""Number of frames of a room in the test of the whole demo, and of context views in its evaluation."""
SIDE = 256
"""Side of the videos in that test, which is more than the model's 128 pixels, too."""
VALUES = {
    "num_views": 36.0,
    "num_scenes": 2.0,
    "psnr": 17.0,
    "ssim": 0.5,
    "psnr_nearest_view": 15.5,
    "ssim_nearest_view": 0.4,
    "psnr_other_tokens": 12.0,
    "ssim_other_tokens": 0.2,
}


@pytest.mark.parametrize(
    ("text", "fraction"),
    [
        ("30 (15.00%)         1 s, 200 ms", 0.15),
        ("0 (0.00%) 3 s\n10 (50.00%) 2 s", 0.5),
        ("Evaluating all images... ━━━━ 0:00:12 36/144", 0.25),
        ("🎥 Rendering 🎥 ━━━━━ 6/12(50.0%) 34.41 fps", 0.5),
        ("nothing of the kind 3/0", None),
    ],
)
def test_progress_is_read_from_what_tools_say(text: str, fraction: float | None) -> None:
    assert fraction_done(text) == fraction


def test_verdict_says_which_side_the_model_is_on() -> None:
    assert "1.5 dB better than" in verdict(VALUES) and "tokens are used" in verdict(VALUES)
    bad = {**VALUES, "psnr": 12.1}
    assert "3.4 dB worse than" in verdict(bad) and "hardly used" in verdict(bad)
    assert table(VALUES).row_count == 3


def test_a_failing_tool_shows_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_tool", lambda name: sys.executable)
    tools = Tools(Console(quiet=True), tmp_path)
    with pytest.raises(ToolError, match="the reason") as caught:
        tools.run("trying", ["python", "-c", "print('\\033[1mthe reason\\033[0m'); raise SystemExit(3)"])
    assert "\033" not in str(caught.value)
    tools.run("trying", ["python", "-c", "print('12/12')"])


@pytest.mark.parametrize("wrong", ["train_steps", "train_scenes", "test_scenes"])
def test_impossible_numbers_are_told_before_anything_is_made(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        demo(tmp_path / "demo", **{wrong: 0})
    assert not (tmp_path / "demo").exists()


def run_here(_: Tools, title: str, words: list[object]) -> None:
    """Run a tool in this process, because starting Nerfstudio four times takes longer than the work."""
    run(Command(str(words[0]), tuple(map(str, words[1:]))), Path.cwd())


@pytest.mark.slow
def test_the_whole_demo_with_the_shipped_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tools, "run", run_here)
    monkeypatch.setattr(module, "write_rooms", functools.partial(write_rooms, frames=FRAMES))
    monkeypatch.setattr(module, "SMALLEST_SIDE", SIDE)
    demo(tmp_path / "demo", train_scenes=2, test_scenes=1, train_steps=1)
    (results,) = (tmp_path / "demo").glob("results-*")
    values = json.loads((results / "figures.json").read_text())["results"]
    assert values["num_views"] == FRAMES - NUM_CONTEXT
    assert len(list((results / "views").glob("*.png"))) == values["num_views"]
    assert values["psnr"] > values["psnr_nearest_view"] + 2
    assert mediapy.read_video(results / "walk.mp4").shape == (3 * (FRAMES - NUM_CONTEXT - 1), SIDE, SIDE, 3)
    generated = torch.from_numpy(mediapy.read_video(results / "generated.mp4")) / 255
    assert generated.shape == (FRAMES, SIDE, SIDE, 3)
    generated = generated.unflatten(1, (128, 2)).unflatten(3, (128, 2)).mean(dim=(2, 4))
    photograph = torch.from_numpy(mediapy.read_image(results / "photograph.png")) / 255
    # The first frame of the generated scene is the photograph's own view; others are elsewhere in the room.
    near, far = ((frame - photograph).square().mean() for frame in (generated[0], generated[FRAMES // 2]))
    assert near < 0.03 and near < far
    said = capsys.readouterr().out
    assert f"{values['psnr_nearest_view']:.2f}" in said and "copying the nearest context view" in said
