"""`scenetok latents` encodes demo scenes, continues, verifies files, and reports bad input in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scenetok_ns.cli.main import entrypoint
from scenetok_ns.data.precomputed.latents import LatentStore
from scenetok_ns.data.sources.re10k import RE10KSource
from scenetok_ns.models.autoencoders.registry import build_autoencoder
from scenetok_ns.models.presets import load_preset

PRESET = Path(__file__).parents[1] / "support" / "tiny_preset.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    entrypoint(
        [
            "demo-data",
            "--output",
            str(folder),
            "--train-scenes",
            "2",
            "--test-scenes",
            "1",
            "--frames",
            "5",
            "--size",
            "32",
        ]
    )
    return folder


def run(*options: object) -> None:
    entrypoint(["latents", "--preset", str(PRESET), "--min-frames", "4", *map(str, options)])


def test_from_photographs_to_a_verified_set(data, tmp_path, capsys):
    out = tmp_path / "latents"
    run("--data", data, "--output", out, "--role", "target", "--flip", "--shard", "0/2")
    run("--data", data, "--output", out, "--role", "target", "--flip", "--shard", "1/2")
    run("--data", data, "--output", out, "--role", "target", "--flip")
    assert "0 files written" in capsys.readouterr().out
    assert len(list(out.glob("train/1/*_flipped.npz"))) == 2 and not list(out.glob("test/1/*_flipped.npz"))
    assert len(json.loads((out / "map_dict.json").read_text())["test"]["1"]) == 1
    run("--output", out, "--data", data, "--verify")
    assert "the files of 3 scenes are complete" in " ".join(capsys.readouterr().out.split())
    source = RE10KSource(data / "train")
    autoencoder = build_autoencoder(load_preset(str(PRESET)).target_autoencoder)
    store = LatentStore(out, autoencoder.space, autoencoder="pixel")
    assert store.coverage(source.keys).missing == ()
    key = source.keys[0]
    decoded = autoencoder.decode_raw(store.views(key, torch.arange(4)).latents.float()[None])[0]
    assert torch.allclose(decoded, source.scene(key).load_views(range(4), (32, 32)).images / 255, atol=1e-3)


def test_verify_names_what_is_wrong(data, tmp_path, capsys):
    out = tmp_path / "latents"
    run("--data", data / "train", "--splits", "train", "--output", out)
    bad = sorted(out.glob("train/1/*.npz"))[0]
    bad.write_bytes(bad.read_bytes()[:-100])
    with pytest.raises(SystemExit, match=r"^scenetok latents: .*1 files are unusable; delete bad files and run again"):
        run("--output", out, "--verify")
    assert bad.name in capsys.readouterr().out
    bad.unlink()
    with pytest.raises(SystemExit, match="the map file does not list the existing files"):
        run("--output", out, "--verify", "--data", data)
    assert f"train: 1 scenes have no latents: {bad.stem}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "{out}"], "--data is required"),
        (["--output", "{out}", "--data", "{data}", "--shard", "2/2"], "shard 2/2"),
        (["--output", "{out}", "--data", "{data}/train"], r"no folder .*train/train; if .* --splits train"),
        (["--output", "{out}", "--data", "{data}", "--factors", "0"], "factors"),
        (["--output", "{out}", "--data", "{data}", "--preset", "re10k"], r"needs its weights: give the path of vavae"),
        (["--output", "{out}", "--data", "{data}", "--weights", "{out}/none.pt"], r"none\.pt"),
        (["--output", "{out}", "--verify"], "holds no latents"),
        (["--output", "{out}", "--data", "{data}", "--min-frames", "99"], "nothing was written to .*3 scenes skipped"),
    ],
)
def test_bad_input_is_one_line(options, message, data, tmp_path):
    with pytest.raises(SystemExit, match=message) as stop:
        run(*(option.format(out=tmp_path / "x", data=data) for option in options))
    assert "\n" not in str(stop.value)
    assert not list(tmp_path.rglob("*.npz"))
