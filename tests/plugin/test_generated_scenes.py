"""Generated scenes in the data manager, the model and the pipeline: what they are made from, and when."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.scene_files import write_dl3dv
from support.small_networks import randomized
from support.small_runs import FRAMES, GENERATOR, small_config, small_pipeline, write_small_re10k

from scenetok_ns.data.anchors import anchors_along
from scenetok_ns.data.scenes import DataError
from scenetok_ns.dataparsers.re10k_dataparser import Re10kDataParserConfig
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.scenegen import generate
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.plugin.pipeline import SceneTokPipeline
from scenetok_ns.rendering.scene_renderer import SceneRenderer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"))


def pipeline_of(data: Path, **fields: Any) -> SceneTokPipeline:
    pipeline = small_pipeline(data, preset=GENERATOR, **fields)
    randomized(pipeline.model.scenetok)
    return pipeline.eval()


def indexed(data: Path, tmp_path: Path, context: list[int], **fields: Any) -> SceneTokPipeline:
    (tmp_path / "index.json").write_text(json.dumps({"test1": {"context": context, "target": list(range(2, 9))}}))
    config = Re10kDataParserConfig(eval_index=tmp_path / "index.json")
    return pipeline_of(data, dataparser=config, **fields)


def test_a_scene_is_generated_from_its_first_context_view_along_all_of_them(data: Path) -> None:
    pipeline = pipeline_of(data)
    manager, model = pipeline.datamanager, pipeline.model
    shown = manager.scenes.scene(0)
    assert len(shown.context) == 1 and torch.equal(shown.anchors[0], shown.scene.c2w[shown.context[0]])
    assert len(shown.anchors) == 3 and not set(shown.target.tolist()) & set(shown.context.tolist())
    assert len(manager.train_dataset) == 1 and len(manager.eval_dataset) == FRAMES - 3
    views = shown.scene.load_views(shown.context, (32, 32))
    expected = generate(
        model.scenetok,
        views.images / 255,
        CameraBatch(views.c2w[None], views.intrinsics[None]),
        CameraBatch(shown.anchors[None], views.intrinsics[None].expand(1, 3, 3, 3)),
    )
    torch.testing.assert_close(model.renderer.tokens_of(0).mean, expected.mean)
    torch.testing.assert_close(model.renderer.tokens_of(0).reference_c2w, views.c2w[0])


@pytest.mark.parametrize(
    ("context", "fields", "given", "anchors"),
    [
        ([4], {}, [4], [2, 5, 8]),  # too few context views for anchors: spread over all views
        ([3, 7], {}, [3, 7], [2, 5, 8]),
        ([3, 7], {"num_condition": 1}, [3], [2, 5, 8]),
        ([3, 5, 7], {}, [3], [3, 5, 7]),  # more than the generator takes
        ([3, 5, 7], {"num_condition": 2}, [3, 7], [3, 5, 7]),
        ([3, 5, 7], {"num_context": 7}, [3], [2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_condition_views_and_anchors_of_an_evaluation_index(
    data: Path, tmp_path: Path, context: list[int], fields: dict[str, int], given: list[int], anchors: list[int]
) -> None:
    shown = indexed(data, tmp_path, context, **fields).datamanager.scenes.scene(0)
    assert shown.context.tolist() == given
    assert torch.equal(shown.anchors, shown.scene.c2w[anchors])


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "num-condition: expected at least 1, got 0"),
        (3, "3 condition views, but preset tiny_scenegen takes 1 to 2, and there are 3 context views"),
    ],
)
def test_wrong_numbers_of_condition_views_are_refused(data: Path, count: int, message: str) -> None:
    with pytest.raises((DataError, ValueError), match=message):
        pipeline_of(data, num_condition=count)


def test_a_capture_of_one_photograph_with_a_pose_is_enough(tmp_path: Path) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    write_dl3dv(tmp_path / "capture", frames=10, image_folder="images", divide=1)
    config = NerfstudioDataParserConfig(data=tmp_path / "capture", eval_mode="interval", eval_interval=1000)
    config.downscale_factor = 1
    shown = pipeline_of(tmp_path / "capture", dataparser=config).datamanager.scenes.scene(0)
    assert len(shown.context) == 1 and len(shown.anchors) == 3


def test_fewer_poses_than_anchors_are_interpolated() -> None:
    path = torch.eye(4).repeat(3, 1, 1)
    path[:, 0, 3] = torch.tensor([0.0, 1.0, 2.0])
    torch.testing.assert_close(anchors_along(path, 9)[:, 0, 3], torch.linspace(0, 2, 9), atol=0.3, rtol=0)
    assert torch.equal(anchors_along(path, 2), path[[0, 2]]) and torch.equal(anchors_along(path[:1], 9), path[:1])
    assert len(anchors_along(path, 9)) == 9


def test_a_scene_is_generated_once_and_anew_for_another_seed_or_sampler(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pipeline_of(data).model
    calls: list[int] = []
    whole = SceneRenderer.generate
    monkeypatch.setattr(
        SceneRenderer, "generate", lambda *args, **options: (calls.append(1), whole(*args, **options))[1]
    )
    renderer = model.renderer
    first = renderer.tokens_of(0).mean
    assert torch.equal(renderer.tokens_of(0).mean, first) and len(calls) == 1
    other = replace(renderer, settings=replace(renderer.settings, scene_seed=1))
    assert not torch.allclose(other.tokens_of(0).mean, first, atol=1e-3) and len(calls) == 2
    assert torch.equal(renderer.tokens_of(0).mean, first) and len(calls) == 2  # it is as it was
    model.invalidate_caches()
    for found in (renderer, other):  # they share the weights
        found.tokens_of(0)
    assert len(calls) == 4


def test_options_of_the_generation_arrive(data: Path) -> None:
    config = small_config(data, Path("unused"), GENERATOR).pipeline
    options = {"scene_steps": 5, "scene_guidance": 2.0, "scene_solver": "multistep", "scene_fit_steps": 3}
    options |= {"solver": "multistep", "steps": 7}
    for name, value in options.items():
        setattr(config.model, name, value)
    model = config.setup(device="cpu", test_mode="test").model
    scene, sampler = model.renderer.settings.scene_sampler, model.renderer.settings.sampler
    assert (scene.steps, scene.guidance, scene.solver, scene.timestep_shift) == (5, 2.0, "multistep", 4.0)
    assert scene.fit_steps == 3
    assert (sampler.steps, sampler.solver, sampler.guidance) == (7, "multistep", 1.0)


def test_a_generation_can_be_interrupted_and_leaves_nothing(data: Path) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == 3
        if done == 2:
            raise StopError

    model = pipeline_of(data).model
    with pytest.raises(StopError):
        model.renderer.tokens_of(0, stop)
    assert not model.renderer._tokens
    assert isinstance(model.renderer.tokens_of(0), SceneTokens)


def test_all_evaluation_scenes_are_generated_and_measured(data: Path) -> None:
    pipeline = pipeline_of(data, eval_targets=2)
    pipeline.config.baselines = True
    metrics = pipeline.get_average_eval_image_metrics()
    assert metrics["num_scenes"] == 3 and metrics["num_views"] == 6
    assert {"psnr", "psnr_nearest_view", "psnr_other_tokens"} <= set(metrics)
    config = small_config(data, Path("unused"), GENERATOR).pipeline
    config.model.scene_seed, config.datamanager.eval_targets = 3, 2
    other = config.setup(device="cpu", test_mode="test")
    randomized(other.model.scenetok)
    assert other.get_average_eval_image_metrics()["psnr"] != pytest.approx(metrics["psnr"], abs=1e-4)
