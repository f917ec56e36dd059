"""config.yml is read without running anything that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.engine.trainer import TrainerConfig

from scenetok_ns.tools.safe_config import read_config


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_configurations_survive(tmp_path: Path) -> None:
    config = TrainerConfig(method_name="some-method", data=Path("data"), load_step=3)
    config.pipeline.datamanager.camera_res_scale_factor = 0.5
    values = {"config": config, "tuple": (1, 2.5, None), "set": {1}, "kind": CameraType.FISHEYE, "inf": float("inf")}
    assert read_config(written(tmp_path / "config.yml", yaml.dump(values))) == values


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
        ("name:os.system ''", "os.system"),
        ("module:os ''", "os"),
    ],
)
def test_anything_that_could_run_code_is_refused_by_name(tmp_path: Path, tag: str, name: str) -> None:
    trace = tmp_path / "trace"
    path = written(tmp_path / "config.yml", f"!!python/{tag}".replace("TRACE", str(trace)))
    with pytest.raises(ValueError, match=f"config.yml cannot be read .*: {name} has no place in a run's configuration"):
        read_config(path)
    assert not trace.exists()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.yml cannot be read as the configuration of a run: expected"):
        read_config(written(tmp_path / "config.yml", "{a: 1"))


MEMBER = "!!python/object/apply:builtins.getattr [!!python/name:{} '', {}]\n"
CAMERA_TYPE = "nerfstudio.cameras.cameras.CameraType"


def test_members_of_enumerations_as_some_pythons_write_them(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(MEMBER.format(CAMERA_TYPE, "FISHEYE"))
    assert read_config(path) is CameraType.FISHEYE
    for cls, name in ((CAMERA_TYPE, "mro"), ("pathlib.Path", "unlink")):
        path.write_text(MEMBER.format(cls, name))
        with pytest.raises(ValueError, match=r"builtins\.getattr has no place"):
            read_config(path)
