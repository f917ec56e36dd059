"""`scenetok import` writes a run folder with all released tensors, or no run folder at all."""

from __future__ import annotations

import datetime
import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.utils.eval_utils import eval_setup
from support.command_line import failure, failure_in, scenetok, scenetok_in
from support.released_files import SURPLUS_KEYS, foreign_classes, random_state, write_lightning

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.cli.import_checkpoint import chosen_preset
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.weight_files import CheckpointError
from scenetok_ns.tools.digests import sha256_of

CHECKPOINT = "nerfstudio_models/step-000000000.ckpt"
SCENES = ("demo-0-test-000000", "demo-0-test-000001")


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
        ({"preset": "re10k", "output": "new"}, "small.ckpt does not fit preset re10k: "),
        ({"vavae": "small.ckpt", "output": "new"}, "preset small does not use vavae: leave out"),
        ({"output": "run"}, "run exists; choose another --output"),
        ({"data": "nowhere", "output": "new"}, "no data at "),
        ({"checkpoint": "nothing.ckpt", "output": "new"}, "preset small needs files that were not found"),
        ({"preset": "scenetok-tiny", "output": "new"}, "does not fit preset scenetok-tiny: "),
        ({"tokenizer": "small.ckpt", "output": "new"}, "preset small has no scene generator"),
    ],
)
def test_wrong_imports_are_told_in_one_line_and_leave_nothing(
    workplace: Path, options: dict[str, str], message: str
) -> None:
    before = sorted(workplace.iterdir())
    said = failure_in(workplace, "import", **{"checkpoint": "small.ckpt", "preset": "small.yaml", **options})
    assert said.startswith("scenetok import: ") and message in said and "\n" not in said
    assert sorted(workplace.iterdir()) == before


def test_an_import_interrupted_while_writing_leaves_nothing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    before = sorted(workplace.iterdir())
    with pytest.raises(SystemExit, match="scenetok import: interrupted"):
        scenetok_in(workplace, "import", checkpoint="small.ckpt", preset="small.yaml", output="new")
    assert sorted(workplace.iterdir()) == before


DIES = """
import os, signal, sys
os.fsync = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
from scenetok_ns.cli.main import entrypoint
entrypoint(sys.argv[1:])
"""


def test_what_a_killed_import_left_is_removed_by_the_next(workplace: Path, tmp_path: Path) -> None:
    for name in ("small.ckpt", "small.yaml"):
        shutil.copy(workplace / name, tmp_path / name)
    files = {"--preset": "small.yaml", "--checkpoint": "small.ckpt", "--output": "new"}
    words = [word for option, name in files.items() for word in (option, str(tmp_path / name))]
    done = subprocess.run([sys.executable, "-c", DIES, "import", *words], capture_output=True)
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert done.returncode == -signal.SIGKILL and len(left) == 1 and left[0].startswith(".new.")
    scenetok_in(tmp_path, "import", checkpoint="small.ckpt", preset="small.yaml", output="new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "small.ckpt", "small.yaml"]


def test_surplus_keys_and_records_are_listed_and_damage_is_refused(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copy(workplace / "small.yaml", tmp_path / "small.yaml")
    state = random_state(load_preset(str(tmp_path / "small.yaml")))
    surplus = {key: torch.zeros(1) for key in SURPLUS_KEYS}
    with foreign_classes("src.model.config.ModelCfg") as (config,):
        records = {"config": config(), "make": functools.partial(datetime.timedelta, 1), "numbers": np.arange(3)}
        write_lightning(tmp_path / "more.ckpt", state | surplus, hyper_parameters=records)
    options = {"preset": "small.yaml", "output": "new"}
    scenetok_in(tmp_path, "import", checkpoint="more.ckpt", **options)
    said = capsys.readouterr().err.splitlines()
    for key, reason in SURPLUS_KEYS.items():
        assert [line for line in said if line.startswith("left out ") and key in line and f": {reason}" in line], key
    (line,) = [line for line in said if line.startswith("left out records of more.ckpt of the kinds ")]
    # Names of numpy are not listed if something in this process already allows them.
    is_allowed = any("numpy" in str(name) for name in torch.serialization.get_safe_globals())
    others = () if is_allowed else ("numpy",)
    for name in ("src.model.config.ModelCfg", "functools.partial", "datetime.timedelta", *others):
        assert name in line
    saved = torch.load(tmp_path / "new" / CHECKPOINT, weights_only=True)["pipeline"]
    assert {key.removeprefix("_model.scenetok.") for key in saved} >= set(state) and not set(surplus) & set(
        key.removeprefix("_model.scenetok.") for key in saved
    )
    shutil.rmtree(tmp_path / "new")

    first, *_ = state
    for name, wrong in {"missing": {}, "of another shape": {first: torch.zeros(3, 5)}}.items():
        others = {key: value for key, value in state.items() if key != first}
        write_lightning(tmp_path / "wrong.ckpt", others | wrong | surplus)
        assert f"1 {name}: {first}" in failure_in(tmp_path, "import", checkpoint="wrong.ckpt", **options)

    content = bytearray((tmp_path / "more.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.ckpt").write_bytes(content)
    assert "has a wrong checksum" in failure_in(tmp_path, "import", checkpoint="flipped.ckpt", **options)
    state["denoiser.cnd_proj.weight"][0, 0] = float("nan")
    write_lightning(tmp_path / "nan.ckpt", state)
    said = failure_in(tmp_path, "import", checkpoint="nan.ckpt", **options)
    assert "denoiser.cnd_proj.weight holds numbers that are not finite" in said
    assert not (tmp_path / "new").exists()


def test_files_are_found_by_name(workplace: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((workplace / "small.yaml").read_text())
    (tmp_path / "small.yaml").write_text(yaml.dump({**values, "checkpoint": "va-videodc_re10k.ckpt"}))
    (tmp_path / "weights").mkdir()
    options = {"preset": str(tmp_path / "small.yaml"), "output": str(tmp_path / "run"), "from": tmp_path / "weights"}
    assert f"not found in {tmp_path / 'weights'}: va-videodc_re10k.ckpt (--checkpoint); give" in failure(
        "import", **options
    )
    said = failure("import", **{**options, "preset": "re10k", "vavae": "none.pt"})
    assert said.endswith(
        "va-videodc_re10k.ckpt (--checkpoint), none.pt (--vavae), F32T4C128_AE.safetensors (--video-dcae); give them "
        "with these options, or get them with scenetok download re10k"
    )
    shutil.copy(workplace / "small.ckpt", tmp_path / "weights" / "va-videodc_re10k.ckpt")
    scenetok("import", **options)
    assert (tmp_path / "run" / CHECKPOINT).is_file()
    folder = options.pop("from")
    for number, source in enumerate((folder, folder / "va-videodc_re10k.ckpt")):  # without the name of an option
        scenetok("import", source, **{**options, "output": tmp_path / f"run-{number}"})
        assert (tmp_path / f"run-{number}" / CHECKPOINT).is_file()
    said = failure("import", folder, **{**options, "checkpoint": "x.ckpt", "output": tmp_path / "other"})
    assert f"give {folder} alone, without --checkpoint and --from" in said
    options["from"] = tmp_path / "nowhere"
    assert "--from: there is no folder" in failure("import", **{**options, "output": str(tmp_path / "other")})


def test_the_preset_follows_from_the_files_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to import: give --preset, --checkpoint, or --from"):
        chosen_preset(None, None, None)
    with pytest.raises(CheckpointError, match=r"has no released checkpoint; their names are va-videodc_dl3dv\.ckpt"):
        chosen_preset(None, None, tmp_path)
    (tmp_path / "va-videodc_re10k_scene.ckpt").touch()
    assert chosen_preset(None, None, tmp_path) == "re10k-scene"
    (tmp_path / "scenegen_shift4_re10k.ckpt").touch()
    assert chosen_preset(None, None, tmp_path) == "scenegen-shift4"
    (tmp_path / "va-wan_dl3dv.ckpt").touch()
    with pytest.raises(CheckpointError, match="choose one with --preset: dl3dv-wan-shift4, scenegen-shift4"):
        chosen_preset(None, None, tmp_path)
    assert chosen_preset("re10k", None, tmp_path) == "re10k"
    assert chosen_preset(None, tmp_path / "va-videodc_re10k.ckpt", None) == "re10k"


def test_the_file_of_another_autoencoder_is_refused_at_import(workplace: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((workplace / "small.yaml").read_text())
    values["context_autoencoder"] = {"name": "vavae"}
    values["compressor"]["camera"]["patch_size"] = 8
    (tmp_path / "photographs.yaml").write_text(yaml.dump(values))
    state = random_state(load_preset(str(tmp_path / "photographs.yaml")))
    write_lightning(tmp_path / "small.ckpt", state)
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "other.pt")
    before = sorted(tmp_path.iterdir())
    options = {"checkpoint": "small.ckpt", "preset": "photographs.yaml", "output": "new"}
    assert "not found in " in (said := failure_in(tmp_path, "import", **options)) and "dinov2.pt (--vavae)" in said
    options["vavae"] = "other.pt"
    said = failure_in(tmp_path, "import", **options)
    assert "other.pt is not VA-VAE" in said and "\n" not in said
    assert sorted(tmp_path.iterdir()) == before


def test_autoencoder_weights_stay_outside_and_are_checked_when_the_run_is_loaded(
    workplace: Path, tmp_path: Path
) -> None:
    """The pixel autoencoder has no weight file, so the test puts one into the configuration by hand."""
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
