"""`scenetok render`, and `scenetok encode` before it: encoded captures, camera paths, and the written files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mediapy
import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_paths import get_path_from_json
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image
from support.capture_files import write_demo_capture
from support.command_line import failure, scenetok

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.data.camera_path_files import read_camera_path
from scenetok_ns.data.camera_paths import preset_path
from scenetok_ns.data.poses import camera_spread
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.tokens import SceneTokens

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="writing videos needs ffmpeg")


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two captures, each encoded with the bundled model."""
    folder = tmp_path_factory.mktemp("captures")
    for index, name in enumerate(("attic", "cellar")):
        write_demo_capture(folder / name, index=index)
        scenetok("encode", "--data", folder / name, "--output", folder / f"{name}-scene.safetensors")
    return folder


def test_a_capture_is_encoded_in_its_own_world(workplace: Path) -> None:
    tokens = SceneTokens.load(workplace / "attic-scene.safetensors")
    meta = json.loads((workplace / "attic" / "transforms.json").read_text())
    opencv = torch.tensor([frame["transform_matrix"] for frame in meta["frames"]]) * torch.tensor([1, -1, -1, 1])
    cameras = tokens.cameras_c2w
    assert cameras is not None and len(cameras) == len(tokens.sources) == 12 and tokens.scene == "attic"
    assert (cameras[:, None] - opencv).abs().amax(dim=(2, 3)).amin(1).max() < 1e-3
    torch.testing.assert_close(tokens.reference_c2w, cameras[6])
    spread = load_preset("scenetok-tiny").data.camera_spread
    assert tokens.pose_scale == pytest.approx(spread / camera_spread(opencv), rel=1e-4)


def test_the_run_folder_beside_a_token_file_shows_it(workplace: Path, tmp_path: Path) -> None:
    """The run folder is replaced when the file is encoded again. Any other folder of that name stays."""
    config, pipeline, *_ = eval_setup(workplace / "attic-scene" / "config.yml", test_mode="test")
    assert config.data == workplace / "attic-scene.safetensors"
    assert len(pipeline.datamanager.train_dataset) == 12
    words = ("--run", workplace / "attic-scene", "--data", workplace / "attic")
    assert "give the run that it was made from" in failure("encode", *words, "--output", "x.safetensors")
    output = tmp_path / "attic.safetensors"
    for scale in (0.01, 0.02):
        scenetok("encode", "--data", workplace / "attic", "--output", output, "--pose-scale", scale)
        assert SceneTokens.load(read_run(tmp_path / "attic").data).pose_scale == scale  # type: ignore[arg-type]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    scenetok("encode", "--data", workplace / "attic", "--output", tmp_path / "mine.safetensors")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@needs_ffmpeg
def test_the_path_beside_a_video_gives_its_frames_again(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, sampled = workplace / "attic-scene", ("--steps", 2, "--formats", "mp4", "png")
    words = ("--path", "spiral", "--frames", 9, "--size", 48, 32, "--frame-rate", 12)
    scenetok("render", "--tokens", f"{scene}.safetensors", "--output", tmp_path, *words, *sampled)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["attic", "attic.camera_path.json", "attic.mp4"]
    assert "A video of 0.75 s: more --frames make it longer" in capsys.readouterr().err
    found = pictures(tmp_path / "attic")
    assert found.shape == (9, 32, 48, 3) and found.std() > 10
    video = mediapy.read_video(tmp_path / "attic.mp4")
    assert video.metadata.fps == 12 and np.abs(video.astype(float) - found).mean() < 6

    tokens = SceneTokens.load(workplace / "attic-scene.safetensors")
    file = tmp_path / "attic.camera_path.json"
    wanted = preset_path("spiral", tokens.cameras_c2w, 9)  # type: ignore[arg-type]
    torch.testing.assert_close(read_camera_path(file), wanted, atol=1e-4, rtol=1e-5)
    cameras = get_path_from_json(json.loads(file.read_text()))
    _, pipeline, *_ = eval_setup(workplace / "attic-scene" / "config.yml", test_mode="inference")
    settings = pipeline.model.renderer.settings
    settings = replace(settings, wide="fill", sampler=replace(settings.sampler, steps=2))
    renderer, cameras = replace(pipeline.model.renderer, settings=settings), cameras.to(pipeline.device)
    for index in (0, 5):
        rgb = renderer.outputs(cameras[index : index + 1])["rgb"].cpu().numpy()
        assert np.abs(rgb * 255 - found[index]).max() < 2

    scenetok("render", "--run", scene, "--output", tmp_path / "2", "--path", file, *sampled)
    assert (pictures(tmp_path / "2" / "attic") == found).all()


def test_photographs_stand_beside_the_views_they_were_taken_from(workplace: Path, tmp_path: Path) -> None:
    """With the path transforms.json and --compare, each render is beside the photograph of its own camera, and is
    closer to it than to other photographs."""
    path = workplace / "cellar" / "transforms.json"
    words = ("--path", path, "--compare", "--formats", "png", "--num-context", 12, "--size", 128)
    scenetok("render", "--data", workplace / "cellar", "--output", tmp_path, *words)
    found = pictures(tmp_path / "cellar").astype(float)
    assert found.shape == (20, 128, 256, 3)
    ours, beside = found[:, :, :128], found[:, :, 128:]
    for index, file in enumerate(sorted((workplace / "cellar" / "images").iterdir())):
        photograph = np.asarray(Image.open(file).resize((128, 128), Image.Resampling.LANCZOS)).astype(float)
        assert np.abs(photograph - beside[index]).max() <= 1
    errors = np.square(ours[:, None] - beside[None]).mean(axis=(2, 3, 4))
    assert (errors.argmin(axis=1) == np.arange(20)).mean() > 0.7


def test_several_scenes_are_rendered_together_as_each_alone(workplace: Path, tmp_path: Path) -> None:
    files = [workplace / f"{name}-scene.safetensors" for name in ("attic", "cellar")]
    words = ("--path", "dolly", "--frames", 5, "--steps", 1, "--formats", "png", "--size", 64)
    scenetok("render", "--tokens", *files, "--output", tmp_path / "both", *words)
    scenetok("render", "--tokens", files[1], "--output", tmp_path / "one", *words)
    together, alone = pictures(tmp_path / "both" / "cellar").astype(int), pictures(tmp_path / "one" / "cellar")
    assert np.abs(together - alone).max() <= 1
    assert np.abs(together - pictures(tmp_path / "both" / "attic")).mean() > 5


def test_a_stream_renders_nearly_what_the_sampler_does(workplace: Path, tmp_path: Path) -> None:
    """From token files by themselves, and through a run that ns-render can open."""
    run, words = workplace / "attic-scene", ("--path", "dolly", "--frames", 10, "--formats", "png", "--size", 128)
    scenetok("render", "--tokens", f"{run}.safetensors", "--output", tmp_path / "sampled", *words)
    scenetok("render", "--tokens", f"{run}.safetensors", "--output", tmp_path / "tokens", *words, "--stream")
    scenetok("new-run", run, "--output", tmp_path / "run", "--stream")
    scenetok("render", "--run", tmp_path / "run", "--output", tmp_path / "run-renders", *words)
    sampled, streamed, again = (
        pictures(tmp_path / name / "attic").astype(int) for name in ("sampled", "tokens", "run-renders")
    )
    assert np.abs(streamed - again).max() <= 1
    difference = np.abs(streamed - sampled).mean()
    assert 0 < difference < 0.3 * np.abs(sampled - sampled.mean(axis=(1, 2), keepdims=True)).mean()


def test_a_run_folder_is_left_as_it_is(workplace: Path, tmp_path: Path) -> None:
    """A run folder is not overwritten, whether it is the output or has the name of a scene's folder in the output."""
    run = workplace / "attic-scene"
    before = sorted(file.name for file in run.iterdir())
    words = ("--tokens", f"{run}.safetensors", "--path", "dolly", "--frames", 2, "--steps", 1, "--formats", "png")
    said = failure("render", *words, "--output", run)
    assert said.endswith(f"{run} holds files other than renders (config.yml, nerfstudio_models); choose another folder")
    output = tmp_path / "renders"
    scenetok("render", *words, "--output", output)
    shutil.rmtree(output / "attic")
    shutil.copytree(run, output / "attic")
    said = failure("render", *words, "--output", output)
    assert f"{output / 'attic'} was not written by `scenetok render`" in said and "\n" not in said
    for folder in (run, output / "attic"):
        assert sorted(file.name for file in folder.iterdir()) == before


def test_a_scene_rendered_again_replaces_its_pictures(workplace: Path, tmp_path: Path) -> None:
    words = ("--path", "dolly", "--steps", 1, "--formats", "png", "--size", 64, "--output", tmp_path)
    for name, frames in (("attic", 4), ("cellar", 3), ("attic", 2)):
        scenetok("render", "--tokens", workplace / f"{name}-scene.safetensors", "--frames", frames, *words)
    found = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    paths = ["attic.camera_path.json", "cellar.camera_path.json"]
    pictures = [f"{name}/{number:05d}.png" for name, count in (("attic", 2), ("cellar", 3)) for number in range(count)]
    assert found == sorted(paths + pictures)
    assert len(read_camera_path(tmp_path / "attic.camera_path.json")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--path", "loop"],
            "unknown path 'loop'; give orbit, dolly, spiral, interpolate, lemniscate, zoom or a JSON file",
        ),
        (["--path", "nothing.json"], "no file nothing.json"),
        (["--path", "{}/attic/transforms.json", "--frames", "4"], "--frames is for paths by name"),
        (["--compare"], "--tokens already give the scenes: leave out --compare"),
        (["--num-context", "4"], "--tokens already gives the scene: leave out --num-context"),
        (["--size", "0", "4"], "--size must be from 1 x 1"),
        (["--size", "0"], "--size must be from 1 x 1 to 16384 x 16384, got 0 x 0"),
        (["--size", "4", "4", "4"], "--size takes width and height, or one number for squares; got 3 numbers"),
        (["--frames", "0"], "--frames must be at least 1"),
        (["--frame-rate", "0"], "--frame-rate above 0"),
        (["--pose-scale", "2"], "--tokens already gives the scene: leave out --pose-scale"),
        (["--stream", "--depth"], "--stream predicts no depth: leave out --stream or --depth"),
    ],
)
def test_wrong_renderings_are_told_in_one_line(workplace: Path, tmp_path: Path, words: list[str], message: str) -> None:
    given = [word.format(workplace) for word in words]
    said = failure("render", "--tokens", workplace / "attic-scene.safetensors", "--output", tmp_path / "out", *given)
    assert message in said and "\n" not in said and not (tmp_path / "out").exists()


def test_tokens_without_cameras_need_a_path(workplace: Path, tmp_path: Path) -> None:
    tokens = SceneTokens.load(workplace / "attic-scene.safetensors")
    old = SceneTokens(tokens.mean, tokens.reference_c2w, tokens.preset, scene="old")
    old.save(tmp_path / "old.safetensors")
    said = failure("render", "--tokens", tmp_path / "old.safetensors", "--output", tmp_path / "out")
    assert "the tokens of old hold no cameras to make a path from" in said


def test_token_files_render_without_nerfstudio_as_a_run_renders_them(workplace: Path, tmp_path: Path) -> None:
    """Importing Nerfstudio takes longer than rendering. Without it, the pictures must be the same."""
    words = ["render", "--tokens", str(workplace / "attic-scene.safetensors"), "--frames", "2", "--formats", "png"]
    code = (
        "import sys; from scenetok_ns.cli.main import entrypoint; entrypoint(sys.argv[1:]);"
        "assert 'nerfstudio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, *words, "--output", str(tmp_path / "quick")], check=True)
    scenetok(*words, "--run", workplace / "attic-scene", "--output", tmp_path / "run")
    quick, run = (pictures(tmp_path / name / "attic") for name in ("quick", "run"))
    assert len(quick) == 2 and np.array_equal(quick, run)


def test_a_file_name_is_no_folder_for_videos(workplace: Path, tmp_path: Path) -> None:
    said = failure("render", "--tokens", workplace / "attic-scene.safetensors", "--output", tmp_path / "walk.mp4")
    assert "--output is a folder, which gets a video of each scene; got the file name" in said
    assert not (tmp_path / "walk.mp4").exists()
