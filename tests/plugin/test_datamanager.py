"""Scenes, views and batches as Nerfstudio's trainer and tools see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.utils.eval_utils import all_methods
from support.scene_files import example, walk, write_dl3dv, write_re10k
from support.small_runs import (
    FRAMES,
    IMAGE_SIZE,
    NUM_CONTEXT,
    small_config,
    small_datamanager,
    write_small_dl3dv,
    write_small_re10k,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"))


def test_both_methods_are_registered() -> None:
    assert {"scenetok", "scenetok-tiny"} <= set(all_methods)


@pytest.mark.parametrize("test_mode", ["val", "test", "inference"])
def test_active_scene_is_shown_in_every_mode(data: Path, test_mode: str) -> None:
    datamanager = small_datamanager(data, test_mode)
    assert isinstance(datamanager, VanillaDataManager)
    assert len(datamanager.train_dataset) == NUM_CONTEXT
    assert len(datamanager.eval_dataset) == FRAMES - NUM_CONTEXT
    item = datamanager.train_dataset[0]
    assert item["image"].shape == (IMAGE_SIZE, IMAGE_SIZE, 3) and item["image"].dtype == torch.float32
    assert datamanager.eval_dataset.cameras[0].height == IMAGE_SIZE
    assert datamanager.train_dataparser_outputs.image_filenames


def test_context_and_target_views_are_those_of_the_data_sets(data: Path) -> None:
    datamanager = small_datamanager(data)
    context, target = datamanager.scenes.context_views(0), datamanager.scenes.target_views(0)
    for views, dataset in ((context, datamanager.train_dataset), (target, datamanager.eval_dataset)):
        images = torch.stack([dataset[i]["image"] for i in range(len(dataset))])
        assert torch.equal((images.permute(0, 3, 1, 2) * 255).round().byte(), views.images)
        centres = dataset.cameras.camera_to_worlds[:, :, 3]
        torch.testing.assert_close(centres, views.c2w[:, :3, 3])


def test_bad_scenes_are_skipped_counted_and_named(tmp_path: Path) -> None:
    datamanager = small_datamanager(write_small_re10k(tmp_path, bad_scene=True))
    assert len(datamanager.fixed_indices_eval_dataloader.scenes) == 3
    assert list(datamanager.scenes.source.skipped.reasons) == ["test-bad"]
    seen = {key for step in range(5) for key in datamanager.next_train(step)[0].scenes}
    assert seen == {f"train{i}" for i in range(4)}
    assert "NaN" in datamanager._training.samples.source.skipped.reasons["train-bad"]


def test_training_batches_follow_from_seed_and_step(data: Path) -> None:
    first, second = small_datamanager(data), small_datamanager(data)
    first.next_train(0)
    a, b = first.next_train(1)[0], second.next_train(1)[0]
    assert a.scenes == b.scenes and torch.equal(a.target.images, b.target.images)
    assert all(key.startswith("train") for key in a.scenes)
    held_out = [first.next_eval(step)[0] for step in (0, 7)]
    assert all(key.startswith("test") for key in held_out[0].scenes)
    assert torch.equal(held_out[0].target.images, held_out[1].target.images)
    assert first.get_train_rays_per_batch() == a.target.images.shape[0] * a.target.images.shape[1] * IMAGE_SIZE**2


def test_dl3dv(tmp_path: Path) -> None:
    datamanager = small_datamanager(write_small_dl3dv(tmp_path))
    assert datamanager.next_train(0)[0].context.images.shape == (2, NUM_CONTEXT, 3, IMAGE_SIZE, IMAGE_SIZE)
    camera, batch = datamanager.next_eval_image(5)
    assert camera.shape == (1,) and batch["image"].shape == (IMAGE_SIZE, IMAGE_SIZE, 3)


def test_stock_dataparser_of_one_scene(tmp_path: Path) -> None:
    """Context from the training views, targets are the evaluation views, training sees no evaluation view."""
    scene = write_dl3dv(tmp_path / "capture", frames=20, image_folder="images", divide=1)
    parser = NerfstudioDataParserConfig(data=scene, downscale_factor=1, train_split_fraction=0.75)
    config = small_config(tmp_path, Path("unused")).pipeline
    config.datamanager.preset, config.datamanager.dataparser = config.model.preset, parser
    config.datamanager.data = scene
    datamanager = config.datamanager.setup(device="cpu", test_mode="test")
    names = [parser.setup().get_dataparser_outputs(split).image_filenames for split in ("train", "test")]
    known, held_out = (walk(20)[[int(name.stem[-5:]) - 1 for name in part], :3, 3] for part in names)
    shown = datamanager.eval_dataset.cameras.camera_to_worlds[:, :, 3]
    torch.testing.assert_close(shown, held_out, atol=1e-5, rtol=1e-5)
    batch, _ = datamanager.next_train(0)
    for clip in (batch.context, batch.target):
        distances = torch.cdist(clip.c2w[..., :3, 3].flatten(0, 1), known)
        assert distances.amin(dim=1).max() < 1e-5


def test_without_a_train_folder_targets_stay_out_of_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_re10k(tmp_path / "test", [[example("a", FRAMES), example("b", FRAMES)]])
    index = tmp_path / "views.json"
    index.write_text(json.dumps({"a": {"context": [0, 5, 9], "target": [0, 1, 2]}}))
    datamanager = small_datamanager(tmp_path, "val", dataparser={"eval_index": index})
    source = datamanager._samples("train").source
    assert torch.equal(source.scene("a").c2w, datamanager.scenes.source.scene("a").c2w[[0, *range(3, FRAMES)]])
    assert source.scene("b").num_frames == FRAMES  # not evaluated
    said = " ".join(capsys.readouterr().out.split())
    assert "the target views of the 1 scenes to evaluate are kept out of training" in said
    assert datamanager._samples("test").source.scene("a").num_frames == FRAMES


def test_a_train_folder_is_used_whole(data: Path) -> None:
    source = small_datamanager(data, "val")._samples("train").source
    assert [source.scene(key).num_frames for key in source.keys] == [FRAMES] * 4
