"""`scenetok new-run` creates run folders that Nerfstudio's tools open, with the requested changes and no others."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.utils.eval_utils import eval_setup
from support.command_line import failure, failure_in, scenetok, scenetok_in

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.data.anchors import trajectory
from scenetok_ns.data.demo.writer import write_demo_data
from scenetok_ns.models.autoencoders.offload import OffloadedAutoencoder

CHECKPOINT = "nerfstudio_models/step-000000000.ckpt"
SCENES = ("demo-0-test-000000", "demo-0-test-000001")


def test_open_changes_what_is_asked_and_shares_the_checkpoint(workplace: Path) -> None:
    options = {"scene": SCENES[1], "num_context": 3, "seed": 7, "steps": 2, "guidance": 1.5, "encoding": "published"}
    scenetok_in(workplace, "new-run", str(workplace / "run"), "--low-vram", output="other", **options)
    assert os.path.samefile(workplace / "run" / CHECKPOINT, workplace / "other" / CHECKPOINT)
    _, pipeline, checkpoint, _ = eval_setup(workplace / "other" / "config.yml", test_mode="inference")
    assert checkpoint == workplace / "other" / CHECKPOINT
    manager, model, settings = pipeline.datamanager, pipeline.model, pipeline.model.renderer.settings
    assert manager.scenes.scene(manager.scenes.active).scene.key == SCENES[1]
    assert len(manager.train_dataset) == 3
    assert (settings.seed, settings.sampler.steps, settings.sampler.guidance) == (7, 2, 1.5)
    assert settings.encoding == "published"
    assert isinstance(model.scenetok.target_autoencoder, OffloadedAutoencoder)
    first = read_run(workplace / "run").pipeline
    assert (first.model.seed, first.model.steps, first.datamanager.num_context) == (0, None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scene": "attic"}, f"no scene 'attic' in the test split of .*; it has {SCENES[0]}"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"num_context": 0}, "--num-context must be at least 1, got 0"),
        ({"guidance": 0.5}, "--guidance must be at least 1"),
        ({"encoding": "latents"}, "--encoding latents would change nothing: the conv autoencoder of preset small"),
        ({"data": "nowhere"}, "no data at "),
        ({"data": "run"}, "/run is not a data set: expected transforms.json"),
        ({"tokens": "nothing.safetensors"}, "nothing.safetensors does not exist"),
        ({"tokens": "small.ckpt", "scene": SCENES[0]}, "--tokens already gives the scene: leave out --scene"),
    ],
)
def test_wrong_openings_are_told_in_one_line(workplace: Path, options: dict[str, Any], message: str) -> None:
    before = sorted(workplace.iterdir())
    said = failure_in(workplace, "new-run", str(workplace / "run"), output="new", **options)
    assert re.search(message, said) and "\n" not in said
    assert sorted(workplace.iterdir()) == before


def test_other_data_takes_scene_and_index_along_where_they_fit(
    workplace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "index.json"
    index.write_text(json.dumps({SCENES[1]: {"context": [0, 1, 2, 3], "target": [4]}}))
    config = read_run(workplace / "run")
    config.pipeline.datamanager.dataparser.eval_index = index
    config.pipeline.datamanager.dataparser.scene = SCENES[1]
    (tmp_path / "old").mkdir()
    shutil.copytree(workplace / "run" / "nerfstudio_models", tmp_path / "old" / "nerfstudio_models")
    config.run_folder = tmp_path / "old"
    (tmp_path / "old" / "config.yml").write_text(yaml.dump(config))
    shutil.copytree(workplace / "data", tmp_path / "same")
    write_demo_data(tmp_path / "other", "re10k", {"test": 1}, 16, 128, seed=5)
    found = {}
    for name in ("same", "other"):
        scenetok_in(tmp_path, "new-run", str(tmp_path / "old"), data=name, output=f"run-{name}")
        dataparser = read_run(tmp_path / f"run-{name}").pipeline.datamanager.dataparser
        found[name] = (dataparser.scene, dataparser.eval_index)
    assert found == {"same": (SCENES[1], index), "other": (None, None)}
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_open_refuses_what_is_no_run_of_ours(workplace: Path) -> None:
    assert "is not a run folder" in failure_in(workplace, "new-run", str(workplace / "data"), output="new")


def test_a_run_without_anything_to_show_is_not_made(tmp_path: Path) -> None:
    said = failure_in(tmp_path, "open", "scenetok-tiny", output="new")
    assert "there is no scene to display: give --data with a capture" in said and "re10k" not in said
    assert not (tmp_path / "new").exists()


def test_a_photograph_without_a_path_gets_a_trajectory_to_render(work: Path, tmp_path: Path) -> None:
    scenetok("new-run", work / "tiny_scenegen", output=tmp_path / "run", image=work / "photo.jpg", trajectory="turn")
    path = json.loads((tmp_path / "run" / "camera_path.json").read_text())
    assert (len(path["camera_path"]), path["render_height"]) == (48, 32)
    assert path["camera_path"][0]["fov"] == pytest.approx(58.0)
    # The stock ns-eval renders the scene from the photograph's camera and compares it with the photograph.
    _, pipeline, _, _ = eval_setup(tmp_path / "run" / "config.yml", test_mode="test")
    shown = pipeline.datamanager.scenes.scene(0)
    assert torch.equal(shown.anchors, trajectory("turn")[[0, 23, 47]])
    metrics = pipeline.get_average_eval_image_metrics()
    assert metrics["num_views"] == 1 and 0 < metrics["psnr"] < 60
    assert pipeline.datamanager.scenes.stored_tokens(0) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "a.safetensors", "image": "photo.jpg"}, "--tokens already gives the scene: leave out --image"),
        ({"image": "photo.jpg", "scene": "test1"}, "--image already gives the scene: leave out --scene"),
        ({"scene_guidance": 0.9}, "--scene-guidance must be at least 1"),
        ({"scene_steps": 0}, "--scene-steps must be at least 1"),
        ({"num_condition": 0}, "--num-condition 0: preset tiny_scenegen takes 1 to 2"),
        ({"fov": 60}, "--fov only works with --image"),
        ({"image": "photo.jpg", "pose_scale": 1e-9}, "stays where the photograph was taken"),
    ],
)
def test_wrong_openings_of_a_generator_are_told_in_one_line(
    work: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    words = {k: work / v if k in ("tokens", "image") else v for k, v in options.items()}
    assert message in failure("open", work / "tiny_scenegen", output=tmp_path / "new", **words)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("options", [{"image": "photo.jpg"}, {"scene_seed": 1}, {"num_condition": 1}])
def test_a_tokenizer_generates_nothing(work: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    words = {k: work / v if k == "image" else v for k, v in options.items()}
    said = failure("open", work / "tiny_preset", output=tmp_path / "new", **words)
    assert "preset tiny_preset encodes" in said


def test_options_of_the_generation_are_kept_in_the_run(work: Path, tmp_path: Path) -> None:
    options = {
        "scene_seed": 3,
        "scene_steps": 9,
        "scene_guidance": 2.5,
        "scene_solver": "multistep",
        "scene_fit_steps": 0,
    }
    scenetok("new-run", work / "tiny_scenegen", output=tmp_path / "run", num_condition=2, solver="multistep", **options)
    config = read_run(tmp_path / "run").pipeline
    assert all(getattr(config.model, name) == value for name, value in options.items())
    assert (config.datamanager.num_condition, config.model.solver) == (2, "multistep")
