"""Captures and data sets in Python: the same views as in the commands, and cameras from files."""

from __future__ import annotations

import json
import shutil
import warnings
from copy import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.room_pictures import HEIGHT, WIDTH, walk, write_photographs
from support.small_runs import IMAGE_SIZE, PRESET, small_pipeline, write_small_re10k

from scenetok_ns import (
    cameras_from_colmap,
    cameras_from_nerfstudio,
    cameras_from_transforms,
    load_preset,
    open_scenes,
    picture_files_of,
    pose_scale_of,
)
from scenetok_ns.data.errors import DataError
from scenetok_ns.data.poses import camera_spread
from scenetok_ns.models.cameras import CameraBatch

FOCAL = 133.0
AXES = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs, with a transforms.json and a COLMAP model of the same cameras."""
    folder = tmp_path_factory.mktemp("capture")
    poses = walk(6)
    files = write_photographs(folder / "images", poses)
    frames = [
        {"file_path": f"images/{file.name}", "transform_matrix": (pose @ AXES).tolist()}
        for file, pose in zip(files, poses, strict=True)
    ]
    lens = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT}
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n")
    lines = []
    for number, (file, pose) in enumerate(zip(files, poses, strict=True), 1):
        w2c = np.linalg.inv(pose)
        w = np.sqrt(max(0.0, 1 + np.trace(w2c[:3, :3]))) / 2
        x, y, z = (w2c[[2, 0, 1], [1, 2, 0]] - w2c[[1, 2, 0], [2, 0, 1]]) / (4 * w)
        lines += [" ".join(map(str, (number, w, x, y, z, *w2c[:3, 3], 1, file.name))), ""]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    (model / "points3D.txt").write_text("")
    return folder


def test_a_capture_gives_its_views_and_its_scale(capture: Path) -> None:
    preset = load_preset("scenetok-tiny")
    scenes = open_scenes(capture, preset, num_context=3)
    assert len(scenes) == 1 and scenes.names == [capture.name]
    assert repr(scenes) == f"PosedScenes(1 scene of {capture}, split test: {capture.name!r})"
    views, target = scenes.context(), scenes.targets()
    assert views.images.shape == (3, 3, 128, 128) and views.images.dtype == torch.uint8
    assert views.cameras.c2w.shape == (1, 3, 4, 4) and views.scene == capture.name
    poses = torch.from_numpy(np.stack(walk(6)))
    assert views.pose_scale == pytest.approx(preset.data.camera_spread / camera_spread(poses), rel=1e-4)
    assert all(float((poses - pose).abs().flatten(1).amax(1).min()) < 1e-5 for pose in views.cameras.c2w[0])
    assert len(target.images) > 0 and open_scenes(capture, "scenetok-tiny", pose_scale=3.0).context().pose_scale == 3.0
    with pytest.raises(DataError, match="needs no evaluation index"):
        open_scenes(capture, preset, index=capture / "x.json")


def test_a_data_set_gives_the_views_of_the_pipeline(tmp_path: Path) -> None:
    data, preset = write_small_re10k(tmp_path / "data", bad_scene=True), load_preset(str(PRESET))
    scenes = open_scenes(data, preset)
    expected = small_pipeline(data).datamanager.scenes
    assert [views.scene for views in scenes] == expected.keys[:3]  # the broken one is left out
    assert repr(scenes) == f"PosedScenes(4 scenes of {data}, split test: 'test0', 'test1', 'test2', ...)"
    views = scenes.context(expected.keys[1])
    assert torch.equal(views.images, expected.context_views(1).images) and views.pose_scale == 1.0
    assert torch.equal(views.cameras.c2w[0], expected.context_views(1).c2w)
    assert torch.equal(scenes.targets(expected.keys[1]).images, expected.target_views(1).images)
    with pytest.raises(DataError, match="there is no scene 'nowhere'"):
        scenes.context("nowhere")
    with pytest.raises(DataError, match="whose units are fixed"):
        open_scenes(data, preset, pose_scale=2.0)
    with pytest.raises(DataError, match="no data at"):
        open_scenes(tmp_path / "nowhere", preset)
    with pytest.raises(DataError, match="has no split 'tset'; it has train and test"):
        open_scenes(data, preset, split="tset")


def square_cameras() -> CameraBatch:
    """The cameras of the middle squares, computed from those that rendered the photographs."""
    focal = FOCAL / min(WIDTH, HEIGHT)
    lens = torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])
    return CameraBatch(torch.from_numpy(np.stack(walk(6))).float()[None], lens.expand(1, 6, 3, 3))


@pytest.mark.parametrize("kind", ["transforms", "colmap"])
def test_cameras_from_files_are_those_of_the_squares(capture: Path, kind: str) -> None:
    if kind == "colmap":
        found = cameras_from_colmap(capture / "sparse" / "0", IMAGE_SIZE)
    else:
        found = cameras_from_transforms(capture / "transforms.json", IMAGE_SIZE)
    torch.testing.assert_close(found.c2w, square_cameras().c2w, atol=1e-4, rtol=0)
    # The published code rounds the size of the rescaled picture to whole pixels.
    torch.testing.assert_close(found.intrinsics, square_cameras().intrinsics, atol=2e-2, rtol=0)


def test_loaders_accept_folders_and_both_forms_of_a_size(capture: Path) -> None:
    by_file = cameras_from_transforms(capture / "transforms.json", IMAGE_SIZE)
    by_folder = cameras_from_transforms(capture, (IMAGE_SIZE, IMAGE_SIZE))
    assert torch.equal(by_folder.c2w, by_file.c2w) and torch.equal(by_folder.intrinsics, by_file.intrinsics)
    model = cameras_from_colmap(capture / "sparse" / "0", IMAGE_SIZE)
    assert torch.equal(cameras_from_colmap(capture, (IMAGE_SIZE, IMAGE_SIZE)).c2w, model.c2w)
    with pytest.raises(DataError, match=r"there is no transforms.json in"):
        cameras_from_transforms(capture / "images", IMAGE_SIZE)
    with pytest.raises(DataError, match=r"neither transforms.json nor a COLMAP model at .*images: expected"):
        cameras_from_colmap(capture / "images", IMAGE_SIZE)


@pytest.mark.parametrize("kind", ["transforms.json", "sparse/0", "."])
def test_pictures_come_in_the_order_of_the_cameras(capture: Path, kind: str) -> None:
    assert picture_files_of(capture / kind) == sorted((capture / "images").iterdir())


def test_turned_pictures_are_refused(capture: Path, tmp_path: Path) -> None:
    shutil.copytree(capture, tmp_path / "turned")
    file = sorted((tmp_path / "turned" / "images").iterdir())[1]
    with Image.open(file) as picture:
        picture.rotate(90, expand=True).save(file)
    for load in (cameras_from_transforms, cameras_from_colmap, lambda folder, _: picture_files_of(folder)):
        with pytest.raises(DataError, match=f"{file.name}: .* it was turned"):
            load(tmp_path / "turned", IMAGE_SIZE)


def test_distortion_that_is_not_removed_is_reported(capture: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(capture, tmp_path / "distorted")
    content = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").write_text(json.dumps({**content, "k1": -0.2, "p2": 0.01}))
    camera = f"1 OPENCV {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2} -0.2 0 0 0.01\n"
    (folder / "sparse" / "0" / "cameras.txt").write_text(camera)
    for load in (cameras_from_transforms, cameras_from_colmap):
        with pytest.warns(UserWarning, match=r"lens distortion \(k1 -0.2, p2 0.01\), which is ignored.*open_scenes"):
            load(folder, IMAGE_SIZE)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load(capture, IMAGE_SIZE)


def test_targets_say_whether_they_are_held_out(capture: Path) -> None:
    model = SimpleNamespace(preset=load_preset("scenetok-tiny"))  # a model is accepted instead of its preset
    scenes = open_scenes(capture, model)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=f"all 6 photographs of {capture.name} are context views"):
        target = scenes.targets()
    assert not target.held_out and set(target.names) == {file.stem for file in (capture / "images").iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scenes = open_scenes(capture, model, num_context=4)  # type: ignore[arg-type]
        target, context = scenes.targets(), scenes.context()
    assert target.held_out and not context.held_out and not {*target.names} & {*context.names}
    with pytest.raises(ValueError, match=r"expected a preset .* or its name, got int"):
        open_scenes(capture, 3)  # type: ignore[arg-type]


def test_cameras_of_nerfstudio(tmp_path: Path) -> None:
    pipeline = small_pipeline(write_small_re10k(tmp_path / "data"))
    views = pipeline.datamanager.scenes.context_views(0)
    found = cameras_from_nerfstudio(pipeline.datamanager.train_dataset.cameras)
    torch.testing.assert_close(found.c2w[0], views.c2w, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.intrinsics[0], views.intrinsics, atol=1e-5, rtol=1e-5)
    wide = copy(pipeline.datamanager.train_dataset.cameras)
    wide.width = wide.width * 2  # the same focal lengths in pixels, in pictures of twice the width
    wide.cx = wide.cx * 2
    cropped = cameras_from_nerfstudio(wide, IMAGE_SIZE)
    torch.testing.assert_close(cropped.intrinsics[0], views.intrinsics, atol=1e-5, rtol=1e-5)


def test_the_pose_scale_of_a_capture_is_public(capture: Path) -> None:
    preset = load_preset("scenetok-tiny")
    cameras = cameras_from_transforms(capture / "transforms.json", preset.data.image_size)
    assert pose_scale_of(cameras, preset) == pytest.approx(open_scenes(capture, preset).context().pose_scale, rel=1e-3)
