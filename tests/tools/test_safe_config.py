"""Reading config.yml never runs anything that the file names."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from pathlib import Path

import pytest
import yaml
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.utils.writer import EventName

from scenetok_ns.plugin.methods import METHODS
from scenetok_ns.plugin.pipeline import SceneTokPipelineConfig
from scenetok_ns.plugin.run_folder import run_config
from scenetok_ns.tools import safe_config
from scenetok_ns.tools.safe_config import CONFIGURATIONS, TARGETS, read_config

EARLIER = Path(__file__).parents[1] / "bridge" / "earlier_runs"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def refusal(folder: Path, text: str) -> str:
    path = written(folder / "config.yml", text)
    with pytest.raises(ValueError) as error:
        read_config(path)
    message = str(error.value)
    start = f"{path} cannot be read as the configuration of a scenetok run: "
    assert message.startswith(start) and "\n" not in message
    return message.removeprefix(start)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.config.method_name)
def test_configurations_of_every_method_and_dataparser_survive(method, tmp_path: Path) -> None:
    for dataparser in all_dataparsers.values():
        config = copy.deepcopy(method.config)
        config.data = Path("data")
        config.pipeline.datamanager.dataparser = copy.deepcopy(dataparser)
        derived = isinstance(config.pipeline, SceneTokPipelineConfig)  # commands derive no runs of splats
        for saved in (config, *([run_config(config, tmp_path / "run")] if derived else [])):
            assert read_config(written(tmp_path / "config.yml", yaml.dump(saved))) == saved


def test_plain_values_survive(tmp_path: Path) -> None:
    values = {"tuple": (1, 2.5, None), "nested": ((1, [2]),), "set": {1}, "inf": float("inf"), "event": EventName.ETA}
    assert read_config(written(tmp_path / "config.yml", yaml.dump(values))) == values


def test_every_listed_class_is_a_dataclass_with_the_listed_target() -> None:
    for name in CONFIGURATIONS:
        module, _, member = name.rpartition(".")
        kind = getattr(importlib.import_module(module), member)
        assert dataclasses.is_dataclass(kind)
        has_target = "_target" in {field.name for field in dataclasses.fields(kind)}
        assert has_target == (CONFIGURATIONS[name] is not None), name
    for name in TARGETS:
        module, _, member = name.rpartition(".")
        assert getattr(importlib.import_module(module), member).__module__ == module


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("object/apply:os.system ['touch TRACE']", "os.system"),
        ("object/new:subprocess.Popen [[touch, TRACE]]", "subprocess.Popen"),
        ("object/apply:nerfstudio.utils.scripts.run_command ['touch TRACE']", "nerfstudio.utils.scripts.run_command"),
        ("object/apply:builtins.eval ['1']", "builtins.eval"),
        ("object/apply:eval ['1']", "eval"),
        ("object/apply:nerfstudio.engine.trainer.TrainerConfig []", "nerfstudio.engine.trainer.TrainerConfig"),
        ("object:nerfstudio.engine.trainer.Trainer {}", "nerfstudio.engine.trainer.Trainer"),
        ("object:nerfstudio.models.nerfacto.NerfactoModelConfig {}", "nerfstudio.models.nerfacto.NerfactoModelConfig"),
        ("object/new:nerfstudio.configs.base_config.MachineConfig []", "nerfstudio.configs.base_config.MachineConfig"),
        ("object:nerfstudio.configs.base_config.MachineConfig [1]", "nerfstudio.configs.base_config.MachineConfig"),
        ("object/apply:nerfstudio.cameras.cameras.CameraType [1]", "nerfstudio.cameras.cameras.CameraType"),
        ("object/apply:nerfstudio.utils.writer.EventName [touch TRACE]", "nerfstudio.utils.writer.EventName"),
        ("object/apply:nerfstudio.utils.writer.EventName [a, [b]]", "nerfstudio.utils.writer.EventName"),
        ("object/apply:enum.Enum [X, [[a, b]]]", "enum.Enum"),
        ("object/apply:pathlib.PosixPath {args: [TRACE], kwds: {a: 1}}", "pathlib.PosixPath"),
        ("object/apply:pathlib.PosixPath [[TRACE]]", "pathlib.PosixPath"),
        ("name:os.system ''", "os.system"),
        ("name:nerfstudio.utils.writer.TensorboardWriter ''", "nerfstudio.utils.writer.TensorboardWriter"),
        ("name:builtins.dict ''", "builtins.dict"),
        ("module:os ''", "os"),
        ("bytes abc", "!!python/bytes"),
    ],
)
def test_anything_that_no_run_has_is_refused_by_name(tmp_path: Path, tag: str, name: str) -> None:
    trace = tmp_path / "trace"
    assert (
        refusal(tmp_path, f"!!python/{tag}".replace("TRACE", str(trace)))
        == f"it names {name}, which no scenetok run has"
    )
    assert not trace.exists()


ENUM = """!!python/object/apply:nerfstudio.cameras.cameras.Enum
args: [X]
kwds:
  names: [[a, TRACE]]
  type: !!python/name:nerfstudio.utils.writer.SummaryWriter ''
"""
"""Calling an enumeration class without members creates a new enumeration, and constructs the values of its members."""


def test_an_enumeration_cannot_construct_what_a_file_names(tmp_path: Path) -> None:
    text = ENUM.replace("TRACE", str(tmp_path / "trace"))
    assert refusal(tmp_path, text) == "it names nerfstudio.cameras.cameras.Enum, which no scenetok run has"
    assert not (tmp_path / "trace").exists()


MACHINE = "!!python/object:nerfstudio.configs.base_config.MachineConfig {seed: 1, a.b: 2}"
TARGET = "!!python/object:nerfstudio.configs.base_config.LocalWriterConfig\n_target: {}\n"


def test_settings_and_targets_are_those_of_the_class(tmp_path: Path) -> None:
    assert refusal(tmp_path, MACHINE).endswith("MachineConfig has no setting a.b")
    other = "!!python/name:scenetok_ns.plugin.trainer.SceneTokTrainer ''"
    for wrong in (other, "null", "[1]"):
        said = refusal(tmp_path, TARGET.format(wrong) + "stats_to_track: []")
        assert said.endswith(
            "_target of nerfstudio.configs.base_config.LocalWriterConfig is not nerfstudio.utils.writer.LocalWriter"
        )


def test_a_run_of_another_method_is_named(tmp_path: Path) -> None:
    said = refusal(tmp_path, yaml.dump(all_methods["nerfacto"]))
    assert (
        said == "it names nerfstudio.data.datamanagers.parallel_datamanager.ParallelDataManagerConfig, "
        "which no scenetok run has (its method is nerfacto)"
    )


def test_a_field_added_later_takes_its_default(tmp_path: Path) -> None:
    text = yaml.dump(METHODS[0].config.machine)
    lines = [line for line in text.splitlines() if not line.startswith("seed:")]
    assert read_config(written(tmp_path / "config.yml", "\n".join(lines))) == METHODS[0].config.machine


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{a: 1", "expected ',' or '}'"),
        ("a: \0\0\0", "unacceptable character"),
        ("a: [" + "[" * 5000, "it is nested too deeply"),
        ("a: !b 1", "could not determine a constructor for the tag '!b'"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in refusal(tmp_path, text)


def test_what_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"config\.yml cannot be read .*: it is not UTF-8 text"):
        read_config(tmp_path / "config.yml")


def test_a_file_cut_short_is_refused_or_lacks_nothing_that_matters(tmp_path: Path) -> None:
    text = (EARLIER / "open-scenetok-tiny.yml").read_text()
    whole = read_config(EARLIER / "open-scenetok-tiny.yml")
    lines = text.splitlines(keepends=True)
    ends_of_pipeline = text.index("\nproject_name:")
    for count in range(1, len(lines), 3):
        cut = "".join(lines[:count])
        if len(cut) <= ends_of_pipeline:
            refusal(tmp_path, cut)
            continue
        try:
            found = read_config(written(tmp_path / "config.yml", cut))
        except ValueError:
            continue
        assert (found.pipeline, found.run_folder) == (whole.pipeline, whole.run_folder)


MEMBER = "!!python/object/apply:builtins.getattr [!!python/name:{} '', {}]\n"


def test_members_of_enumerations_as_some_pythons_write_them(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(MEMBER.format("nerfstudio.utils.writer.EventName", "ETA"))
    assert read_config(path) is EventName.ETA
    for cls, name in (("nerfstudio.utils.writer.EventName", "mro"), ("pathlib.Path", "unlink")):
        assert "it names builtins.getattr, which" in refusal(tmp_path, MEMBER.format(cls, name))


def test_a_class_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(safe_config.CONFIGURATIONS, "scenetok_ns.nothing.Config", None)
    said = refusal(tmp_path, "!!python/object:scenetok_ns.nothing.Config {}")
    assert said == "scenetok_ns.nothing.Config is not installed (No module named 'scenetok_ns.nothing')"
