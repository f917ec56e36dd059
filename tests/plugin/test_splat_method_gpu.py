"""scenetok-splat on a CUDA device: better than splats alone where photographs are few; its runs are exported."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from nerfstudio.engine.trainer import Trainer

from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.plugin.methods import scenetok_splat
from scenetok_ns.rendering.dataset_export import write_dataset
from scenetok_ns.rendering.views import RenderedViews
from scenetok_ns.splats.gaussians import load_splat
from scenetok_ns.splats.rasterizer import require_gsplat

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
STEPS = 300


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs of a room, and six to evaluate on."""
    rooms = sample_rooms([scene_seed(0, "test", 0)])
    c2w = sample_walks(rooms, 48)
    frames = render_rooms(rooms, c2w, rooms.intrinsics, 64)[0]
    views = RenderedViews(frames, CameraBatch(c2w, rooms.intrinsics[:, None].expand(1, 48, 3, 3)))
    folder = tmp_path_factory.mktemp("capture")
    write_dataset(folder, views.select(torch.tensor([8, 40])), views.select(torch.arange(4, 48, 8)), None)
    return folder


def trained(capture: Path, output: Path, num_renders: int) -> Trainer:
    config = copy.deepcopy(scenetok_splat.config)
    config.vis, config.output_dir, config.experiment_name, config.timestamp = "none", output, "splat", "run"
    config.max_num_iterations, config.logging.local_writer.enable = STEPS, False
    manager = config.pipeline.datamanager
    config.data = manager.data = capture
    manager.num_renders, manager.anneal_steps, manager.refine_at, manager.refine_steps = num_renders, STEPS, 100, 20
    manager.engine, manager.pose_scale = "off", 1.0
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    config.save_config()
    trainer.train()
    return trainer


def test_rendered_views_fill_what_two_photographs_leave_out_and_the_run_is_exported(
    capture: Path, tmp_path: Path
) -> None:
    from nerfstudio.scripts.exporter import ExportGaussianSplat

    require_gsplat()
    alone, hybrid = (trained(capture, tmp_path / str(count), count) for count in (0, 24))
    before, after = (trainer.pipeline.get_average_eval_image_metrics()["psnr"] for trainer in (alone, hybrid))
    assert after > before + 2, (before, after)
    ExportGaussianSplat(load_config=hybrid.base_dir / "config.yml", output_dir=tmp_path / "export").main()
    assert len(load_splat(tmp_path / "export" / "splat.ply")) > 1000
