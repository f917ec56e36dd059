"""scenetok import, open and encode: the folders and files they write are taken by Nerfstudio's own tools."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.scripts.render import RenderCameraPath
from nerfstudio.utils.eval_utils import eval_setup
from support.released_files import random_state, write_lightning

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.cli.main import entrypoint
from scenetok_ns.data.demo.writer import write_demo_data
from scenetok_ns.models.autoencoders.offload import OffloadedAutoencoder
from scenetok_ns.models.presets import config_folder, load_preset
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.tools.digests import sha256_of

CHECKPOINT = "nerfstudio_models/step-000000000.ckpt"
FILES = ("checkpoint", "data", "output", "run", "tokenizer", "tokens", "vavae")
SCENES = ("demo-0-test-000000", "demo-0-test-000001")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a small preset of one's own, a checkpoint for it, and the run imported from that."""
    folder = tmp_path_factory.mktemp("workplace")
    write_demo_data(folder / "data", "re10k", {"train": 1, "test": 2}, 16, 64, 0)
    values = yaml.safe_load((config_folder() / "scenetok-tiny.yaml").read_text())
    del values["embedded_weights"]
    values["compressor"].update(hidden_size=32, depth=1, num_heads=2, num_tokens=16, token_dim=8)
    values["denoiser"].update(hidden_size=32, depth=1, num_heads=2)
    values["data"]["views"]["num_context"] = 4
    (folder / "small.yaml").write_text(yaml.dump(values))
    state = {key: 0.1 * value for key, value in random_state(load_preset(str(folder / "small.yaml"))).items()}
    write_lightning(folder / "small.ckpt", state)
    scenetok("import", folder, checkpoint="small.ckpt", preset="small.yaml", data="data", output="run")
    return folder


def scenetok(command: str, folder: Path, *positional: str, **options: Any) -> None:
    """Run the command; values that name files of `folder` become their paths."""
    words = [command, *positional]
    for name, value in options.items():
        is_file = name in FILES or str(value).endswith(".yaml")
        words += [f"--{name.replace('_', '-')}", str(folder / value if is_file else value)]
    entrypoint(words)


def failure(command: str, folder: Path, *positional: str, **options: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        scenetok(command, folder, *positional, **options)
    return str(stop.value.code)


def render(run: Path, output: Path) -> list[bytes]:
    """Pictures of a short path by the stock ns-render."""
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


def test_an_imported_run_holds_the_released_tensors_and_stock_tools_load_them(workplace: Path) -> None:
    state = random_state(load_preset(str(workplace / "small.yaml")))
    config, pipeline, checkpoint, step = eval_setup(workplace / "run" / "config.yml", test_mode="inference")
    assert (checkpoint, step) == (workplace / "run" / CHECKPOINT, 0)
    assert config.data == workplace / "data"
    loaded = pipeline.model.scenetok.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key].cpu(), 0.1 * value) for key, value in state.items())
    assert sorted(path.name for path in (workplace / "run").iterdir()) == ["config.yml", "nerfstudio_models"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "re10k", "output": "new"}, "preset re10k needs the weights of vavae: --vavae .../vavae-imagenet"),
        ({"vavae": "small.ckpt", "output": "new"}, "preset small does not use vavae: leave out"),
        ({"output": "run"}, "run exists; choose another --output"),
        ({"data": "nowhere", "output": "new"}, "no data at "),
        ({"checkpoint": "nothing.ckpt", "output": "new"}, "nothing.ckpt: no such file"),
        ({"preset": "scenetok-tiny", "output": "new"}, "does not fit preset scenetok-tiny: "),
        ({"tokenizer": "small.ckpt", "output": "new"}, "preset small has no scene generator"),
    ],
)
def test_wrong_imports_are_told_in_one_line_and_leave_nothing(
    workplace: Path, options: dict[str, str], message: str
) -> None:
    before = sorted(workplace.iterdir())
    said = failure("import", workplace, **{"checkpoint": "small.ckpt", "preset": "small.yaml", **options})
    assert said.startswith("scenetok import: ") and message in said and "\n" not in said
    assert sorted(workplace.iterdir()) == before


def test_an_import_interrupted_while_writing_leaves_nothing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    before = sorted(workplace.iterdir())
    with pytest.raises(SystemExit, match="scenetok import: interrupted"):
        scenetok("import", workplace, checkpoint="small.ckpt", preset="small.yaml", output="new")
    assert sorted(workplace.iterdir()) == before


def test_the_file_of_another_autoencoder_is_refused_at_import(workplace: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((workplace / "small.yaml").read_text())
    values["context_autoencoder"] = {"name": "vavae"}
    values["compressor"]["camera"]["patch_size"] = 16
    (tmp_path / "photographs.yaml").write_text(yaml.dump(values))
    state = random_state(load_preset(str(tmp_path / "photographs.yaml")))
    write_lightning(tmp_path / "small.ckpt", state)
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "other.pt")
    before = sorted(tmp_path.iterdir())
    options = {"checkpoint": "small.ckpt", "preset": "photographs.yaml", "vavae": "other.pt", "output": "new"}
    said = failure("import", tmp_path, **options)
    assert "other.pt is not VA-VAE" in said and "\n" not in said
    assert sorted(tmp_path.iterdir()) == before


def test_autoencoder_weights_stay_outside_and_are_checked_when_the_run_is_loaded(
    workplace: Path, tmp_path: Path
) -> None:
    """The pixel autoencoder has no weights, so a file is put into the configuration by hand."""
    shutil.copytree(workplace / "run", tmp_path / "run", symlinks=True)
    weights = tmp_path / "vae.pt"
    weights.write_bytes(b"weights")
    config = read_run(workplace / "run")
    config.pipeline.model.context_weights = weights
    config.pipeline.model.context_weights_sha256 = sha256_of(weights)
    (tmp_path / "run" / "config.yml").write_text(yaml.dump(config))
    weights.write_bytes(b"Weights")
    with pytest.raises(ValueError, match=r"weights of the context autoencoder, .*vae\.pt, have changed"):
        eval_setup(tmp_path / "run" / "config.yml", test_mode="inference")
    weights.unlink()
    with pytest.raises(ValueError, match=r"weights of the context autoencoder are not at .*vae\.pt"):
        eval_setup(tmp_path / "run" / "config.yml", test_mode="inference")


def test_open_changes_what_is_asked_and_shares_the_checkpoint(workplace: Path) -> None:
    options = {"scene": SCENES[1], "num_context": 3, "seed": 7, "steps": 2, "guidance": 1.5}
    scenetok("open", workplace, str(workplace / "run"), "--low-vram", output="other", **options)
    assert os.path.samefile(workplace / "run" / CHECKPOINT, workplace / "other" / CHECKPOINT)
    _, pipeline, checkpoint, _ = eval_setup(workplace / "other" / "config.yml", test_mode="inference")
    assert checkpoint == workplace / "other" / CHECKPOINT
    manager, model = pipeline.datamanager, pipeline.model
    assert manager.scenes.scene(manager.scenes.active).scene.key == SCENES[1]
    assert len(manager.train_dataset) == 3
    assert (model.config.seed, model.sampler.steps, model.sampler.guidance) == (7, 2, 1.5)
    assert isinstance(model.scenetok.target_autoencoder, OffloadedAutoencoder)
    first = read_run(workplace / "run").pipeline
    assert (first.model.seed, first.model.steps, first.datamanager.num_context) == (0, None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scene": "attic"}, f"no evaluation scene 'attic' in .*; it has {SCENES[0]}"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"num_context": 0}, "--num-context must be at least 1, got 0"),
        ({"guidance": 0.5}, "--guidance must be at least 1"),
        ({"data": "nowhere"}, "no data at "),
        ({"data": "run"}, "/run is no data set: expected transforms.json"),
        ({"tokens": "nothing.safetensors"}, "nothing.safetensors does not exist"),
        ({"tokens": "small.ckpt", "scene": SCENES[0]}, "--tokens shows that file alone"),
    ],
)
def test_wrong_openings_are_told_in_one_line(workplace: Path, options: dict[str, Any], message: str) -> None:
    before = sorted(workplace.iterdir())
    said = failure("open", workplace, str(workplace / "run"), output="new", **options)
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
    write_demo_data(tmp_path / "other", "re10k", {"test": 1}, 16, 64, seed=5)
    found = {}
    for name in ("same", "other"):
        scenetok("open", tmp_path, str(tmp_path / "old"), data=name, output=f"run-{name}")
        dataparser = read_run(tmp_path / f"run-{name}").pipeline.datamanager.dataparser
        found[name] = (dataparser.scene, dataparser.eval_index)
    assert found == {"same": (SCENES[1], index), "other": (None, None)}
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_open_refuses_what_is_no_run_of_ours(workplace: Path) -> None:
    assert "is not a run folder" in failure("open", workplace, str(workplace / "data"), output="new")


def test_a_run_without_anything_to_show_is_not_made(tmp_path: Path) -> None:
    said = failure("open", tmp_path, "scenetok-tiny", output="new")
    assert "there is no data at data/re10k to show: give --data, --tokens" in said
    assert not (tmp_path / "new").exists()


def test_a_scene_is_rendered_from_its_token_file_without_its_photographs(workplace: Path, tmp_path: Path) -> None:
    scenetok("encode", workplace, run="run", output="scene.safetensors", scene=SCENES[1])
    tokens = SceneTokens.load(workplace / "scene.safetensors")
    assert (tokens.scene, tokens.preset) == (SCENES[1], "small")
    assert tokens.mean.shape == (16, 8) and tokens.logvar is not None
    assert len(set(tokens.sources)) == 4 and all(len(source) == 64 for source in tokens.sources)

    scenetok("open", workplace, str(workplace / "run"), output="seen", scene=SCENES[1], steps=2)
    scenetok("open", workplace, str(workplace / "run"), output="stored", tokens="scene.safetensors", steps=2)
    expected = render(workplace / "seen", tmp_path / "seen")
    hidden = (workplace / "data").rename(workplace / "hidden")
    try:
        pictures = render(workplace / "stored", tmp_path / "stored")
    finally:
        hidden.rename(workplace / "data")
    assert len(pictures) == 3 and pictures == expected


def test_a_run_of_a_token_file_has_nothing_else_to_show_or_to_compare_with(workplace: Path, tmp_path: Path) -> None:
    scenetok("encode", workplace, run="run", output=tmp_path / "scene.safetensors")
    scenetok(
        "open", workplace, str(workplace / "run"), tokens=tmp_path / "scene.safetensors", output=tmp_path / "shown"
    )
    said = failure("open", workplace, str(tmp_path / "shown"), data="data", output=tmp_path / "other")
    assert "give --data with the run that it was opened from" in said
    _, pipeline, *_ = eval_setup(tmp_path / "shown" / "config.yml", test_mode="test")
    with pytest.raises(ValueError, match=r"scene\.safetensors holds tokens alone"):
        pipeline.get_average_eval_image_metrics()


def test_encode_refuses_other_endings_and_other_shapes_do_not_open(workplace: Path) -> None:
    assert "token files end in .safetensors" in failure("encode", workplace, run="run", output="scene.pt")
    SceneTokens(torch.zeros(4, 8), torch.eye(4), preset="another").save(workplace / "other.safetensors")
    said = failure("open", workplace, str(workplace / "run"), output="new", tokens="other.safetensors")
    assert "4 tokens of 8 numbers, made by preset another, but this run's model takes 16 of 8" in said


def test_paths_are_printed_as_they_are(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What looks like markup or emoji of the terminal library is a part of the name."""
    output = tmp_path / "[old] a[" / "b]" / ":smile:.safetensors"
    scenetok("encode", workplace, run="run", output=output, scene=SCENES[0])
    said = capsys.readouterr().err
    folder = output.with_suffix("")
    assert f"{output}: 16 tokens" in said and f"{folder} is ready:" in said
    command = next(line for line in said.splitlines() if line.startswith("  ns-viewer "))
    assert shlex.split(command) == ["ns-viewer", "--load-config", str(folder / "config.yml")]
