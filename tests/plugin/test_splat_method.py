"""scenetok-splat: splats from few photographs and rendered views; gsplat's kernels are replaced on a CPU."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.scripts import train
from support.released_files import random_state, write_lightning
from support.small_runs import IMAGE_SIZE, PRESET, write_run, write_small_re10k
from support.small_splats import ring_of_cameras
from support.splatfacto_models import run_splatfacto_without_a_gpu

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import load_preset
from scenetok_ns.plugin.methods import scenetok_splat
from scenetok_ns.plugin.splat_datamanager import SplatDataManager, load_networks
from scenetok_ns.plugin.splat_model import SplatModel
from scenetok_ns.rendering.dataset_export import write_dataset
from scenetok_ns.rendering.views import RenderedViews

PHOTOGRAPHS = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`capture`, two photographs and one to evaluate on, and `small.ckpt`, a tokenizer."""
    folder = tmp_path_factory.mktemp("splat")
    state = {key: 0.2 * value for key, value in random_state(load_preset(str(PRESET))).items()}
    write_lightning(folder / "small.ckpt", state)
    cameras = ring_of_cameras(PHOTOGRAPHS + 1)
    frames = torch.rand(PHOTOGRAPHS + 1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    views = RenderedViews(frames, cameras)
    (folder / "capture").mkdir()
    write_dataset(folder / "capture", views.select(torch.arange(PHOTOGRAPHS)), views.select(torch.tensor([2])), None)
    return folder


def config_of(root: Path, **fields: Any) -> TrainerConfig:
    config = copy.deepcopy(scenetok_splat.config)
    config.machine.device_type, config.vis = "cpu", "none"
    config.output_dir, config.experiment_name, config.timestamp = root / "out", "splat", "run"
    config.logging.local_writer.enable = False
    manager = config.pipeline.datamanager
    config.data = manager.data = root / "capture"
    values = {
        "preset": str(PRESET),
        "tokenizer": root / "small.ckpt",
        "num_renders": 6,
        "refine_at": None,
        "least_psnr": 0.0,
        "num_points": 50,
    }
    for name, value in {**values, "render_steps": 1, **fields}.items():
        setattr(manager, name, value)
    return config


@pytest.fixture(scope="module")
def manager(root: Path) -> SplatDataManager:
    """One that refines at step 5."""
    config = config_of(root, refine_at=5, refine_steps=1, anneal_steps=10, render_share=(1.0, 1.0)).pipeline
    return config.datamanager.setup(device="cpu", test_mode="val")


def test_views_come_with_weights_that_fall_where_photographs_show_the_same(manager: SplatDataManager) -> None:
    points = manager.train_dataparser_outputs.metadata["points3D_xyz"]
    assert 0 < len(points) <= 50 and points.isfinite().all()
    camera, batch = manager.next_train(0)
    assert batch["image"].shape == (40, 40, 3) and camera.width.item() == 40
    views = manager._views
    assert views is not None and len(views.images) == 6
    number = int(views.shown.amax(dim=(1, 2, 3)).argmax())
    shown, certainty = views.shown[number], views.certainty[number]
    begin, end = (views.batch(number, weight)[1]["weight"] for weight in (0.5, 0.0))
    unseen = shown == 0
    assert torch.equal(end[unseen], certainty[unseen]) and torch.equal(begin[unseen], certainty[unseen])
    assert torch.equal(begin[~unseen], certainty[~unseen] / 2)
    assert torch.equal(end, certainty * 0.25**shown) and float(shown.max()) > 1
    assert float(begin.min()) >= 0 and float(begin.max()) <= 1


def test_views_are_rendered_once_more_from_refined_tokens(manager: SplatDataManager) -> None:
    before = manager._views
    manager.next_train(4)
    assert manager._views is before
    manager.next_train(5)
    after = manager._views
    assert before is not None and after is not None and not torch.equal(before.images, after.images)
    assert torch.equal(before.cameras.camera_to_worlds, after.cameras.camera_to_worlds)
    manager.next_train(6)
    assert manager._views is after and manager._scene is None  # the networks' memory is free again


def test_a_model_that_cannot_show_the_photographs_is_not_asked_for_the_rest(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gaussians start at points of a plane sweep, and all steps see photographs without depth."""
    found = config_of(root, least_psnr=60.0, render_share=(1.0, 1.0), refine_at=5).pipeline.datamanager.setup(
        device="cpu"
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "the model renders the photographs at" in said and "least-psnr 0" in said
    points = found.train_dataparser_outputs.metadata["points3D_xyz"]
    assert 0 < len(points) <= 50 and points.isfinite().all()
    assert found._views is None and found._scene is None
    for step in (0, 5):
        _, batch = found.next_train(step)
        assert "weight" not in batch and "depth" not in batch


def test_too_few_rendered_views_are_refused_before_anything_is_read(root: Path) -> None:
    config = config_of(root, num_renders=3, tokenizer=root / "missing.ckpt").pipeline.datamanager
    with pytest.raises(ValueError, match="num-renders must be 0 or at least 6, got 3"):
        config.setup(device="cpu")


def test_without_a_gpu_nothing_is_begun(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ns-train ends before it writes a run folder."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = config_of(root)
    config.output_dir = root / "none"
    with pytest.raises(ImportError, match="needs an NVIDIA GPU; none was found here"):
        train.main(config)
    assert not config.output_dir.exists()


def test_tools_that_only_look_render_nothing(root: Path) -> None:
    found = config_of(root).pipeline.datamanager.setup(device="cpu", test_mode="test")
    assert found._views is None and "points3D_xyz" not in found.train_dataparser_outputs.metadata


def test_training_takes_steps_on_both_and_its_run_opens(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_splatfacto_without_a_gpu(monkeypatch)
    config = config_of(root, render_share=(0.3, 0.3))
    config.max_num_iterations = 8
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    model = trainer.pipeline.model
    assert isinstance(model, SplatModel) and not model.has_lpips
    before = model.means.detach().clone()
    kinds, losses = set(), []
    for step in range(8):
        trainer.pipeline.train()
        model.step_cb(trainer.optimizers, step)
        camera, batch = trainer.pipeline.datamanager.next_train(step)
        kinds.add("weight" in batch)
        outputs = model(camera)
        found = model.get_loss_dict(outputs, batch)
        assert {"main_loss", "depth_loss"} <= set(found) and all(value.isfinite().all() for value in found.values())
        losses.append(sum(found.values()))
        trainer.optimizers.zero_grad_all()
        losses[-1].backward()
        trainer.optimizers.optimizer_step_all()
    assert kinds == {True, False} and not torch.equal(before, model.means)
    trainer.save_checkpoint(7)
    opened = config.pipeline.setup(device="cpu", test_mode="test")
    state = torch.load(trainer.checkpoint_dir / "step-000000007.ckpt", map_location="cpu", weights_only=True)
    opened.load_pipeline(state["pipeline"], 7)
    assert torch.equal(opened.model.means, model.means)
    metrics = opened.get_average_eval_image_metrics()
    assert metrics["psnr"] > 0 and "lpips" not in metrics


def test_a_pixel_without_weight_asks_for_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_splatfacto_without_a_gpu(monkeypatch)
    config = config_of(root, num_renders=0)
    model = config.pipeline.setup(device="cpu", test_mode="val").model.train()
    torch.manual_seed(0)
    rgb = torch.rand(16, 16, 3, requires_grad=True)
    depth, alpha = torch.full((16, 16, 1), 2.0, requires_grad=True), torch.ones(16, 16, 1)
    outputs = {"rgb": rgb, "depth": depth, "accumulation": alpha, "background": torch.zeros(3)}
    batch = {"image": torch.rand(16, 16, 3), "depth": torch.ones(16, 16, 1), "weight": torch.zeros(16, 16, 1)}
    assert float(model.get_loss_dict(outputs, batch)["main_loss"]) == pytest.approx(0, abs=1e-5)
    batch["weight"][:8] = 1.0
    losses = model.get_loss_dict(outputs, batch)
    (losses["main_loss"] + losses["depth_loss"]).backward()
    assert rgb.grad is not None and depth.grad is not None
    assert rgb.grad[:8].abs().mean() > 100 * rgb.grad[14:].abs().max()  # SSIM looks some pixels around
    assert depth.grad[:8].min() > 0 and not depth.grad[8:].any()
    plain = model.get_loss_dict(outputs, {name: batch[name] for name in ("image", "depth")})
    assert float(plain["depth_loss"].detach()) == pytest.approx(model.config.depth_weight * math.log(2.0), rel=1e-4)


def test_a_run_folder_says_which_networks_it_has(root: Path) -> None:
    run = write_run(write_small_re10k(root / "data"), root / "runs")
    config = config_of(root, tokenizer=run, preset="re10k").pipeline.datamanager
    assert load_networks(config, "cpu").preset == load_preset(str(PRESET))
    splat = config_of(root)
    splat.save_config()
    config.tokenizer = splat.get_base_dir()
    with pytest.raises(ValueError, match=r"of a scenetok run .its method is scenetok-splat"):
        load_networks(config, "cpu")
    config.tokenizer = None
    with pytest.raises(ValueError, match="weights of preset re10k were not found: run `scenetok download re10k`"):
        load_networks(config, "cpu")


def test_the_size_of_photographs_and_units_are_those_of_the_capture(root: Path) -> None:
    frames, cameras = config_of(root, num_renders=0).pipeline.datamanager.setup(device="cpu")._photographs(IMAGE_SIZE)
    assert frames.shape == (PHOTOGRAPHS, 3, IMAGE_SIZE, IMAGE_SIZE) and isinstance(cameras, CameraBatch)
