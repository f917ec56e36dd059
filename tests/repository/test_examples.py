"""The scripts in examples/ run on small rooms, and are short."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import imageio
import pytest
from PIL import Image
from support.capture_files import write_demo_capture

from scenetok_ns import SceneTokens, load_preset, open_scenes
from scenetok_ns.data.demo.writer import write_demo_data

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 55
"""Maximum number of lines of a script, including its help."""


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rooms")
    write_demo_data(folder / "rooms", "re10k", {"train": 1, "test": 3}, 16, 128, 0, depth=False)
    return folder / "rooms"


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_encode_and_render(rooms: Path, tmp_path: Path) -> None:
    example("encode_and_render")(rooms, tmp_path / "orbit.mp4", frames=8)
    assert imageio.get_reader(tmp_path / "orbit.mp4").count_frames() == 8
    assert SceneTokens.load(tmp_path / "orbit.safetensors").preset == "scenetok-tiny"


def test_generate_a_scene(rooms: Path, tmp_path: Path) -> None:
    views = open_scenes(rooms, load_preset("scenetok-tiny")).context()
    Image.fromarray(views.images[0].movedim(0, -1).numpy()).save(tmp_path / "room.png")
    example("generate_a_scene")(tmp_path / "room.png", tmp_path / "made", seeds=1, steps=1)
    assert SceneTokens.load(tmp_path / "made" / "seed0.safetensors").preset == "scenegen-tiny"
    assert Image.open(tmp_path / "made" / "seed0.png").size == (12 * 128, 128)


def test_loss_on_tokens(rooms: Path, tmp_path: Path) -> None:
    losses = example("loss_on_tokens")(rooms, tmp_path / "refined.safetensors", steps=4)
    assert losses[-1] < losses[0]
    assert SceneTokens.load(tmp_path / "refined.safetensors").mean.isfinite().all()


def test_tokens_as_features(rooms: Path) -> None:
    assert example("tokens_as_features")(rooms) == 1.0


@pytest.mark.filterwarnings("ignore:targets. all")
def test_batch_over_a_small_capture_says_that_nothing_is_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_demo_capture(tmp_path / "capture", frames=6)
    scores = example("batch_over_a_data_set")(tmp_path / "capture", tmp_path / "batch", views=1)
    assert f"{scores['capture']:.2f} dB (not held out: some of these views were encoded)" in capsys.readouterr().out


def test_batch_over_a_data_set(rooms: Path, tmp_path: Path) -> None:
    scores = example("batch_over_a_data_set")(rooms, tmp_path / "batch", views=4)
    assert len(scores) == 3 and all(15 < score < 40 for score in scores.values())
    assert (tmp_path / "batch" / "psnr.csv").read_text().startswith("scene,psnr\n")
    assert sorted(path.stem for path in (tmp_path / "batch").glob("*.safetensors")) == sorted(scores)


def test_every_example_is_run_and_short() -> None:
    files = sorted(EXAMPLES.glob("*.py"))
    run = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in files} <= run
    assert all(path.read_text().count("\n") <= LONGEST for path in files)
