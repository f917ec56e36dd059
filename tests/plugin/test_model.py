"""Rendering behind the one-camera interface."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException, SetTrace
from support.small_runs import IMAGE_SIZE, PRESET, randomize, small_config, small_pipeline, write_small_re10k

from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.models.depth_weights import DepthSource, new_depth_head
from scenetok_ns.models.flow.rectified_flow import euler_step
from scenetok_ns.models.networks.depth_head import TYPICAL_INVERSE
from scenetok_ns.models.presets import load_preset
from scenetok_ns.plugin.model import SceneTokModel, SceneTokModelConfig
from scenetok_ns.plugin.pipeline import SceneTokPipeline
from scenetok_ns.rendering import ray_outputs
from scenetok_ns.rendering.path_renderer import scene_path
from scenetok_ns.tools.errors import UsageError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"))


@pytest.fixture
def pipeline(data: Path) -> SceneTokPipeline:
    pipeline = small_pipeline(data)
    pipeline.eval()
    return pipeline


def walk_path(n: int, height: int = IMAGE_SIZE, width: int = IMAGE_SIZE) -> Cameras:
    poses = torch.eye(4).repeat(n, 1, 1)[:, :3]
    poses[:, 2, 3] = torch.linspace(0, 0.5, n)
    return Cameras(poses, fx=30.0, fy=30.0, cx=width / 2, cy=height / 2, width=width, height=height)


def count_samplings(model: SceneTokModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the paths that are sampled from now on."""
    lengths: list[int] = []
    sample = model.renderer.path_renderer._sample

    def counted(scene: int, cameras: Any, on_step: Callable[[int, int], None]) -> Any:
        lengths.append(cameras.num_views)
        return sample(scene, cameras, on_step)

    monkeypatch.setattr(model.renderer.path_renderer, "_sample", counted)
    return lengths


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 30])
def test_frames_of_a_path_are_sampled_jointly(
    pipeline: SceneTokPipeline, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    model, path = pipeline.model, walk_path(n)
    lengths = count_samplings(model, monkeypatch)
    frames = [model.get_outputs_for_camera(path[i : i + 1])["rgb"] for i in range(n)]
    assert lengths == [n]
    whole = model.renderer.render(model.renderer.tokens_of(0), nerfstudio_to_camera_batch(path))
    torch.testing.assert_close(torch.stack(frames), whole.permute(0, 2, 3, 1))


def test_out_of_order_and_repeated_requests_give_the_same_frames(pipeline: SceneTokPipeline) -> None:
    model, path = pipeline.model, walk_path(20)
    frames = [model.get_outputs_for_camera(path[i : i + 1])["rgb"] for i in range(20)]
    for i in (19, 3, 3, 12, 0):
        torch.testing.assert_close(model.get_outputs_for_camera(path[i : i + 1])["rgb"], frames[i])


def test_frames_far_behind_are_dropped_and_made_again(
    pipeline: SceneTokPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scenetok_ns.rendering.path_renderer.KEPT_BEHIND", 4)
    model, path = pipeline.model, walk_path(24)
    lengths = count_samplings(model, monkeypatch)
    first = model.get_outputs_for_camera(path[0:1])["rgb"]
    model.get_outputs_for_camera(path[23:24])
    torch.testing.assert_close(model.get_outputs_for_camera(path[0:1])["rgb"], first)
    assert lengths == [24, 24]
    (kept,) = model.renderer.path_renderer._paths.values()
    assert len(kept.frames) < 24


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 48), (51, 17), (200, 120)])
def test_outputs_have_exactly_the_requested_size(pipeline: SceneTokPipeline, height: int, width: int) -> None:
    outputs = pipeline.model.get_outputs_for_camera(walk_path(1, height, width)[0:1], obb_box=None)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "rgb": (height, width, 3),
        "depth": (height, width, 1),
        "accumulation": (height, width, 1),
        "uncertainty": (height, width, 1),
    }
    assert outputs["rgb"].min() >= 0 and outputs["rgb"].max() <= 1
    assert pipeline.model.get_rgba_image(outputs).shape == (height, width, 4)


def test_data_set_cameras_render_their_own_scene(pipeline: SceneTokPipeline) -> None:
    """Evaluation mixes scenes; each is rendered from its own tokens and as its own path."""
    model, datamanager = pipeline.model, pipeline.datamanager
    frames: dict[int, list[torch.Tensor]] = {}
    for camera, _ in datamanager.fixed_indices_eval_dataloader:
        frames.setdefault(int(camera.metadata["scene_idx"]), []).append(model.get_outputs_for_camera(camera)["rgb"])
    for number, of_scene in frames.items():
        cameras = nerfstudio_to_camera_batch(datamanager.scenes.data_set(number, "target").cameras)
        whole = model.renderer.render(model.renderer.tokens_of(number), cameras)
        torch.testing.assert_close(torch.stack(of_scene), whole.permute(0, 2, 3, 1))
    assert len(frames) == 3


def test_path_ends_where_another_scene_begins() -> None:
    cameras = walk_path(7)
    cameras.metadata = {"scene_idx": torch.tensor([4, 4, 4, 2, 2, 4, 4])[:, None]}
    found = [scene_path(cameras[i : i + 1], active_scene=9) for i in range(7)]
    assert [scene for scene, _, _ in found] == [4, 4, 4, 2, 2, 4, 4]
    assert [len(path) for _, path, _ in found] == [3, 3, 3, 2, 2, 2, 2]
    assert [index for _, _, index in found] == [0, 1, 2, 0, 1, 0, 1]
    for i, (_, path, index) in enumerate(found):
        assert torch.equal(path.camera_to_worlds[index], cameras.camera_to_worlds[i])
    assert scene_path(walk_path(3)[1:2], active_scene=9)[0] == 9


def test_seed_and_tokens_decide_the_picture(pipeline: SceneTokPipeline) -> None:
    model, path = pipeline.model, walk_path(1)
    first = model.get_outputs_for_camera(path[0:1])["rgb"]
    other = replace(model.renderer, settings=replace(model.renderer.settings, seed=1))
    assert not torch.equal(other.outputs(path[0:1])["rgb"], first)
    torch.testing.assert_close(model.get_outputs_for_camera(path[0:1])["rgb"], first)


def test_a_training_step_makes_tokens_and_frames_anew(pipeline: SceneTokPipeline) -> None:
    model, path = pipeline.model, walk_path(1)
    first, tokens = model.get_outputs_for_camera(path[0:1])["rgb"], model.renderer.tokens_of(0).mean
    pipeline.train()
    pipeline.get_train_loss_dict(0)
    with torch.no_grad():
        for parameter in model.scenetok.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    pipeline.eval()
    assert not torch.equal(model.renderer.tokens_of(0).mean, tokens)
    assert not torch.equal(model.get_outputs_for_camera(path[0:1])["rgb"], first)


@pytest.mark.parametrize(("engine", "options"), [("auto", "auto"), ("exact", "exact"), ("off", None)])
def test_the_engine_is_the_configurations(data: Path, engine: str, options: str | None) -> None:
    config = small_config(data, Path("unused"), PRESET).pipeline
    config.model.engine = engine
    assert config.setup(device="cpu", test_mode="test").model.scenetok.engine_options == options


def test_an_engine_that_does_not_exist_is_told(data: Path) -> None:
    config = small_config(data, Path("unused"), PRESET).pipeline
    config.model.engine = "fast"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="expected auto, exact, off, got 'fast'"):
        config.setup(device="cpu", test_mode="test")


def fisheye() -> Cameras:
    path = walk_path(1, 40, 60)
    path.camera_type = torch.full_like(path.camera_type, CameraType.FISHEYE.value)
    return path


def test_tools_get_errors_as_they_are(pipeline: SceneTokPipeline) -> None:
    with pytest.raises(ValueError, match="fisheye"):
        pipeline.model.get_outputs_for_camera(fisheye()[0:1])


def test_uncertainty_is_that_of_the_frame(pipeline: SceneTokPipeline) -> None:
    """Frames of one latent share theirs, and it is the norm of the last velocity of that latent."""
    model, path = pipeline.model, walk_path(30)
    randomize(pipeline)
    maps = torch.stack([model.get_outputs_for_camera(path[i : i + 1])["uncertainty"][..., 0] for i in range(30)])
    windows = model.scenetok.render_windows(
        model.renderer.tokens_of(0), nerfstudio_to_camera_batch(path), seed=0, sampler=model.renderer.settings.sampler
    )
    parts = [part for window in windows for part in window.denoised]
    norms = torch.cat([part.uncertainty[0, part.first - part.window_first :] for part in parts])
    assert torch.equal(maps[0], maps[3]) and not torch.equal(maps[3], maps[4])
    channels = model.scenetok.target_autoencoder.space.channels
    torch.testing.assert_close(maps[::4].mean((1, 2)), norms[:8].mean((1, 2)) / (2 * channels**0.5))


def test_viewer_interrupts_between_steps_and_leaves_nothing_half_done(
    pipeline: SceneTokPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = pipeline.model, walk_path(1)
    expected = model.get_outputs_for_camera(path[0:1])["rgb"]
    model.renderer.path_renderer._paths.clear()
    steps = 0
    traced, interrupts = [], []

    def counted_step(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        traced.append(sys.gettrace())
        return euler_step(*args)

    def interrupt(frame: Any, event: str, arg: Any) -> Any:
        if event == "line" and steps == 1 and not interrupts:
            interrupts.append(frame)
            raise IOChangeException
        return interrupt

    monkeypatch.setattr("scenetok_ns.models.flow.sampling.euler_step", counted_step)
    with pytest.raises(IOChangeException), SetTrace(interrupt):
        model.get_outputs_for_camera(path[0:1])
    assert steps == 1 and traced == [None]
    assert not model.renderer.path_renderer._paths
    torch.testing.assert_close(model.get_outputs_for_camera(path[0:1])["rgb"], expected)


def test_trace_function_is_put_back(pipeline: SceneTokPipeline) -> None:
    def trace(frame: Any, event: str, arg: Any) -> Any:
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        pipeline.model.get_outputs_for_camera(walk_path(1)[0:1])
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)


def test_exporters_get_rays_of_the_context_views_and_their_outputs(
    pipeline: SceneTokPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, networks = pipeline.datamanager, pipeline.model.scenetok
    monkeypatch.setattr(networks, "depth", DepthSource(new_depth_head(networks.preset, networks.denoiser).eval()))
    monkeypatch.setattr(ray_outputs, "LEAST", 0.0)
    monkeypatch.setattr(manager.train_pixel_sampler, "num_rays_per_batch", 40)
    rays, _ = manager.next_train(0)
    found = pipeline.model(rays)
    assert found["rgb"].shape == (40, 3) and found["depth"].shape == (40, 1)
    # An untrained head sees one depth along the axis; along the rays it is that or more.
    assert (found["depth"] >= 0.999 / TYPICAL_INVERSE).all() and found["depth"].std() > 0
    cameras = manager.train_dataset.cameras
    whole = pipeline.model.get_outputs_for_camera_ray_bundle(cameras.generate_rays(camera_indices=0))
    assert whole["depth"].shape == (int(cameras.height[0]), int(cameras.width[0]), 1)
    moved = cameras.generate_rays(camera_indices=0)
    moved.origins = moved.origins + 1
    with pytest.raises(UsageError, match="whole pictures"):
        pipeline.model.get_outputs_for_camera_ray_bundle(moved)


def test_missing_weights_of_a_released_preset_are_named() -> None:
    config = SceneTokModelConfig(preset="re10k")
    with pytest.raises(ValueError, match=r"(?i)va-?vae"):
        config.setup(scene_box=None, num_train_data=1, scenes=None)
    assert load_preset("re10k").context_autoencoder.name == "vavae"


def test_options_override_the_sampler(data: Path) -> None:
    config = small_config(data, Path("unused"), PRESET).pipeline
    config.model.steps, config.model.guidance = 7, 1.5
    model = config.setup(device="cpu", test_mode="test").model
    sampler = model.renderer.settings.sampler
    assert (sampler.steps, sampler.guidance, sampler.window) == (7, 1.5, model.preset.sampler.window)
