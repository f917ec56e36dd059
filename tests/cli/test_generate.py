"""`scenetok generate`: a photograph becomes a scene that other runs render."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.scripts.render import RenderCameraPath
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image
from support.command_line import failure, scenetok
from support.small_networks import randomized

from scenetok_ns.cli import change_run, new_run
from scenetok_ns.data.anchors import home_pose, trajectory
from scenetok_ns.data.camera_path_files import write_camera_path
from scenetok_ns.models import scenetok_networks as scenetok_module
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.presets import Preset, build, config_folder
from scenetok_ns.models.released_checkpoints import module_sha256
from scenetok_ns.models.scenetok_networks import GENERATOR_OF
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.models.weight_files import embedded_weights, load_weights, save_weights
from scenetok_ns.plugin import datamanager as scenetok_datamanager
from scenetok_ns.plugin import model as scenetok_model
from scenetok_ns.plugin import run_folder
from scenetok_ns.plugin import trainer as scenetok_trainer


def generated(work: Path, output: Path, **options: Any) -> SceneTokens:
    scenetok("generate", run=work / "tiny_scenegen", output=output, **options)
    return SceneTokens.load(output)


def render(run: Path, path: Path, output: Path) -> list[bytes]:
    RenderCameraPath(
        load_config=run / "config.yml",
        camera_path_filename=path,
        output_path=output,
        output_format="images",
        image_format="png",
    ).main()
    return [file.read_bytes() for file in sorted(output.glob("*.png"))]


def test_a_photograph_becomes_a_scene_that_other_runs_render(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"image": work / "photo.jpg", "path": work / "path.json"}
    tokens = generated(work, tmp_path / "scene.safetensors", seed=7, **options)
    said = " ".join(capsys.readouterr().err.split())
    assert "field of view 58.0 degrees along the shorter side (assumed, because EXIF has none; give --fov" in said
    assert "64 x 48 pixels" in said and "the path moves up to 1 scene units from the photograph" in said
    assert re.search(r"PSNR of the photograph, rendered from its camera: \d+\.\d dB", said)
    assert (tokens.preset, tokens.scene, tokens.logvar) == ("tiny_scenegen", "photo", None)
    assert len(tokens.sources) == 1 and len(tokens.sources[0]) == 64
    torch.testing.assert_close(tokens.reference_c2w, home_pose(), atol=1e-5, rtol=0)

    again = generated(work, tmp_path / "again.safetensors", seed=7, **options)
    assert torch.equal(again.mean, tokens.mean)
    for number, change in enumerate(({"seed": 8}, {"steps": 5}, {"guidance": 3}, {"solver": "multistep"}, {"fov": 40})):
        other = generated(work, tmp_path / f"{number}.safetensors", **{"seed": 7, **options, **change})
        assert not torch.allclose(other.mean, tokens.mean, atol=1e-3), change

    # The run folder of the photograph renders the same as the token file.
    opened, stored = tmp_path / "opened", tmp_path / "stored"
    scenetok("new-run", work / "tiny_scenegen", output=opened, scene_seed=7, **options)
    scenetok("new-run", work / "tiny_scenegen", output=stored, tokens=tmp_path / "scene.safetensors")
    pictures = [render(run, work / "path.json", tmp_path / f"{run.name}-pictures") for run in (opened, stored)]
    assert len(pictures[0]) == 6 and pictures[0] == pictures[1]


def test_where_the_photograph_was_taken_and_the_units_of_the_path(work: Path, tmp_path: Path) -> None:
    away = trajectory("forward", 4)
    away[:, 2, 3] += 5
    write_camera_path(tmp_path / "path.json", away, fov=60.0, side=24)
    options = {"image": work / "photo.jpg", "path": tmp_path / "path.json"}
    first = generated(work, tmp_path / "first.safetensors", **options)
    torch.testing.assert_close(first.reference_c2w, away[0])
    origin = generated(work, tmp_path / "origin.safetensors", photo_at="origin", pose_scale=0.5, **options)
    torch.testing.assert_close(origin.reference_c2w, home_pose())
    assert (first.pose_scale, origin.pose_scale) == (1.0, 0.5)


def test_a_scene_of_the_data_set_is_generated_from_some_of_its_views(work: Path, tmp_path: Path) -> None:
    one = generated(work, tmp_path / "one.safetensors", scene="test1")
    two = generated(work, tmp_path / "two.safetensors", scene="test1", num_condition=2)
    assert one.scene == two.scene == "test1" and (len(one.sources), len(two.sources)) == (1, 2)
    assert one.sources[0] == two.sources[0] and not torch.allclose(one.mean, two.mean, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "none.jpg"}, "no image at .*none.jpg"),
        ({"image": "path.json"}, "path.json cannot be read as an image"),
        ({"image": "photo.jpg", "path": "photo.jpg"}, "is not a camera path of Nerfstudio .*: it is not UTF-8 text$"),
        ({"path": "path.json"}, "--path only works with --image"),
        ({"image": "photo.jpg", "path": "path.json", "trajectory": "turn"}, "leave one out"),
        ({"image": "photo.jpg", "scene": "test1"}, "--image already gives the scene: leave out --scene"),
        ({"image": "photo.jpg", "fov": 179}, "a field of view of 179 degrees"),
        ({"image": "photo.jpg", "pose_scale": -1}, "expected a pose scale above 0"),
        ({"image": "pixel.png"}, "pixel.png has 1 x 1 pixels, but this model sees 32 x 32"),
        ({"image": "photo.jpg", "path": "turning.json"}, "photo.jpg stays where the photograph was taken"),
        ({"image": "photo.jpg", "pose_scale": 1e-9}, "photo.jpg stays where the photograph was taken"),
        ({"scene": "test1", "num_condition": 3}, "--num-condition 3: preset tiny_scenegen takes 1 to 2"),
        ({"guidance": 0.5}, "--guidance must be at least 1"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"run": "tiny_preset", "image": "photo.jpg"}, "scenetok generate is for runs that generate scenes"),
        ({"run": "re10k", "image": "photo.jpg"}, "no trained weights of preset re10k come with this package"),
    ],
)
def test_wrong_generations_are_told_in_one_line(
    work: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    Image.new("RGB", (1, 1)).save(work / "pixel.png")
    write_camera_path(work / "turning.json", home_pose().repeat(4, 1, 1), fov=60.0, side=24)
    words = {k: work / v if k in ("image", "path") or v == "tiny_preset" else v for k, v in options.items()}
    words = {"run": work / "tiny_scenegen", **words}
    assert re.search(message, failure("generate", output=tmp_path / "new.safetensors", **words))
    assert not (tmp_path / "new.safetensors").exists()


def test_a_generator_in_the_package_needs_no_run(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small generator replaces the bundled one. Its weights are in a separate file beside the tokenizer's."""
    values = yaml.safe_load((config_folder() / "scenegen-tiny.yaml").read_text())
    values["scene_generator"].update(hidden_size=32, depth=1, num_heads=2)
    values["scene_sampler"]["steps"] = 2
    values["embedded_generator"] = "stand-in"
    preset = build(Preset, {"name": "scenegen-tiny", **values}, "stand-in")
    network = randomized(SceneGenerator.from_preset(preset))
    tokenizer = Compressor.from_preset(preset)
    load_weights({"compressor": tokenizer}, embedded_weights("scenetok-tiny"))
    header = {GENERATOR_OF: module_sha256(tokenizer)}
    save_weights({"scene_generator": network}, tmp_path / "stand-in.safetensors", header)
    files = {"stand-in": tmp_path / "stand-in.safetensors", "scenetok-tiny": embedded_weights("scenetok-tiny")}
    for module in (scenetok_model, run_folder, change_run, new_run):
        monkeypatch.setattr(module, "load_preset", lambda name: preset)
    for module in (scenetok_datamanager, scenetok_trainer):
        monkeypatch.setattr(module, "load_preset", lambda name: preset)
    monkeypatch.setattr(scenetok_module, "embedded_weights", lambda name: files[name])
    Image.new("RGB", (180, 150), (90, 120, 30)).save(tmp_path / "photo.png")
    scenetok("generate", image=tmp_path / "photo.png", seed=7, output=tmp_path / "scene.safetensors")
    assert "scenegen-tiny was trained on synthetic rooms only" in " ".join(capsys.readouterr().err.split())
    tokens = SceneTokens.load(tmp_path / "scene.safetensors")
    assert tokens.preset == "scenegen-tiny" and tokens.mean.shape == (256, 32)
    scenetok("new-run", "scenegen-tiny", image=tmp_path / "photo.png", scene_seed=7, output=tmp_path / "run")
    _, pipeline, _, _ = eval_setup(tmp_path / "run" / "config.yml", test_mode="inference")
    torch.testing.assert_close(pipeline.model.renderer.tokens_of(0).mean.cpu(), tokens.mean)
