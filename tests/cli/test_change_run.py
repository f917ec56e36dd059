"""Changes reach the configuration of a run, and nothing else in it changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.scene_files import example, write_re10k

from scenetok_ns.cli.change_run import check_data, check_encodes
from scenetok_ns.cli.run_options import GenerationOptions, RunChanges
from scenetok_ns.cli.runs import load_run
from scenetok_ns.data.scenes import DataError
from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig
from scenetok_ns.plugin.methods import method_config
from scenetok_ns.plugin.run_folder import DerivedRun, RunFolderConfig, run_config

VALUES: dict[str, Any] = {
    "seed": 3,
    "steps": 2,
    "guidance": 1.0,
    "solver": "multistep",
    "wide": "fill",
    "engine": "off",
}
GENERATION = GenerationOptions(scene_seed=1, scene_steps=2, scene_guidance=3.0, scene_solver="multistep")


def config_of(method: str) -> RunFolderConfig:
    return run_config(method_config(method), Path("run"))


def test_every_setting_has_its_place() -> None:
    config = config_of("scenegen-tiny")
    changes = RunChanges(**VALUES, low_vram=True, baselines=True, num_condition=1, num_context=3, generation=GENERATION)
    assert changes.apply(config) is None
    model, datamanager = config.pipeline.model, config.pipeline.datamanager
    assert {name: getattr(model, name) for name in VALUES} == VALUES
    assert {name: getattr(model, name) for name in vars(GENERATION)} == vars(GENERATION)
    assert model.low_vram and config.pipeline.baselines
    assert (datamanager.num_condition, datamanager.num_context) == (1, 3)

    before = copy.deepcopy(config)
    RunChanges().apply(config)
    assert config == before


def test_data_takes_the_dataparser_that_reads_it_and_its_scenes(tmp_path: Path) -> None:
    write_re10k(tmp_path / "test", [[example("attic", 8), example("cellar", 8)]])
    config = config_of("scenetok-dl3dv")
    RunChanges(data=tmp_path, scene="cellar").apply(config)
    dataparser = config.pipeline.datamanager.dataparser
    assert type(dataparser).__name__ == "Re10kDataParserConfig" and dataparser.scene == "cellar"
    assert config.data == config.pipeline.datamanager.data == dataparser.data == tmp_path
    check_data(config)
    with pytest.raises(DataError, match=r"no scene 'loft' in the test split of .*; it has attic, cellar"):
        RunChanges(scene="loft").apply(config)
    with pytest.raises(ValueError, match="--pose-scale is for captures"):
        RunChanges(pose_scale=2.0).apply(config)


def test_a_run_needs_something_to_show() -> None:
    config = config_of("scenetok-tiny")
    with pytest.raises(FileNotFoundError, match="there is no scene to display: give --data with a capture"):
        load_run(DerivedRun(config, None), Console())  # as `scenetok render --path orbit` does
    config.pipeline.datamanager.data = Path("nowhere/rooms")
    with pytest.raises(FileNotFoundError, match="the run's data nowhere/rooms is not there: give its place"):
        check_data(config)


@pytest.mark.parametrize("changes", [RunChanges(num_context=2), RunChanges(pose_scale=2.0)])
def test_options_of_encoding_are_refused_where_tokens_are_there_already(changes: RunChanges) -> None:
    refined, stored = config_of("scenetok-refine"), config_of("scenetok-tiny")
    stored.pipeline.datamanager.dataparser = TokensDataParserConfig(data=Path("scene.safetensors"))
    with pytest.raises(ValueError, match="would change nothing: this run has refined tokens"):
        changes.apply(refined)
    with pytest.raises(ValueError, match="would change nothing: this run shows a token file"):
        changes.apply(stored)
    check_encodes(config_of("scenetok-tiny"), "--num-context")


def test_a_scene_is_chosen_where_there_are_several() -> None:
    stored = config_of("scenetok-tiny")
    stored.pipeline.datamanager.dataparser = TokensDataParserConfig(data=Path("scene.safetensors"))
    for changes, option in ((RunChanges(scene="a"), "--scene"), (RunChanges(index=Path("i.json")), "--index")):
        with pytest.raises(DataError, match=f"TokensDataParserConfig has one scene: leave out {option}"):
            changes.apply(stored)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (RunChanges(generation=GenerationOptions(scene_seed=1)), "--scene-seed is for runs that generate scenes"),
        (RunChanges(num_condition=1), "--num-condition is for runs that generate scenes; preset scenetok-tiny"),
        (RunChanges(data=Path("nowhere")), "no data at nowhere"),
    ],
)
def test_changes_that_do_not_fit_the_run_are_refused(changes: RunChanges, message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        changes.apply(config_of("scenetok-tiny"))


def test_guidance_needs_a_null_token() -> None:
    RunChanges(guidance=2.0).apply(config_of("scenetok-tiny"))
    with pytest.raises(ValueError, match=r"--guidance 2\.0: preset re10k has no null token, so it only takes 1"):
        RunChanges(guidance=2.0).apply(config_of("scenetok"))
