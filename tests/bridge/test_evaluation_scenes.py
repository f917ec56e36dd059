"""Choice of the scenes and views that are displayed and evaluated, and treatment of unusable ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from support.scene_files import example, write_dl3dv, write_re10k
from support.small_runs import FRAMES, IMAGE_SIZE, NUM_CONTEXT, small_config, small_datamanager, write_small_re10k

from scenetok_ns.data.poses import cameras_from_rows
from scenetok_ns.data.scenes import BadScene, DataError
from scenetok_ns.data.view_sampling import default_views


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"))


def test_evaluation_covers_all_scenes_in_order(data: Path) -> None:
    views = small_datamanager(data).fixed_indices_eval_dataloader
    seen = [(int(camera.metadata["scene_idx"]), batch["image"].shape) for camera, batch in views]
    assert len(seen) == len(views) == 3 * (FRAMES - NUM_CONTEXT)
    assert [scene for scene, _ in seen] == [number for number in range(3) for _ in range(FRAMES - NUM_CONTEXT)]


def test_evaluation_options(data: Path) -> None:
    datamanager = small_datamanager(data, eval_scenes=2, eval_targets=4, num_context=5)
    assert len(datamanager.fixed_indices_eval_dataloader) == 8
    assert len(datamanager.scenes.context_views(1).images) == 5


def test_evaluation_index_and_scene_choose_the_views(data: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"test2": {"context": [0, 5, 9], "target": [2, 3]}}))
    datamanager = small_datamanager(data, dataparser={"eval_index": index})
    assert datamanager.scenes.keys == ["test2"]
    scene = datamanager.scenes.scene(0)
    assert scene.context.tolist() == [0, 5, 9] and scene.target.tolist() == [2, 3]
    other = small_datamanager(data, dataparser={"eval_index": index, "scene": "test1"})
    assert other.scenes.keys[other.scenes.active] == "test1"
    assert len(other.eval_dataset) == FRAMES - NUM_CONTEXT


def test_other_views_and_scenes_are_copies(data: Path) -> None:
    datamanager = small_datamanager(data, eval_targets=4)
    scenes = datamanager.scenes
    fewer, chosen = scenes.with_views(num_context=2, eval_targets=1), scenes.with_keys(["test2", "test0"])
    assert (len(fewer.scene(0).context), len(fewer.scene(0).target), len(fewer.context_set)) == (2, 1, 2)
    assert chosen.keys == ["test2", "test0"] and chosen.active == 0 and chosen.scene(1).scene.key == "test0"
    datamanager.config.num_context = 5  # a later change of the configuration has no effect
    assert (len(scenes.scene(0).context), len(scenes.scene(0).target)) == (NUM_CONTEXT, 4)
    assert scenes.keys == ["test0", "test1", "test2"] and len(scenes.context_set) == NUM_CONTEXT


def test_unknown_scene_is_named(data: Path) -> None:
    with pytest.raises(DataError, match=r"no scene 'nowhere'.*test0"):
        small_datamanager(data, dataparser={"scene": "nowhere"})


@pytest.mark.parametrize(("bad", "target", "shown"), [(1, 4, 0), (0, 0, 1), (0, 4, 0)])
def test_a_scene_with_a_damaged_target_view_is_skipped_as_a_whole(
    tmp_path: Path, bad: int, target: int, shown: int
) -> None:
    """This also holds for the first scene, which the tools would display.

    A damaged view in its middle is noticed only when it is read.
    """
    scenes = [example(f"test{i}", FRAMES, size=(36, 64)) for i in range(3)]
    damaged = default_views(cameras_from_rows(scenes[bad]["cameras"])[0], NUM_CONTEXT).target[target]
    scenes[bad]["images"][damaged] = scenes[bad]["images"][damaged][:60]
    datamanager = small_datamanager(write_re10k(tmp_path / "test", [scenes]).parent)
    assert datamanager.scenes.active == shown
    during_training = [datamanager.next_eval_image(step)[1]["image"] for step in range(6)]
    assert all(image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3) for image in during_training)
    views = datamanager.fixed_indices_eval_dataloader
    seen = [int(camera.metadata["scene_idx"]) for camera, _ in views]
    assert sorted(set(seen)) == views.scenes == sorted({0, 1, 2} - {bad})
    assert len(seen) == len(views) == 2 * (FRAMES - NUM_CONTEXT)
    assert f"frame_{damaged:05d}" in datamanager.scenes.source.skipped.reasons[f"test{bad}"]


def test_too_few_frames_for_the_context(data: Path) -> None:
    with pytest.raises(DataError, match=f"{FRAMES} frames, but {FRAMES + 1} context views"):
        small_datamanager(data, num_context=FRAMES + 1)


@pytest.mark.parametrize("asked", [None, 3])
def test_a_capture_with_too_few_photographs_gives_all_it_has_unless_more_are_asked_for(
    tmp_path: Path, asked: int | None
) -> None:
    """The preset wants three context views, but one of the three photographs is held out, so only two are left."""
    scene = write_dl3dv(tmp_path / "capture", frames=3, image_folder="images", divide=1)
    config = small_config(tmp_path, Path("unused")).pipeline
    config.datamanager.preset, config.datamanager.num_context = config.model.preset, asked
    config.datamanager.dataparser = NerfstudioDataParserConfig(downscale_factor=1, train_split_fraction=0.6)
    config.datamanager.data = scene
    if asked is None:
        shown = config.datamanager.setup(device="cpu", test_mode="inference").scenes.scene(0)
        assert len(shown.context) == 2 and shown.target.tolist() == [2]
    else:
        with pytest.raises((BadScene, DataError), match="2 training views, but 3 context views are needed"):
            config.datamanager.setup(device="cpu", test_mode="inference").scenes.scene(0)
