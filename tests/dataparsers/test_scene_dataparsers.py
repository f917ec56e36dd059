from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nerfstudio.data.datasets.base_dataset import InputDataset
from support.scene_files import example, write_dl3dv, write_re10k

from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.view_sampling import default_views
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.dataparsers.dl3dv_dataparser import Dl3dvDataParserConfig
from scenetok_ns.dataparsers.re10k_dataparser import Re10kDataParserConfig
from scenetok_ns.dataparsers.specifications import dl3dv_data, re10k_data

ROOT = Path(__file__).parents[2]


@pytest.fixture
def re10k(tmp_path: Path) -> Re10kDataParserConfig:
    write_re10k(tmp_path / "data" / "train", [[example("a"), example("b")]])
    write_re10k(tmp_path / "data" / "test", [[example("c", 10), example("d", 10)]])
    return Re10kDataParserConfig(data=tmp_path / "data", frame_cache=tmp_path / "frames", image_size=32, num_context=4)


def test_whole_splits(re10k: Re10kDataParserConfig) -> None:
    parser = re10k.setup()
    assert list(parser.scene_source("train").keys) == ["a", "b"]
    assert list(parser.scene_source("val").keys) == list(parser.scene_source("test").keys) == ["c", "d"]
    re10k.train_split = "test"
    assert list(parser.scene_source("train").keys) == ["c", "d"]


def test_dl3dv_folders(tmp_path: Path) -> None:
    write_dl3dv(tmp_path / "test" / "x" / "nerfstudio")
    parser = Dl3dvDataParserConfig(data=tmp_path).setup()
    assert list(parser.scene_source("test").keys) == ["x"]
    assert parser.split_folder("train") == parser.split_folder("test") == tmp_path / "test"  # no train: shared
    parser = Dl3dvDataParserConfig(data=tmp_path, train_split="trian").setup()
    with pytest.raises(DataError, match=r"has no folder 'trian' \(it has test\); choose another with --train-split"):
        parser.scene_source("train")
    for data in (tmp_path / "test", tmp_path / "test" / "x"):
        parser = Dl3dvDataParserConfig(data=data).setup()
        assert list(parser.scene_source("train").keys) == list(parser.scene_source("test").keys) == ["x"]
    parser = Dl3dvDataParserConfig(data=tmp_path, image_folder="images_8").setup()
    with pytest.raises(DataError, match="no image folder images_8"):
        parser.scene_source("test").scene("x")


def test_missing_data(tmp_path: Path) -> None:
    for config in (Re10kDataParserConfig, Dl3dvDataParserConfig):
        with pytest.raises(DataError, match=r"no data folder .*; give it with --data"):
            config(data=tmp_path / "nowhere").setup().scene_source("train")
        with pytest.raises(DataError, match=r"has no folder 'train' \(it has no folders\)"):
            config(data=tmp_path).setup().scene_source("train")
    for name in ("walk.mp4", "photos/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=r"has no cameras: scenetok capture .* finds them; then give --data"):
            Re10kDataParserConfig(data=tmp_path / Path(name).parts[0]).setup().scene_source("train")
    (tmp_path / "photos" / "transforms.json").touch()
    with pytest.raises(DataError, match=r"photos is a capture, .* add nerfstudio-data at the end of the command"):
        Re10kDataParserConfig(data=tmp_path / "photos").setup().scene_source("train")


def test_one_scene_for_methods_that_fit_one(re10k: Re10kDataParserConfig) -> None:
    parser = re10k.setup()
    scene = parser.scene_source("test").scene("c")
    views = default_views(scene.c2w, 4)
    for split, indices in (("train", views.context), ("val", views.target), ("test", views.target)):
        outputs = parser.get_dataparser_outputs(split)
        dataset = InputDataset(outputs)
        expected = scene.load_views(indices, (32, 32))
        assert len(dataset) == len(indices)
        for place in range(len(indices)):
            assert torch.equal(dataset.get_image_uint8(place).permute(2, 0, 1), expected.images[place])
        batch = nerfstudio_to_camera_batch(dataset.cameras)
        torch.testing.assert_close(batch.c2w[0], expected.c2w)
        torch.testing.assert_close(batch.intrinsics[0], expected.intrinsics)
        assert set(dataset.cameras.height.flatten().tolist()) == set(dataset.cameras.width.flatten().tolist()) == {32}
        assert outputs.dataparser_scale == 1.0 and torch.equal(outputs.dataparser_transform, torch.eye(4)[:3])
        assert outputs.cameras.metadata is not None
        assert outputs.cameras.metadata["frame_idx"].tolist() == indices[:, None].tolist()
        assert outputs.cameras.metadata["scene_idx"].tolist() == [[0]] * len(indices)
        assert (scene.c2w[:, :3, 3] >= outputs.scene_box.aabb[0]).all()
        assert (scene.c2w[:, :3, 3] <= outputs.scene_box.aabb[1]).all()
    assert re10k.frame_cache is not None and not list(re10k.frame_cache.rglob("*.part*"))


def names(config: Re10kDataParserConfig, split: str) -> list[str]:
    return [path.stem for path in config.setup().get_dataparser_outputs(split).image_filenames]


def test_the_scene_and_its_views_can_be_chosen(re10k: Re10kDataParserConfig, tmp_path: Path) -> None:
    re10k.scene = "d"
    outputs = re10k.setup().get_dataparser_outputs("train")
    assert outputs.cameras.metadata is not None and outputs.cameras.metadata["scene_idx"].unique().tolist() == [1]
    re10k.scene, re10k.eval_index = None, tmp_path / "index.json"
    re10k.eval_index.write_text(json.dumps({"d": {"context": [1, 3], "target": [2, 9]}}))
    assert names(re10k, "train") == ["frame_00001", "frame_00003"]
    assert names(re10k, "test") == ["frame_00002", "frame_00009"]
    re10k.scene = "c"
    with pytest.raises(DataError, match="has no entry for scene 'c'"):
        re10k.setup().get_dataparser_outputs("train")
    re10k.scene = "z"
    with pytest.raises(DataError, match="has no scene 'z'"):
        re10k.setup().get_dataparser_outputs("train")


def test_downscaling_keeps_the_field_of_view(re10k: Re10kDataParserConfig) -> None:
    whole = re10k.setup().get_dataparser_outputs("train")
    re10k.downscale_factor = 2.0
    half = re10k.setup().get_dataparser_outputs("train")
    assert InputDataset(half).get_image_uint8(0).shape == (16, 16, 3)
    torch.testing.assert_close(half.cameras.fy, whole.cameras.fy / 2)
    assert not set(half.image_filenames) & set(whole.image_filenames)


def test_damaged_scenes_are_passed_over(re10k: Re10kDataParserConfig) -> None:
    bad = example("c", 10)
    bad["cameras"][0] = float("nan")
    write_re10k(re10k.data / "test", [[bad, example("d", 10)]])
    outputs = re10k.setup().get_dataparser_outputs("train")
    assert outputs.cameras.metadata is not None and outputs.cameras.metadata["scene_idx"].unique().tolist() == [1]


def test_frames_are_those_of_the_data_as_it_is_now(re10k: Re10kDataParserConfig) -> None:
    re10k.setup().get_dataparser_outputs("train")
    changed = example("c", 10)
    changed["images"] = changed["images"][::-1]
    write_re10k(re10k.data / "test", [[changed]])
    outputs = re10k.setup().get_dataparser_outputs("train")
    assert outputs.image_filenames[0].stem == "frame_00000"
    assert round(float(InputDataset(outputs).get_image_uint8(0)[..., 0].float().mean()) / 4) == 9


def test_frames_stay_in_their_folder(re10k: Re10kDataParserConfig) -> None:
    write_re10k(re10k.data / "test", [[example("../../up", 10)]])
    assert re10k.frame_cache is not None
    for path in re10k.setup().get_dataparser_outputs("train").image_filenames:
        assert path.resolve().is_relative_to(re10k.frame_cache.resolve())


def test_without_a_folder_frames_go_to_the_users_cache(
    re10k: Re10kDataParserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    re10k.frame_cache = None
    first = re10k.setup().get_dataparser_outputs("train").image_filenames[0]
    assert first.is_file() and first.is_relative_to(tmp_path / "cache" / "scenetok_ns")


def test_entry_points() -> None:
    assert isinstance(re10k_data.config, Re10kDataParserConfig) and isinstance(dl3dv_data.config, Dl3dvDataParserConfig)
    project = (ROOT / "pyproject.toml").read_text()
    assert 're10k-data = "scenetok_ns.dataparsers.specifications:re10k_data"' in project
    assert 'dl3dv-data = "scenetok_ns.dataparsers.specifications:dl3dv_data"' in project


def test_nerfstudio_finds_the_dataparsers_while_it_is_half_imported(tmp_path: Path) -> None:
    """Importing base_datamanager loads all dataparser plugins, so a plugin that imports it again breaks every tool."""
    info = tmp_path / "scenetok_ns_test-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scenetok-ns-test\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[nerfstudio.dataparser_configs]\n"
        "re10k-data = scenetok_ns.dataparsers.specifications:re10k_data\n"
        "dl3dv-data = scenetok_ns.dataparsers.specifications:dl3dv_data\n"
    )
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "import nerfstudio.data.datamanagers.base_datamanager\n"
        "from nerfstudio.configs.dataparser_configs import all_dataparsers\n"
        "assert {'re10k-data', 'dl3dv-data'} <= set(all_dataparsers), sorted(all_dataparsers)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
