"""Evaluation as in the published command and notebooks: scale, condition views, further frames, reference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.scene_files import example, write_re10k
from support.small_runs import GENERATOR, PRESET

from scenetok_ns.bridge.evaluation_scenes import EvaluationScenes, EvaluationViewsConfig
from scenetok_ns.data.scenes import BadScene, DataError
from scenetok_ns.dataparsers.re10k_dataparser import Re10kDataParserConfig
from scenetok_ns.models.presets import AutoencoderConfig, load_preset

TWO, THREE = {"context": [2, 9], "target": [3, 5]}, {"context": [2, 5, 9], "target": [3, 5]}
WAN = AutoencoderConfig("pixel", spatial_factor=8, frames_per_chunk=17, latents_per_chunk=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("re10k")
    write_re10k(folder / "test", [[example("a", 80, size=(36, 64)), example("b", 60, size=(36, 64))]])
    return folder


def scenes(data: Path, entries: dict[str, Any], preset: Any = PRESET, **views: Any) -> EvaluationScenes:
    index = data / "index.json"
    index.write_text(json.dumps(entries))
    dataparser = Re10kDataParserConfig(data=data, eval_index=index)
    loaded = load_preset(str(preset)) if isinstance(preset, Path) else preset
    return EvaluationScenes(
        dataparser.setup().scene_source("test"), dataparser, EvaluationViewsConfig(**views), loaded, "test"
    )


def test_two_context_views_give_the_scale(data: Path) -> None:
    found = scenes(data, {"a": TWO, "b": THREE}, eval_protocol="published")
    c2w = found.source.scene("a").c2w
    assert found.pose_scale(0) == pytest.approx(1 / float((c2w[2, :3, 3] - c2w[9, :3, 3]).norm()))
    assert found.pose_scale(1) == 1.0
    assert scenes(data, {"a": TWO}).pose_scale(0) == 1.0


def test_two_context_views_in_one_place_give_none(data: Path) -> None:
    found = scenes(data, {"a": {"context": [2, 2], "target": [3]}}, eval_protocol="published")
    with pytest.raises(BadScene, match="scene a: its two context views are 0 apart, which gives no scale"):
        found.pose_scale(0)


def test_a_generator_gets_one_condition_view(data: Path) -> None:
    assert scenes(data, {"a": TWO}, GENERATOR).scene(0).context.tolist() == [2, 9]
    assert scenes(data, {"a": TWO}, GENERATOR, eval_protocol="published").scene(0).context.tolist() == [2]
    both = scenes(data, {"a": TWO}, GENERATOR, eval_protocol="published", num_condition=2)
    assert both.scene(0).context.tolist() == [2, 9]


@pytest.mark.parametrize(("count", "further"), [(64, 4), (32, 2), (30, 0), (16, 1), (48, 3)])
def test_clips_for_wan_go_on_with_real_frames(data: Path, count: int, further: int) -> None:
    preset = replace(load_preset(str(PRESET)), target_autoencoder=WAN)
    entry = {"context": [0, 1, 2], "target": list(range(4, 4 + count))}
    scene = scenes(data, {"a": entry}, preset, eval_protocol="published").scene(0)
    assert scene.further.tolist() == list(range(4 + count, 4 + count + further)) and len(scene.target) == count
    assert len(scenes(data, {"a": entry}, preset).scene(0).further) == 0
    assert len(scenes(data, {"a": entry}, eval_protocol="published").scene(0).further) == 0


def test_a_scene_that_ends_too_soon_for_wan_is_unusable(data: Path) -> None:
    preset = replace(load_preset(str(PRESET)), target_autoencoder=WAN)
    entry = {"context": [0, 1, 2], "target": list(range(16, 80))}
    with pytest.raises(DataError, match="the published evaluation needs frame 83, but there are 80"):
        scenes(data, {"a": entry}, preset, eval_protocol="published")


def test_the_notebooks_reference_is_the_first_view(data: Path) -> None:
    entry = {"context": [2, 5, 9, 7, 8], "target": [3]}
    context = scenes(data, {"a": entry}, eval_protocol="notebook").scene(0).context
    assert context[len(context) // 2] == 2 and sorted(context.tolist()) == [2, 5, 7, 8, 9]
    assert torch.equal(scenes(data, {"a": entry}).scene(0).context, torch.tensor([2, 5, 9, 7, 8]))
