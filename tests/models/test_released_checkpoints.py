"""Released checkpoints: tensors that are used, keys that are left out with a reason, and files that are refused."""

from __future__ import annotations

import collections
import datetime
import functools
import os
import pathlib
import typing
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.released_files import SURPLUS_KEYS, foreign_classes, random_state, small_preset, write_lightning

from scenetok_ns.models import released_checkpoints
from scenetok_ns.models.lightning_files import check_crc, read_lightning, record_names
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.released_checkpoints import (
    CheckpointError,
    check_content,
    check_tensors,
    check_weights,
    drop_reason,
    expected_tensors,
    guess_preset,
    released_state,
)
from scenetok_ns.tools.digests import sha256_of

SQUARE = "denoiser.model.blocks.0.attn.proj.weight"
OBLONG = "compressor.aggregate.0.mlp2.w3.weight"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    return write_lightning(tmp_path / "released.ckpt", random_state(small_preset()))


def rewritten(path: Path, change: typing.Callable[[dict], None]) -> Path:
    state = random_state(small_preset())
    change(state)
    return write_lightning(path.with_name("changed.ckpt"), state)


def test_every_tensor_is_taken_unchanged_in_the_networks_order(released: Path) -> None:
    taken = released_state(small_preset(), released)
    assert list(taken.tensors) == list(expected_tensors(small_preset())) and taken.dropped == {}
    for key, value in random_state(small_preset()).items():
        assert torch.equal(taken.tensors[key], value)


def test_dropped_keys_are_reported_with_their_reason(released: Path) -> None:
    surplus = {
        "denoiser.null_tokens": "null token",
        "denoiser.model.feat_rope.freqs": "rotary table",
        "compressor.aggregate.1.mlp1.w12.weight": "last block",
        "compressor.aggregate.1.norm3.weight": "last block",
        "autoencoder.target.encoder.conv.weight": "its own published file",
        "metric.lpips.net.weight": "evaluation metrics",
    }
    path = rewritten(released, lambda state: state.update({key: torch.zeros(2) for key in surplus}))
    taken = released_state(small_preset(), path)
    assert taken.dropped.keys() == surplus.keys()
    for key, words in surplus.items():
        assert words in taken.dropped[key]


def test_a_key_of_the_rules_that_the_preset_has_is_taken(tmp_path: Path) -> None:
    preset = small_preset()
    preset = replace(preset, denoiser=replace(preset.denoiser, null_token=True))
    path = write_lightning(tmp_path / "x.ckpt", random_state(preset))
    taken = released_state(preset, path)
    assert "denoiser.null_tokens" in taken.tensors and taken.dropped == {}


def test_only_the_last_block_s_unused_half_is_dropped() -> None:
    tiny = load_preset("scenetok-tiny")
    assert drop_reason("compressor.aggregate.0.norm3.weight", tiny) is None
    assert drop_reason(f"compressor.aggregate.{tiny.compressor.depth - 1}.norm3.weight", tiny) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({"denoiser.cnd_proj.wt": s.pop("denoiser.cnd_proj.weight")}),
            r"1 missing: denoiser\.cnd_proj\.weight; 1 unknown: denoiser\.cnd_proj\.wt$",
        ),
        (lambda s: s.pop(SQUARE), r"1 missing: denoiser\.model\.blocks\.0\.attn\.proj\.weight$"),
        (  # a third block, so the file belongs to a larger network
            lambda s: s.update({SQUARE.replace("blocks.0", "blocks.2"): s[SQUARE]}),
            r"1 surplus: denoiser\.model\.blocks\.2\.attn\.proj\.weight$",
        ),
        (
            lambda s: s.update({OBLONG: s[OBLONG].T.contiguous()}),
            r"1 of another shape: compressor\.aggregate\.0\.mlp2\.w3\.weight \[64, 32\] instead of \[32, 64\]$",
        ),
        (lambda s: s.update({SQUARE: s[SQUARE].T}), r"transposed\?\): denoiser\.model\.blocks\.0\.attn\.proj\.weight$"),
        (lambda s: s.update({SQUARE: s[SQUARE].long()}), "of another kind of number"),
        (lambda s: [s.pop(key) for key in list(s) if "mlp" in key], r"missing: .* and \d+ more$"),
        (lambda s: s.update({SQUARE: "text"}), "entries that are not tensors: denoiser"),
    ],
)
def test_wrong_tensors_are_listed_and_refused(released: Path, change: typing.Callable, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        released_state(small_preset(), rewritten(released, change))


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99, 0.9999])
def test_truncated_files_are_refused(released: Path, part: float) -> None:
    whole = released.read_bytes()
    released.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(CheckpointError, match=r"released\.ckpt: (truncated, it ends after \d+ bytes|not a PyTorch)"):
        read_lightning(released)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.ckpt: no such file"):
        read_lightning(tmp_path / "nothing.ckpt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"entry 'state_dict', found \['weights'\]"):
        read_lightning(tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match="found list"):
        read_lightning(tmp_path / "list.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="no zip file"):
        read_lightning(tmp_path / "old.ckpt")
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html><html>Not found</html>")
    with pytest.raises(CheckpointError, match=r"page.ckpt is a web page or a message, not a checkpoint: download it"):
        read_lightning(tmp_path / "page.ckpt")
    save_file({"weights": torch.zeros(1)}, tmp_path / "networks.ckpt")
    with pytest.raises(CheckpointError, match=r"networks.ckpt is a safetensors file, not a released checkpoint"):
        read_lightning(tmp_path / "networks.ckpt")


class Runs:
    """An object whose unpickling calls a function."""

    def __init__(self, function: typing.Callable, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize(
    ("function", "name"), [(os.system, "posix.system"), (eval, "builtins.eval"), (os.mkdir, "posix.mkdir")]
)
def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path: Path, function: typing.Callable, name: str) -> None:
    trace = tmp_path / "trace"
    argument = {os.system: f"touch {trace}", eval: f"open({str(trace)!r}, 'w')", os.mkdir: str(trace)}[function]
    for where in ("hyper_parameters", "state_dict"):
        path = write_lightning(tmp_path / "bad.ckpt", {"a": torch.zeros(1)}, **{where: {"x": Runs(function, argument)}})
        with pytest.raises(CheckpointError, match=rf"bad\.ckpt: refused, its pickle names {name},"):
            read_lightning(path)
    assert not trace.exists()


def test_code_that_reaches_its_function_through_a_listed_name_is_refused(tmp_path: Path) -> None:
    """Inert classes replace all names in the file, so nothing in their packages can be called."""
    with foreign_classes("omegaconf.base.Metadata") as (metadata,):
        path = write_lightning(tmp_path / "x.ckpt", {"a": torch.zeros(1)}, extra=Runs(metadata, "arguments", 3))
        metadata.__init__ = lambda self, *args: pytest.fail("a foreign class was called")
        read_lightning(path)


def test_records_of_a_lightning_checkpoint_are_read_over(tmp_path: Path) -> None:
    names = ("omegaconf.dictconfig.DictConfig", "lightning.fabric.utilities.data.AttributeDict")
    with foreign_classes(*names) as (dict_config, attribute_dict):
        config = dict_config()
        config.__dict__.update(_content={"lr": 1e-5}, ref_type=typing.Any, object_type=dict)
        config.__dict__.update(cache=collections.defaultdict(dict, {1: {}}))
        parameters = attribute_dict(model=config)
        path = write_lightning(
            tmp_path / "x.ckpt",
            {"a": torch.ones(2)},
            hyper_parameters=parameters,
            paths={"dir": pathlib.Path("checkpoints"), "best": np.float64(0.25)},
        )
    assert torch.equal(read_lightning(path)["a"], torch.ones(2))


def test_numpy_scalars_are_read_over_where_the_process_allows_them_too(tmp_path: Path) -> None:
    scalar = np.float64(0.5).__reduce__()[0]
    path = write_lightning(tmp_path / "x.ckpt", {"a": torch.ones(2)}, best=np.float64(0.25), other=np.int64(3))
    types = [type(np.dtype(name)) for name in ("float64", "int64")]
    already = torch.serialization.get_safe_globals()  # leaving the context would remove these from the process, too
    with torch.serialization.safe_globals([x for x in (scalar, np.dtype, *types) if x not in already]):
        assert torch.equal(read_lightning(path)["a"], torch.ones(2))


def test_missing_and_changed_autoencoder_weights_are_named(tmp_path: Path) -> None:
    file = tmp_path / "vae.pt"
    file.write_bytes(b"weights")
    digest = sha256_of(file)
    check_weights(file, digest, "context")
    check_weights(file, None, "context")
    check_weights(None, None, "context")
    file.write_bytes(b"Weights")
    with pytest.raises(CheckpointError, match=rf"context autoencoder, .*vae\.pt, have changed: .*{digest}"):
        check_weights(file, digest, "context")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"target autoencoder are not at .*vae\.pt"):
        check_weights(file, digest, "target")


SURPLUS = SURPLUS_KEYS | {"something.new": "no part of the preset's networks"}


def test_surplus_keys_are_left_out_with_a_reason(released: Path) -> None:
    path = rewritten(released, lambda state: state.update({key: torch.zeros(2) for key in SURPLUS}))
    taken = released_state(small_preset(), path)
    assert list(taken.tensors) == list(expected_tensors(small_preset())) and taken.dropped.keys() == SURPLUS.keys()
    for key, words in SURPLUS.items():
        assert words in taken.dropped[key]


def test_unknown_records_are_replaced_by_inert_ones(tmp_path: Path) -> None:
    """Objects, dicts, lists, arrays, functions and enums of installed and missing packages do not stop the reader."""
    names = ("src.model.config.ModelCfg", "another.AttributeDict", "somewhere.else_.Thing")
    with foreign_classes(*names) as (config, attributes, thing):
        thing.__reduce__ = lambda self: (config, ("argument", 3), {"state": 1})
        made = config()
        made.__dict__.update(lr=1e-5, inner=thing(), values=attributes(a=1, b=thing()))
        path = write_lightning(
            tmp_path / "x.ckpt",
            {"a": torch.ones(2)},
            hyper_parameters={
                "config": made,
                "maker": functools.partial(datetime.timedelta, 1),
                "more": attributes(c=[thing()]),
            },
            times=[datetime.timedelta(3), datetime.datetime(2026, 3, 9)],
            arrays=[np.arange(5), np.array([1.5, 2.5])],
            queue=collections.deque([1, 2], 3),
            names={"a", "b"},
        )
    assert torch.equal(read_lightning(path)["a"], torch.ones(2))
    found = record_names(path)
    assert {"src.model.config.ModelCfg", "functools.partial", "datetime.timedelta", "another.AttributeDict"} <= set(
        found
    )


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_flipped_byte_is_noticed(released: Path, place: float) -> None:
    content = bytearray(released.read_bytes())
    check_crc(released)
    with zipfile.ZipFile(released) as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[entry.header_offset + 200 + int(place * (entry.file_size - 300))] ^= 1
    released.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"damaged, {entry.filename} has a wrong checksum; download it again"):
        check_content([released], {}, lambda count: None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_noticed(released: Path, value: float) -> None:
    counts: list[int] = []
    tensors = {"a": torch.randn(1000), "b.weight": torch.randn(30, 30), "n": torch.arange(3), "e": torch.empty(0)}
    check_content([released], tensors, counts.append)
    with zipfile.ZipFile(released) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
    assert sum(counts) == total + 4000 + 3600 + 24
    tensors["b.weight"][3, 4] = value
    with pytest.raises(CheckpointError, match=r"b\.weight holds numbers that are not finite"):
        check_content([], tensors, counts.append)


def test_the_preset_is_found_from_keys_and_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_preset()
    larger = replace(small.denoiser, depth=3)
    presets = {
        "one": replace(small, name="one", embedded_weights=None, checkpoint="one.ckpt"),
        "another": replace(small, name="another", embedded_weights=None, training=replace(small.training, gamma=0.1)),
        "larger": replace(small, name="larger", embedded_weights=None, denoiser=larger, checkpoint="large.ckpt"),
        "generator": replace(small_preset(generator=True), name="generator", embedded_weights=None),
    }
    monkeypatch.setattr(released_checkpoints, "preset_names", lambda: list(presets))
    monkeypatch.setattr(released_checkpoints, "load_preset", presets.__getitem__)
    files = {name: write_lightning(tmp_path / f"{name}.x", random_state(preset)) for name, preset in presets.items()}
    assert guess_preset(files["another"]) == ("one", ["one", "another"])
    assert guess_preset(files["larger"]) == ("larger", ["larger"])
    generator = {k: v for k, v in random_state(presets["generator"]).items() if k.startswith("scene_generator.")}
    assert guess_preset(write_lightning(tmp_path / "g.x", generator)) == ("generator", ["generator"])
    presets["another"] = replace(presets["another"], sampler=replace(small.sampler, steps=99))
    with pytest.raises(
        CheckpointError, match=r"fits several presets: choose one \(Python: preset=, commands: --preset\): one, another"
    ):
        guess_preset(files["one"])
    with pytest.raises(CheckpointError, match=r"fits no preset: it holds 1 tensors, a; name one"):
        guess_preset(write_lightning(tmp_path / "z.x", {"a": torch.zeros(1)}))


def test_reading_leaves_the_process_s_safe_globals_alone(released: Path) -> None:
    before = set(map(str, torch.serialization.get_safe_globals()))
    read_lightning(released)
    assert set(map(str, torch.serialization.get_safe_globals())) == before


def test_tokenizer_and_generator_from_two_files(tmp_path: Path) -> None:
    preset = small_preset(generator=True)
    state = random_state(preset)
    tokenizer = {key: value for key, value in state.items() if not key.startswith("scene_generator.")}
    generator = {key: value for key, value in state.items() if key.startswith("scene_generator.")}
    first = write_lightning(tmp_path / "generator.ckpt", generator)
    second = write_lightning(tmp_path / "tokenizer.ckpt", tokenizer)
    both = write_lightning(tmp_path / "both.ckpt", state)

    for taken in (released_state(preset, first, second), released_state(preset, both)):
        assert taken.dropped == {} and all(torch.equal(taken.tensors[key], state[key]) for key in state)
    with pytest.raises(CheckpointError, match=r"holds the scene generator alone.*\(tokenizer\.ckpt\)"):
        released_state(preset, first)
    with pytest.raises(CheckpointError, match="a tokenizer file must not hold generator keys: scene_generator"):
        released_state(preset, first, both)
    with pytest.raises(CheckpointError, match="has no scene generator: leave out"):
        released_state(small_preset(), second, second)

    other = random_state(preset, seed=1)
    taken = released_state(preset, write_lightning(tmp_path / "third.ckpt", other), second)
    assert torch.equal(taken.tensors[SQUARE], state[SQUARE])
    assert taken.dropped[SQUARE] == "taken from tokenizer.ckpt"


def test_check_tensors_accepts_what_fits() -> None:
    expected = expected_tensors(small_preset())
    check_tensors(expected, random_state(small_preset()), "a file")


def test_sha256_counts_every_byte(tmp_path: Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    counts: list[int] = []
    assert sha256_of(file, counts.append) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert counts == [3]
