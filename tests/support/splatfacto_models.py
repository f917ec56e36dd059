"""Nerfstudio's splatfacto, filled from a PLY by the names of its properties alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models import splatfacto
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from plyfile import PlyData
from support.torch_rasterizer import rasterize
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.splats.gaussians import Gaussians


class NoLpips(torch.nn.Module):
    """Stand-in for a metric that downloads weights when it is created."""

    def __init__(self, normalize: bool) -> None:
        super().__init__()


def splatfacto_with(path: Path, degree: int, monkeypatch: pytest.MonkeyPatch) -> SplatfactoModel:
    """A splatfacto model at the end of its training whose Gaussians are those of the file.

    Harmonics that the file lacks are zero. A model of degree 0 keeps colours as logits.
    """
    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", NoLpips)
    config = SplatfactoModelConfig(num_random=10, sh_degree=degree, background_color="black")
    box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
    model = config.setup(scene_box=box, num_train_data=1).eval()
    vertex = PlyData.read(path)["vertex"]
    count = (degree + 1) ** 2 - 1
    there = {p.name for p in vertex.properties}

    def columns(*names: str) -> Tensor:
        values = [vertex[name] if name in there else np.zeros(vertex.count, np.float32) for name in names]
        return torch.from_numpy(np.stack(values, axis=1))

    constant = columns(*(f"f_dc_{i}" for i in range(3)))
    if degree == 0:
        constant = (0.28209479177387814 * constant + 0.5).logit(1e-6)
    rest = torch.zeros(vertex.count, 0) if degree == 0 else columns(*(f"f_rest_{i}" for i in range(3 * count)))
    state: dict[str, Any] = {
        "means": columns("x", "y", "z"),
        "scales": columns(*(f"scale_{i}" for i in range(3))),
        "quats": columns(*(f"rot_{i}" for i in range(4))),
        "opacities": columns("opacity"),
        "features_dc": constant,
        "features_rest": rest.reshape(vertex.count, 3, count).mT.contiguous(),
    }
    model.load_state_dict({**model.state_dict(), **{f"gauss_params.{name}": v for name, v in state.items()}})
    return model


def plain_rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    render_mode: str,
    **others: Any,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Replace gsplat's function in splatfacto's first 1,000 steps, without a GPU and with constant harmonics only."""
    gaussians = Gaussians(means, scales.log(), quats, opacities.logit(), colors[:, :1], colors[:, 1:1])
    intrinsics = Ks / Ks.new_tensor([[width], [height], [1.0]])
    cameras = CameraBatch(torch.linalg.inv(viewmats)[None], intrinsics[None])
    drawn = rasterize(gaussians, cameras, (height, width), others["near_plane"])
    picture = torch.cat([drawn.rgb, drawn.depth], dim=1)[:, : 4 if "D" in render_mode else 3]
    return picture.permute(0, 2, 3, 1), drawn.alpha.permute(0, 2, 3, 1), {"means2d": means[None] * 1}


def run_splatfacto_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace splatfacto's CUDA kernels, and turn off densification, which begins after 500 steps."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *args, **options: self)
    monkeypatch.setattr(splatfacto, "rasterization", plain_rasterization)
    monkeypatch.setattr(splatfacto, "get_viewmat", splatfacto.get_viewmat.__wrapped__)
    monkeypatch.setattr(splatfacto.DefaultStrategy, "step_post_backward", lambda *args, **options: None)
