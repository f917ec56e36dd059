"""`scenetok export-dataset` writes a data set of rendered views in the coordinates of the capture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.capture_files import write_demo_capture
from support.command_line import scenetok


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures") / "attic"
    write_demo_capture(folder)
    return folder


def test_a_capture_becomes_a_data_set_in_its_own_world(capture: Path, tmp_path: Path) -> None:
    few = ("--frames", 16, "--steps", 1, "--size", 100)
    scenetok("export-dataset", "--data", capture, "--output", tmp_path / "out", *few)
    made = json.loads((tmp_path / "out" / "transforms.json").read_text())
    for frame in (made["frames"][0], made["frames"][-1]):
        with Image.open(tmp_path / "out" / frame["file_path"]) as picture:
            assert picture.size == (100, 100) == (frame["w"], frame["h"]) and abs(frame["cx"] - 50) < 10
    taken = json.loads((capture / "transforms.json").read_text())
    assert len(made["train_filenames"]) == 16 and made["test_filenames"] == made["val_filenames"]
    photographs = {frame["file_path"]: torch.tensor(frame["transform_matrix"]) for frame in taken["frames"]}
    rendered = {frame["file_path"]: torch.tensor(frame["transform_matrix"]) for frame in made["frames"]}
    assert set(rendered) == {*made["train_filenames"], *made["test_filenames"]}
    for name in made["test_filenames"]:  # these are photographs that were not encoded, at their own poses
        assert min((rendered[name] - pose).abs().max() for pose in photographs.values()) < 1e-2
    centres, path = (torch.stack([pose[:3, 3] for pose in poses.values()]) for poses in (photographs, rendered))
    assert (path.mean(0) - centres.mean(0)).norm() < 0.5 * (centres - centres.mean(0)).norm(dim=1).max()
