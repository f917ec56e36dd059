"""Whole evaluations of the smallest model: continued, split among processes, and with unusable scenes."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.small_runs import FRAMES, GENERATOR, IMAGE_SIZE, NUM_CONTEXT, PRESET, small_pipeline, write_small_re10k

from scenetok_ns.data.precomputed.scene_jobs import Shard
from scenetok_ns.data.scenes import BadScene, DataError
from scenetok_ns.evaluation import evaluate as whole
from scenetok_ns.evaluation.baselines import copied_pictures, nearest_view
from scenetok_ns.evaluation.distributions import frechet_distance
from scenetok_ns.evaluation.features import standin_features
from scenetok_ns.evaluation.measures import Measured, Measures
from scenetok_ns.evaluation.options import EvaluationOptions
from scenetok_ns.evaluation.pictures import for_report, side_by_side
from scenetok_ns.evaluation.protocol import settings_of
from scenetok_ns.evaluation.records import EvaluationFolder, SceneRecord, differences, file_name
from scenetok_ns.evaluation.scene_evaluation import (
    EvaluatedScene,
    EvaluationConditions,
    SceneEvaluation,
    kept_tokens,
    ordered,
)
from scenetok_ns.evaluation.summary import summarise
from scenetok_ns.models.cameras import CameraBatch, scaled_poses
from scenetok_ns.models.depth_weights import DepthSource, new_depth_head
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.metrics import psnr
from scenetok_ns.models.networks.depth_head import TYPICAL_INVERSE
from scenetok_ns.plugin.pipeline import SceneTokPipeline
from scenetok_ns.rendering.picture_files import to_bytes
from scenetok_ns.rendering.scene_renderer import SceneRenderer

TARGETS = FRAMES - NUM_CONTEXT
TIMES = ("seconds", "fps", "num_rays_per_sec")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"), bad_scene=True)


@pytest.fixture(scope="module")
def pipeline(data: Path) -> SceneTokPipeline:
    """A pipeline whose pictures depend on tokens and poses, unlike those of freshly initialised networks."""
    made = small_pipeline(data).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def measures() -> Measures:
    return Measures.load(EvaluationOptions(metrics=("stlpips",), fvd_frames=2), "cpu")


def evaluation(pipeline: SceneTokPipeline, measures: Measures, folder: Path, **fields: Any) -> SceneEvaluation:
    return SceneEvaluation(pipeline.model.renderer, measures, EvaluationFolder(folder), **fields)


def figures(run: SceneEvaluation) -> dict[str, Any]:
    run.run()
    results = whole.whole_summary(run).results
    return {name: value for name, value in results.items() if name not in TIMES}


@pytest.fixture(scope="module")
def undisturbed(pipeline: SceneTokPipeline, measures: Measures, tmp_path_factory: Any) -> dict[str, Any]:
    return figures(evaluation(pipeline, measures, tmp_path_factory.mktemp("whole"), baselines=True))


def test_figures_are_means_over_views(
    pipeline: SceneTokPipeline, measures: Measures, undisturbed: dict[str, Any]
) -> None:
    values = []
    for number in range(3):
        target = pipeline.datamanager.scenes.target_views(number)
        cameras = CameraBatch(target.c2w[None], target.intrinsics[None])
        pred = pipeline.model.renderer.render(pipeline.model.renderer.tokens_of(number), cameras).clamp(0, 1)
        values.append(psnr(pred=to_bytes(pred).float() / 255, target=target.images.float() / 255))
    assert undisturbed["psnr"] == pytest.approx(float(torch.cat(values).mean()), abs=1e-4)
    assert undisturbed["psnr_std"] == pytest.approx(float(torch.cat(values).std()), abs=1e-4)
    assert undisturbed["num_views"] == 3 * TARGETS and undisturbed["num_skipped_scenes"] == 1
    assert undisturbed["frechet_stlpips_alex"] > 0 and "rfid" not in undisturbed


def test_interrupted_and_continued_gives_the_same_numbers(
    pipeline: SceneTokPipeline, measures: Measures, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    first = evaluation(pipeline, measures, tmp_path, baselines=True)

    def fail(scene: EvaluatedScene) -> None:
        if scene.number == 1:
            raise OSError("the disk is full")

    first.write_pictures = fail
    with pytest.raises(OSError, match="disk is full"):
        first.run()
    done = {path.name for path in (tmp_path / "scenes").iterdir()}
    assert "test0.safetensors" in done and "test1.safetensors" not in done
    second = evaluation(pipeline, measures, tmp_path, baselines=True)
    rendered: list[str] = []
    second.write_pictures = lambda scene: rendered.append(scene.key)
    assert figures(second) == undisturbed
    assert rendered == ["test1", "test2"]


def test_shards_together_are_the_whole(
    pipeline: SceneTokPipeline, measures: Measures, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    for index in (1, 0):
        part = evaluation(pipeline, measures, tmp_path, baselines=True, shard=Shard(index, 2))
        summary = whole.run_with_progress(part, settings_of(part), "part")
        assert (summary is None) == (index == 1)
    assert summary is not None
    assert {name: value for name, value in summary.results.items() if name not in TIMES} == undisturbed


def test_scenes_rendered_together_are_those_rendered_alone(
    pipeline: SceneTokPipeline, measures: Measures, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    together = figures(evaluation(pipeline, measures, tmp_path, baselines=True, batch_scenes=3))
    assert together.keys() == undisturbed.keys()
    assert all(together[name] == pytest.approx(undisturbed[name], rel=1e-3, abs=1e-4) for name in together)


def test_other_settings_are_refused_by_name(
    pipeline: SceneTokPipeline, measures: Measures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluation(pipeline, measures, tmp_path)
    first.folder.claim(settings_of(first))
    first.folder.claim(settings_of(first))
    other = evaluation(pipeline, measures, tmp_path, conditions=EvaluationConditions("reversed"))
    with pytest.raises(DataError, match=r"views\.context_order index \(now reversed\)"):
        other.folder.claim(settings_of(other))
    assert settings_of(first)["rendering"] == {"by": "plain loop", "low_vram": False}
    pipeline.model.eval()
    monkeypatch.setattr(pipeline.model.scenetok, "engine_options", EngineOptions.for_device(torch.device("cpu")))
    with pytest.raises(DataError, match=r"rendering\.by plain loop \(now engine\)"):
        first.folder.claim(settings_of(first))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(DataError, match="so it is not an evaluation"):
        EvaluationFolder(tmp_path / "mine").claim({})


def test_a_folder_that_another_process_begins_is_no_other_folder(tmp_path: Path) -> None:
    unfinished = tmp_path / ".settings.json.1@elsewhere.part"
    unfinished.touch()
    EvaluationFolder(tmp_path).claim({"a": 1})
    assert json.loads((tmp_path / "settings.json").read_text()) == {"a": 1} and unfinished.exists()


def test_tokens_are_kept_only_for_baselines_to_come(
    pipeline: SceneTokPipeline, measures: Measures, tmp_path: Path
) -> None:
    for baselines, most in ((False, 0), (True, 2)):
        run = evaluation(pipeline, measures, tmp_path / str(baselines), baselines=baselines)
        run.run()
        assert len(run._tokens) <= most


def test_differences_name_the_place() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 0}) == ["a.c 2 (now 3)", "d None (now 0)"]


def test_records_survive_and_damaged_ones_are_named(
    pipeline: SceneTokPipeline, measures: Measures, tmp_path: Path
) -> None:
    run = evaluation(pipeline, measures, tmp_path, batch_scenes=4)
    run.run()
    record = run.folder.record("test2")
    assert record is not None and record.frames == pipeline.datamanager.scenes.scene(2).target.tolist()
    assert record.measured.pred["stlpips_alex"].shape == (TARGETS, 256)
    truth = standin_features(measures.perceptual["stlpips_alex"], pipeline.datamanager.scenes.target_views(2).images)
    torch.testing.assert_close(record.measured.target["stlpips_alex"], truth, rtol=1e-4, atol=1e-5)
    path = tmp_path / "scenes" / "test2.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"test2\.safetensors is damaged"):
        SceneRecord.load(path)
    assert file_name("a/b") != file_name("a_b") and "/" not in file_name("../x") and file_name("..") != ".."


def test_no_usable_scene_is_one_line(
    pipeline: SceneTokPipeline, measures: Measures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dark(number: int) -> Any:
        raise BadScene("no light", pipeline.datamanager.scenes.keys[number])

    reasons = dict(pipeline.datamanager.scenes.source.skipped.reasons)
    monkeypatch.setattr(pipeline.datamanager.scenes.source.skipped, "reasons", reasons)
    monkeypatch.setattr(pipeline.datamanager.scenes, "scene", dark)
    run = evaluation(pipeline, measures, tmp_path)
    with pytest.raises(DataError, match="no evaluation scene is usable; 4 skipped: test0: no light"):
        figures(run)


@pytest.mark.parametrize(("generation", "letter"), [(False, "r"), (True, "g")])
def test_published_names_are_of_published_networks(tmp_path: Path, generation: bool, letter: str) -> None:
    folder, random = EvaluationFolder(tmp_path), torch.Generator().manual_seed(0)
    sets = {"inception": (6, 4), "i3d": (1, 3), "i3d_published": (1, 3), "stlpips_alex": (6, 4)}
    both = {}
    for key in ("a", "b"):
        pred, target = ({n: torch.randn(shape, generator=random) for n, shape in sets.items()} for _ in range(2))
        both[key] = pred, target
        folder.write(SceneRecord(key, [0], list(range(6)), Measured({"psnr": torch.ones(6)}, pred, target), 2.0))
    found = summarise(folder, ["a", "b"], generation=generation, wanted=("fid", "fvd", "stlpips"), image_size=8)
    names = {f"{letter}fid", f"{letter}fvd", f"{letter}fvd_published", "frechet_stlpips_alex", "kernel_stlpips_alex"}
    assert names == set(found.samples) and names < set(found.results)  # kid was not asked for
    first, second = (torch.cat([both[key][side]["inception"] for key in "ab"]) for side in (0, 1))
    assert found.results[f"{letter}fid"] == pytest.approx(frechet_distance(first, second), rel=1e-6)
    assert found.samples[f"{letter}fvd"] == 2 and found.results["fps"] == 12 / 4
    # 12 samples of 4 features are enough, 2 of 3 are few.
    assert found.few_samples == {f"{letter}fvd": 3, f"{letter}fvd_published": 3}
    alone = summarise(folder, ["a"], generation=generation, wanted=("fvd", "kid"), image_size=8)
    for name in ("fvd", "fvd_published"):
        assert "needs at least 2 clips of neighbouring frames, there are 1" in alone.not_computed[letter + name]
    assert f"{letter}kid" in alone.results and f"{letter}fid" not in alone.results


# --- What ns-eval gives ---


def test_ns_eval_gives_everything_as_json(data: Path, tmp_path: Path) -> None:
    pipeline = small_pipeline(data)
    found = pipeline.get_average_eval_image_metrics(output_path=tmp_path / "views", get_std=True)
    text = json.loads(json.dumps(found, allow_nan=False))
    protocol = text["protocol"]
    assert protocol["preset"] == PRESET.stem and protocol["task"] == "reconstruction"
    assert protocol["sampler"]["steps"] == 2 and protocol["sampler"]["seed"] == 0
    assert len(protocol["weights"]["networks_sha256"]) == 64 and protocol["data"]["index"] is None
    assert "torch" in protocol["machine"]["versions"] and protocol["views"]["image_size"] == IMAGE_SIZE
    assert set(text["per_scene"]) == {"test0", "test1", "test2"} and "not finite" in text["skipped"]["test-bad"]
    assert "weights-inception" in text["not_computed"]["fid"]
    assert text["samples"]["frechet_stlpips_alex"] == 3 * TARGETS
    views = text["per_scene"]["test1"]["views"]["psnr"]
    assert len(views) == TARGETS and all(map(math.isfinite, views))
    # Truth left, prediction right, as Nerfstudio has it.
    first = pipeline.datamanager.scenes.scene(1).target[0]
    image = Image.open(tmp_path / "views" / f"eval_img_test1_{first:04d}.png")
    assert image.size == (2 * IMAGE_SIZE, IMAGE_SIZE)
    truth = pipeline.datamanager.scenes.target_views(1).images[0, :, 16, 16]
    assert image.getpixel((16, 16)) == tuple(truth.tolist())


def test_ns_eval_continues_after_a_kill_and_begins_afresh_after_its_end(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pipeline = small_pipeline(data)
    rendered: list[str] = []
    original = SceneEvaluation._measure

    def counted(self: SceneEvaluation, scene: EvaluatedScene) -> Any:
        if scene.key == "test1" and len(rendered) == 1:
            raise KeyboardInterrupt
        rendered.append(scene.key)
        return original(self, scene)

    monkeypatch.setattr(SceneEvaluation, "_measure", counted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.get_average_eval_image_metrics()
    rendered.append("killed")
    continued = pipeline.get_average_eval_image_metrics()
    assert rendered == ["test0", "killed", "test1", "test2"]
    afresh = pipeline.get_average_eval_image_metrics()
    assert rendered[4:] == ["test0", "test1", "test2"]
    assert not list((tmp_path / "scenetok_ns" / "evaluations").iterdir())
    assert continued["psnr"] == afresh["psnr"] and "psnr_std" not in afresh


def test_two_ns_evals_at_once_do_not_share_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with whole._working_folder({"a": 1}, None) as first, whole._working_folder({"a": 1}, None) as second:
        assert first != second
    with whole._working_folder({"a": 1}, None) as again, whole._working_folder({"a": 2}, None) as other:
        assert again == first and other != again


def test_interrupted_evaluations_are_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    base = tmp_path / "scenetok_ns" / "evaluations"
    for name, age in (("old", whole.ABANDONED_AFTER_S + 60), ("new", 60.0)):
        (base / name / "scenes").mkdir(parents=True)
        os.utime(base / name / "scenes", (time.time() - age,) * 2)
    with whole._working_folder({}, None):
        assert not (base / "old").exists() and (base / "new").is_dir()


def test_in_training_there_are_numbers_alone(data: Path) -> None:
    pipeline = small_pipeline(data, "val")
    pipeline.train()
    found = pipeline.get_average_eval_image_metrics(step=5)
    assert all(isinstance(value, float) for value in found.values()) and found["num_views"] == 3 * TARGETS
    assert pipeline.training


def test_a_generator_is_evaluated_on_what_it_generates(data: Path, measures: Measures, tmp_path: Path) -> None:
    pipeline = small_pipeline(data, preset=GENERATOR).eval()
    run = evaluation(pipeline, measures, tmp_path)
    run.run()
    record = run.folder.record("test0")
    assert record is not None and len(record.context) == 1  # its photograph
    assert settings_of(run)["task"] == "generation" and settings_of(run)["scene_sampler"]["seed"] == 0


# --- Conditions ---


def test_orders_and_tokens() -> None:
    context = torch.arange(6)
    assert ordered(context, "index", "a").tolist() == [0, 1, 2, 3, 4, 5]
    assert ordered(context, "reversed", "a").tolist() == [5, 4, 3, 2, 1, 0]
    mixed = ordered(context, "shuffled", "a")
    assert mixed.sort().values.tolist() == context.tolist()
    assert mixed.tolist() == ordered(context, "shuffled", "a").tolist() != ordered(context, "shuffled", "b").tolist()
    alike = {tuple(ordered(context, "shuffled", f"dl3dv-10k-{n}").tolist()) for n in range(8)}  # ends that differ
    assert len(alike) > 4


def test_conditions_reach_the_model(pipeline: SceneTokPipeline, measures: Measures, tmp_path: Path) -> None:
    tokens = kept_tokens(pipeline.model.renderer.tokens_of(0), 5)
    assert tokens.mean.shape == (5, 4)
    with pytest.raises(DataError, match="99 tokens were asked for, the scenes have 8"):
        kept_tokens(pipeline.model.renderer.tokens_of(0), 99)

    def predicted(name: str, conditions: EvaluationConditions) -> torch.Tensor:
        run = evaluation(pipeline, measures, tmp_path / name, conditions=conditions)
        seen: list[torch.Tensor] = []
        run.write_pictures = lambda scene: seen.append(scene.pred)
        run.run()
        return torch.cat(seen)

    base = predicted("base", EvaluationConditions())
    assert torch.equal(base, predicted("again", EvaluationConditions()))
    reordered, fewer = EvaluationConditions("reversed"), EvaluationConditions(num_tokens=5)
    for name, conditions in (("order", reordered), ("tokens", fewer)):
        assert not torch.equal(base, predicted(name, conditions))
    record = evaluation(pipeline, measures, tmp_path / "order").folder.record("test0")
    assert record is not None and record.context == sorted(record.context, reverse=True)


def test_captures_are_encoded_in_the_units_of_the_training_data(
    pipeline: SceneTokPipeline, measures: Measures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.datamanager.scenes, "pose_scale", lambda number: 0.25)
    run = evaluation(pipeline, measures, tmp_path, baselines=True)
    assert settings_of(run)["views"]["pose_scale"] == 0.25
    seen: list[float] = []
    copied: list[float] = []
    original = SceneRenderer.encode_views

    def encode(self: SceneRenderer, views: Any, scene: str, pose_scale: float = 1.0) -> Any:
        seen.append(pose_scale)
        return original(self, views, scene, pose_scale)

    def copy(context: Any, target: Any, device: Any, pose_scale: float) -> Any:
        copied.append(pose_scale)
        return copied_pictures(context, target, device, pose_scale)

    monkeypatch.setattr(SceneRenderer, "encode_views", encode)
    monkeypatch.setattr("scenetok_ns.evaluation.scene_evaluation.copied_pictures", copy)
    run.run()
    assert seen == copied == [0.25] * 3


def test_the_nearest_view_does_not_depend_on_the_units_of_a_capture() -> None:
    """A step of 10 cm is nearer than a turn by a quarter circle. This must also hold in millimetres."""
    turned, ahead, target = torch.eye(4).repeat(3, 1, 1)
    turned[[0, 2], [2, 0]], turned[[0, 2], [0, 2]] = torch.tensor([1.0, -1.0]), torch.tensor(0.0)
    ahead[2, 3] = 0.1
    for units in (1.0, 1000.0):
        context, view = scaled_poses(torch.stack([turned, ahead]), units), target[None]
        assert nearest_view(context, view, 1 / units).tolist() == [1]
    assert nearest_view(context, view, 1.0).tolist() == [0]  # without the scale, the step counts like 100 radians


def test_pictures_for_a_report(pipeline: SceneTokPipeline, measures: Measures, tmp_path: Path) -> None:
    run = evaluation(pipeline, measures, tmp_path)
    run.write_pictures = for_report(run.folder)
    run.run()
    names = sorted(path.name for path in run.folder.pictures("test0").iterdir())
    assert len([name for name in names if name.startswith("context_")]) == NUM_CONTEXT
    assert len([name for name in names if name.startswith("pred_")]) == TARGETS
    truth = run.folder.pictures("test0") / f"truth_{pipeline.datamanager.scenes.scene(0).target[0]:05d}.jpg"
    pixel = pipeline.datamanager.scenes.target_views(0).images[0, :, 8, 8].tolist()
    assert all(abs(a - b) < 6 for a, b in zip(Image.open(truth).getpixel((8, 8)), pixel, strict=True))


def make_unreadable(patch: pytest.MonkeyPatch, key: str, reason: str) -> None:
    """Make the reading of a scene's photographs fail."""
    original = SceneEvaluation._load

    def load(self: SceneEvaluation, scene: Any) -> Any:
        if scene.scene.key == key:
            raise BadScene(reason, key)
        return original(self, scene)

    patch.setattr(SceneEvaluation, "_load", load)


def test_a_damaged_target_skips_the_scene(
    pipeline: SceneTokPipeline, measures: Measures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []
    with monkeypatch.context() as patch:
        make_unreadable(patch, "test1", "frame 5 cannot be decoded")
        run = evaluation(pipeline, measures, tmp_path, baselines=True, batch_scenes=2)
        found = figures(run)
        assert found["num_scenes"] == 2 and found["num_skipped_scenes"] == 2
        assert run.folder.skipped(run.keys)["test1"] == "frame 5 cannot be decoded"
        run.write_pictures = lambda scene: rendered.append(scene.key)
        assert figures(run) == found and not rendered
    # It can be read when the evaluation continues.
    assert figures(run)["num_scenes"] == 3 and rendered == ["test1"]
    assert set(whole.all_skipped(run)) == {"test-bad"}
    assert not list((tmp_path / "scenes").glob("test1.skipped*"))


def test_pictures_are_named_alike_however_an_evaluation_went(
    pipeline: SceneTokPipeline, measures: Measures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scene becomes readable between a kill and the continuation. No picture may get another picture's name."""

    def run(name: str) -> dict[str, bytes]:
        run = evaluation(pipeline, measures, tmp_path / name)
        run.write_pictures = side_by_side(tmp_path / f"{name}-views")
        run.run()
        return {path.name: path.read_bytes() for path in (tmp_path / f"{name}-views").iterdir()}

    undisturbed = run("undisturbed")
    with monkeypatch.context() as patch:
        make_unreadable(patch, "test0", "its disk was not there")
        assert len(run("continued")) == 2 * TARGETS
    assert run("continued") == undisturbed
    targets = {key: pipeline.datamanager.scenes.scene(n).target for n, key in enumerate(("test0", "test1", "test2"))}
    assert set(undisturbed) == {
        f"eval_img_{key}_{frame:04d}.png" for key, target in targets.items() for frame in target
    }


def test_a_scene_without_targets_is_skipped(
    pipeline: SceneTokPipeline, measures: Measures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = pipeline.datamanager.scenes.scene

    def scene(number: int) -> Any:
        found = original(number)
        return replace(found, target=found.target[:0]) if number == 1 else found

    monkeypatch.setattr(pipeline.datamanager.scenes, "scene", scene)
    run = evaluation(pipeline, measures, tmp_path)
    assert figures(run)["num_scenes"] == 2
    assert run.folder.skipped(run.keys)["test1"] == "no views to compare with"


@pytest.fixture(autouse=True)
def clean(pipeline: SceneTokPipeline) -> Iterator[None]:
    """Make scenes usable again after each test."""
    yield
    for key in ("test0", "test1"):
        pipeline.datamanager.scenes.source.skipped.reasons.pop(key, None)


def test_depth_is_measured_where_the_data_has_it(
    pipeline: SceneTokPipeline, measures: Measures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Depth is measured with a depth head, and by a plane sweep without one.

    A scene with a view of unknown depth gets no depth metrics, and other metrics do not change.
    """
    source = pipeline.model.renderer.scenes.source
    plain_scene = type(source).scene
    networks = pipeline.model.scenetok
    monkeypatch.setattr(networks, "depth", DepthSource(new_depth_head(networks.preset, networks.denoiser).eval()))

    def with_depth(self: Any, key: str) -> Any:
        known = 0.0 if key == "test1" else 1 / TYPICAL_INVERSE
        return replace(plain_scene(self, key), read_depth=lambda index: torch.full((36, 64), known))

    without = figures(evaluation(pipeline, measures, tmp_path / "plain"))
    monkeypatch.setattr(type(source), "scene", with_depth)
    run = evaluation(pipeline, measures, tmp_path / "head")
    found = figures(run)
    assert found.items() >= without.items() and "depth_abs_rel" not in without
    assert found["depth_abs_rel"] == pytest.approx(0, abs=1e-5) and found["depth_delta1"] == 1  # as heads begin
    views = {record.key: record.measured.views for record in run.folder.records(run.keys)}
    assert "depth_abs_rel" not in views["test1"] and len(views["test0"]["depth_abs_rel"]) == TARGETS
    monkeypatch.setattr(networks, "depth", DepthSource())
    swept = figures(evaluation(pipeline, measures, tmp_path / "swept"))
    assert swept["depth_abs_rel"] > 0.01 and swept["psnr"] == found["psnr"]
