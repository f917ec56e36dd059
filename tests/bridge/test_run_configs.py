"""Run folders are read safely, including those written before modules moved."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.eval_utils import eval_setup

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.data.demo.writer import write_demo_data
from scenetok_ns.plugin.run_folder import RunFolderConfig, derive_run, run_config
from scenetok_ns.tools.earlier_modules import EARLIER_MODULES

EARLIER = sorted((Path(__file__).parent / "earlier_runs").glob("*.yml"))
"""Files that `scenetok open` and ns-train of version 0.1.0 wrote before modules moved. Only paths were changed."""


def stock(text: str) -> Any:
    """Read a config.yml like Nerfstudio's tools, with the unsafe loader. That is fine for the files of these tests."""
    loader = yaml.Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def configurations(value: Any) -> list[Any]:
    """Find all dataclasses in a configuration."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [one for field in dataclasses.fields(value) for one in configurations(getattr(value, field.name))]
        return [value, *inner]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [one for part in values for one in configurations(part)]


def test_there_are_samples_of_every_kind() -> None:
    text = "".join(path.read_text() for path in EARLIER)
    assert {name for name in EARLIER_MODULES if f":{name}." in text} == set(EARLIER_MODULES)
    assert len(EARLIER) == 8


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.stem)
def test_an_earlier_run_opens_in_the_stock_tools_and_in_ours(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    found = stock(text)
    assert isinstance(found, TrainerConfig) and read_run(path) == found
    for one in configurations(found):
        assert vars(one).keys() <= {field.name for field in dataclasses.fields(one)}, "a setting was lost"
    assert found.pipeline.datamanager.data.is_relative_to("/somewhere")

    saved = run_config(found, tmp_path / "run")
    again = yaml.dump(saved)
    assert not re.search("|".join(map(re.escape, (f":{name}." for name in EARLIER_MODULES))), again)
    (tmp_path / "config.yml").write_text(again)
    assert read_run(tmp_path) == stock(again) == saved
    assert saved.pipeline == found.pipeline


def test_the_stock_tools_load_the_model_of_an_earlier_run(tmp_path: Path) -> None:
    write_demo_data(tmp_path / "rooms", "re10k", {"train": 1, "test": 1}, 16, 128, seed=0)
    folder = tmp_path / "runs" / "tiny"
    derive_run(Path("scenetok-tiny"), folder).write()
    (path,) = [path for path in EARLIER if path.stem == "open-scenetok-tiny"]
    parts = "\n".join(f"- {part}" for part in tmp_path.absolute().parts[1:])
    text = re.sub(
        r"^( *)- somewhere$", lambda found: re.sub("^", found[1], parts, flags=re.M), path.read_text(), flags=re.M
    )
    (folder / "config.yml").write_text(text)
    config, pipeline, checkpoint, _ = eval_setup(folder / "config.yml", test_mode="inference")
    assert isinstance(config, RunFolderConfig) and checkpoint.parent == folder / "nerfstudio_models"
    assert pipeline.model.scenetok.preset.name == "scenetok-tiny"
    assert pipeline.datamanager.get_datapath() == tmp_path / "rooms"


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a run folder: it has no config\.yml"):
        read_run(tmp_path)
    (tmp_path / "config.yml").write_text(yaml.dump({"a": 1}))
    with pytest.raises(ValueError, match="does not hold the configuration of a run"):
        read_run(tmp_path)
