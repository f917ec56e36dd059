"""Broken inputs at every entry point are refused in one line that names them. None is accepted silently."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.command_line import scenetok
from support.fault_cases import Table
from support.fault_runner import CLEAR, Verdict, figures, judge, parsing_once
from support.fault_tools import MoreFaults
from support.released_files import random_state, write_lightning
from support.scene_files import write_dl3dv
from support.small_runs import FRAMES, GENERATOR, PRESET, write_small_re10k

from scenetok_ns.data.anchors import trajectory
from scenetok_ns.data.camera_path_files import write_camera_path
from scenetok_ns.models.presets import load_preset

LEAST = 1500
"""Minimum number of broken inputs in the table."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good file of every kind, for `Table`."""
    root = tmp_path_factory.mktemp("faults")
    write_small_re10k(root / "data")
    write_dl3dv(root / "dl3dv" / "test" / "one" / "nerfstudio", FRAMES)
    (root / "transforms.json").write_bytes(next((root / "dl3dv").rglob("transforms.json")).read_bytes())
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(root / "photo.jpg", quality=95)
    write_camera_path(root / "path.json", trajectory("sideways", 3), fov=60.0, side=24)
    (root / "small.yaml").write_text(yaml.dump(yaml.safe_load(PRESET.read_text())))
    for preset, run in ((PRESET, "run"), (GENERATOR, "generator")):
        state = {key: 0.2 * value for key, value in random_state(load_preset(str(preset))).items()}
        checkpoint = write_lightning(root / ("small.ckpt" if run == "run" else "generator.ckpt"), state)
        scenetok("import", preset=preset, checkpoint=checkpoint, data=root / "data", output=root / run)
    run = root / "run"
    scenetok("encode", "--no-run-folder", run=run, data=root / "data", output=root / "tokens.safetensors")
    scenetok("eval-index", data=root / "data", output=root / "index.json", num_context=2, num_targets=3)
    (root / "evaluation.json").write_text('{"results": {}, "variants": [{"folder": "seed=0"}]}')
    return root


@pytest.fixture(scope="module")
def verdicts(place: Path) -> list[Verdict]:
    with parsing_once():
        return list(judged(place))


def judged(place: Path) -> Iterator[Verdict]:
    for fault in (*Table(place).all(), *MoreFaults(place).all()):
        yield judge(fault)


def test_every_fault_is_refused_in_one_line_that_names_it(
    verdicts: list[Verdict], capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print(f"\n{figures(verdicts)}\n{sum(verdict.seconds for verdict in verdicts):.0f} seconds")
    wrong = [str(verdict) for verdict in verdicts if verdict.outcome != CLEAR]
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong)


def test_the_table_is_large_enough_and_nothing_is_left_where_output_was_refused(
    verdicts: list[Verdict], place: Path
) -> None:
    assert len(verdicts) >= LEAST
    assert not (place / "never").exists()
    assert not list(place.rglob("*.part"))
