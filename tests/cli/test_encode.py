"""`scenetok encode`: token files of a scene, which render without photographs, and of a whole split."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nerfstudio.scripts.render import RenderCameraPath
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image
from safetensors.torch import load_file
from support.command_line import failure, failure_in, scenetok, scenetok_in

from scenetok_ns.cli.encode import _gain, encode
from scenetok_ns.data.demo.writer import write_demo_data
from scenetok_ns.data.precomputed.token_sets import TokenStore
from scenetok_ns.data.scenes import Views
from scenetok_ns.models.released_checkpoints import module_sha256
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.models.weight_files import embedded_weights, from_eight_bits

CHECKPOINT = "nerfstudio_models/step-000000000.ckpt"
SCENES = ("demo-0-test-000000", "demo-0-test-000001")


def render(run: Path, output: Path) -> list[bytes]:
    """Render a short path with the stock ns-render. Returns the pictures' bytes."""
    poses = [{"camera_to_world": [1, 0, 0, 0.1 * i, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]} for i in range(3)]
    path = {
        "camera_type": "perspective",
        "render_height": 24,
        "render_width": 32,
        "seconds": 1,
        "camera_path": [{**pose, "fov": 60, "aspect": 4 / 3} for pose in poses],
    }
    output.mkdir()
    (output / "path.json").write_text(json.dumps(path))
    RenderCameraPath(
        load_config=run / "config.yml",
        camera_path_filename=output / "path.json",
        output_path=output / "pictures",
        output_format="images",
        image_format="png",
    ).main()
    return [file.read_bytes() for file in sorted((output / "pictures").glob("*.png"))]


def photographs_of_a_walk(folder: Path) -> list[tuple[Path, list[list[float]]]]:
    """Write four photographs. Returns their files and their poses."""
    found = []
    for number in range(4):
        file = folder / f"{number}.png"
        Image.new("RGB", (128, 128), (60 * number, 100, 50)).save(file)
        found.append((file, [[1.0, 0, 0, float(number)], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]]))
    return found


def test_a_scene_is_rendered_from_its_token_file_without_its_photographs(workplace: Path, tmp_path: Path) -> None:
    scenetok_in(workplace, "encode", run="run", output="scene.safetensors", scene=SCENES[1])
    tokens = SceneTokens.load(workplace / "scene.safetensors")
    assert (tokens.scene, tokens.preset) == (SCENES[1], "small")
    assert tokens.mean.shape == (16, 8) and tokens.logvar is not None
    assert len(set(tokens.sources)) == 4 and all(len(source) == 64 for source in tokens.sources)

    scenetok_in(workplace, "new-run", str(workplace / "run"), output="seen", scene=SCENES[1], steps=2)
    scenetok_in(workplace, "new-run", str(workplace / "run"), output="stored", tokens="scene.safetensors", steps=2)
    expected = render(workplace / "seen", tmp_path / "seen")
    hidden = (workplace / "data").rename(workplace / "hidden")
    try:
        pictures = render(workplace / "stored", tmp_path / "stored")
    finally:
        hidden.rename(workplace / "data")
    assert len(pictures) == 3 and pictures == expected


def test_tokens_are_fitted_to_the_photographs_on_request(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for steps in (0, 3):
        output = tmp_path / f"{steps}.safetensors"
        scenetok_in(workplace, "encode", "--no-run-folder", run="run", output=output, fit_steps=steps)
        gain = r"PSNR of the 4 encoded photographs: \S+ -> \S+ dB; of \d+ other photographs?: \S+ -> \S+ dB"
        assert (re.search(gain, capsys.readouterr().err) is not None) == (steps > 0)
    plain, fitted = (SceneTokens.load(tmp_path / f"{steps}.safetensors") for steps in (0, 3))
    assert not torch.allclose(fitted.mean, plain.mean, atol=1e-3)
    assert fitted.logvar is None and fitted.sources == plain.sources and len(fitted.sources) == 4
    split = {"split": "test", "output": tmp_path / "split", "fit_steps": 3}
    assert "leave out --scene, --num-context, --fit-steps and" in failure_in(workplace, "encode", run="run", **split)


def test_no_note_advises_the_fitting_that_was_requested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shot = [{"file_path": file.name, "transform_matrix": pose} for file, pose in photographs_of_a_walk(tmp_path)]
    lens = {"fl_x": 128.0, "fl_y": 128.0, "cx": 64.0, "cy": 64.0, "w": 128, "h": 128}
    (tmp_path / "transforms.json").write_text(json.dumps({**lens, "frames": shot}))
    for steps in (0, 1):
        output = tmp_path / f"{steps}.safetensors"
        scenetok("encode", "--no-run-folder", data=tmp_path, output=output, fit_steps=steps)
        said = "".join(capsys.readouterr())
        assert "keeps only colours and rough shapes" in said
        assert ("fit its tokens to the photographs" in said) == (steps == 0)


def test_the_gain_of_fitting_is_that_of_the_renders() -> None:
    """Photographs that are white, and renders that are 0.1 and then 0.01 darker."""
    views = Views(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8), torch.eye(4).repeat(2, 1, 1), torch.ones(2, 3, 3))
    renderer = SimpleNamespace(render=lambda darker, cameras: torch.full((len(cameras.c2w[0]), 3, 4, 4), 1 - darker))
    assert _gain(renderer, 0.1, 0.01, views) == "20.0 -> 40.0 dB"  # type: ignore[arg-type]


def test_a_run_of_a_token_file_has_nothing_else_to_show_or_to_compare_with(workplace: Path, tmp_path: Path) -> None:
    scenetok_in(workplace, "encode", run="run", output=tmp_path / "scene.safetensors")
    scenetok_in(
        workplace, "new-run", str(workplace / "run"), tokens=tmp_path / "scene.safetensors", output=tmp_path / "shown"
    )
    said = failure_in(workplace, "new-run", str(tmp_path / "shown"), data="data", output=tmp_path / "other")
    assert "give the run that it was made from" in said
    _, pipeline, *_ = eval_setup(tmp_path / "shown" / "config.yml", test_mode="test")
    with pytest.raises(ValueError, match=r"scene\.safetensors holds only tokens"):
        pipeline.get_average_eval_image_metrics()


def test_encode_refuses_other_endings_and_other_shapes_do_not_open(workplace: Path) -> None:
    assert "token files end in .safetensors" in failure_in(workplace, "encode", run="run", output="scene.pt")
    SceneTokens(torch.zeros(4, 8), torch.eye(4), preset="another").save(workplace / "other.safetensors")
    said = failure_in(workplace, "new-run", str(workplace / "run"), output="new", tokens="other.safetensors")
    assert "other.safetensors was made by preset another, whose tokens cannot be used" in said
    SceneTokens(torch.zeros(17, 8), torch.eye(4), preset="another").save(workplace / "more.safetensors")
    said = failure_in(workplace, "new-run", str(workplace / "run"), output="new", tokens="more.safetensors")
    assert "17 tokens of 8 numbers, made by preset another, but this run's model takes up to 16 of 8" in said


def test_a_file_with_fewer_tokens_opens(workplace: Path, tmp_path: Path) -> None:
    scenetok_in(workplace, "encode", run="run", output=tmp_path / "all.safetensors")
    tokens = SceneTokens.load(tmp_path / "all.safetensors").subset(5)
    tokens.save(tmp_path / "some.safetensors")
    scenetok_in(
        workplace, "new-run", str(workplace / "run"), tokens=tmp_path / "some.safetensors", output=tmp_path / "few"
    )
    _, pipeline, *_ = eval_setup(tmp_path / "few" / "config.yml", test_mode="test")
    renderer = pipeline.model.renderer
    assert torch.equal(renderer.tokens_of(renderer.scenes.active).mean.cpu(), tokens.mean)


def test_paths_are_printed_as_they_are(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path with text that looks like rich's markup or emoji is printed unchanged, so that it can be copied."""
    output = tmp_path / "[old] a[" / "b]" / ":smile:.safetensors"
    scenetok_in(workplace, "encode", run="run", output=output, scene=SCENES[0])
    said = capsys.readouterr().err
    folder = output.with_suffix("")
    assert f"{output}: 16 tokens" in said and f"{folder} is ready:" in said
    command = next(line for line in said.splitlines() if line.startswith("  ns-viewer "))
    assert shlex.split(command) == ["ns-viewer", "--load-config", str(folder / "config.yml")]


def test_a_split_is_encoded_for_training(work: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the second call finds all files and writes none
        scenetok("encode", run=work / "tiny_preset", output=tmp_path / "tokens", split="train", encodings=3, seed=1)
    _, pipeline, _, _ = eval_setup(work / "tiny_preset" / "config.yml", test_mode="inference")
    store = TokenStore(tmp_path / "tokens", "train", module_sha256(pipeline.model.scenetok.compressor))
    assert store.encodings == 3 and len(store.present([f"train{i}" for i in range(4)])) == 4
    assert store.encoding("train2", 2).mean.shape == (8, 4)
    settings = json.loads((tmp_path / "tokens" / "tokens.json").read_text())
    assert (settings["dtype"], settings["seed"], settings["preset"]) == ("float16", 1, "tiny_preset")
    said = failure("encode", run=work / "tiny_preset", output=tmp_path / "tokens", split="train", encodings=2, seed=1)
    assert "was made with encodings 3 (now 2)" in said
    for unheard in ({"scene": "test0"}, {"num_context": 2}, {"run_folder": False}):
        with pytest.raises(ValueError, match="--split encodes all scenes as in training: leave out --scene"):
            encode(tmp_path / "x", work / "tiny_preset", split="train", **unheard)
    for unheard in ({"encodings": 8}, {"seed": 0}, {"shard": "0/1"}):
        said = failure("encode", run=work / "tiny_preset", output=tmp_path / "x.safetensors", **unheard)
        assert "--encodings, --seed and --shard only work with --split" in said


def test_encode_encodes_with_a_generator_too(work: Path, tmp_path: Path) -> None:
    """Encoding with a generator's run uses all context views, and does not generate a scene from one of them."""
    scenetok("encode", run=work / "tiny_scenegen", output=tmp_path / "scene.safetensors", scene="test0")
    tokens = SceneTokens.load(tmp_path / "scene.safetensors")
    assert tokens.logvar is not None and len(tokens.sources) == 3


def test_the_model_in_the_package_is_opened_by_its_name(work: Path, tmp_path: Path) -> None:
    write_demo_data(tmp_path / "rooms", "re10k", {"train": 1, "test": 1}, 16, 128, 0)
    scenetok("new-run", "scenetok-tiny", output=tmp_path / "run", data=tmp_path / "rooms")
    _, pipeline, _, _ = eval_setup(tmp_path / "run" / "config.yml", test_mode="inference")
    model = pipeline.model.scenetok
    expected = from_eight_bits(load_file(embedded_weights("scenetok-tiny")))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name].to(value.dtype))
    scenetok("encode", run="scenetok-tiny", output=tmp_path / "scene.safetensors", data=tmp_path / "rooms")
    assert SceneTokens.load(tmp_path / "scene.safetensors").preset == "scenetok-tiny"
