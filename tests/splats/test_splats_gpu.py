"""gsplat on a CUDA device gives the pictures and gradients of the plain rasterizer, and fits with relocation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.small_splats import blobs, ring_of_cameras
from support.splatfacto_models import splatfacto_with
from support.torch_rasterizer import rasterize as plain_rasterize

from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.dataparsers.camera_conversion import camera_batch_to_nerfstudio
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.metrics import psnr
from scenetok_ns.splats.fitting import FitOptions, Relocation, fit_gaussians
from scenetok_ns.splats.gaussians import Gaussians, load_splat, save_splat
from scenetok_ns.splats.points import gaussians_at, surface_points
from scenetok_ns.splats.rasterizer import gsplat_rasterize, render_splat, require_gsplat

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZE = (24, 32)


def test_gsplat_draws_what_the_plain_rasterizer_draws() -> None:
    require_gsplat()
    cameras = ring_of_cameras(3)
    results = []
    for device, rasterize in (("cpu", plain_rasterize), ("cuda", gsplat_rasterize)):
        values = {name: value.to(device).requires_grad_() for name, value in blobs(50, sh_degree=1).tensors().items()}
        drawn = rasterize(Gaussians(**values), cameras.to(device), SIZE, 0.01)
        (drawn.rgb.square().mean() + drawn.alpha.mean()).backward()
        gradients = {name: value.grad.cpu() for name, value in values.items() if value.grad is not None}
        results.append((drawn, gradients))
    (plain, expected), (fast, found) = results
    # gsplat leaves out contributions below 1/255 and stops at what is nearly opaque.
    assert (plain.rgb - fast.rgb.cpu()).abs().max() < 0.02
    assert (plain.alpha - fast.alpha.cpu()).abs().max() < 0.02
    solid = plain.alpha > 0.5
    assert solid.any() and (plain.depth - fast.depth.cpu())[solid].abs().max() < 0.05
    for name, gradient in expected.items():
        cosine = torch.cosine_similarity(gradient.flatten(), found[name].flatten(), dim=0)
        assert cosine > 0.98, f"{name}: {cosine}"


def test_a_fit_with_relocation_finds_a_room_and_keeps_to_its_limit() -> None:
    require_gsplat()
    rooms = sample_rooms([scene_seed(0, "test", 0)], "cuda")
    c2w = sample_walks(rooms, 48)
    truth = render_rooms(rooms, c2w, rooms.intrinsics, 48)[0]
    cameras = CameraBatch(c2w, rooms.intrinsics[:, None].expand(1, 48, 3, 3))
    number = torch.arange(48, device="cuda")
    train, held_out = number[number % 4 != 1], number[number % 4 == 1]
    start = gaussians_at(surface_points(truth[train], cameras.select(train)), limit=4000, sh_degree=0)
    found = fit_gaussians(
        start,
        truth[train],
        cameras.select(train),
        FitOptions(iterations=600),
        gsplat_rasterize,
        Relocation(limit=4400, iterations=600),
    )
    assert 4000 < len(found) <= 4400
    before, after = (
        psnr(pred=render_splat(g, cameras.select(held_out), (48, 48)).rgb, target=truth[held_out]).mean()
        for g in (start, found)
    )
    assert after > before + 3 and after > 20, (before, after)


def test_splatfacto_draws_our_file_as_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nerfstudio's splatfacto, with the Gaussians of our PLY and its own cameras, renders the same pictures."""
    require_gsplat()
    rooms = sample_rooms([scene_seed(0, "test", 0)], "cuda")
    c2w = sample_walks(rooms, 8)
    cameras = CameraBatch(c2w, rooms.intrinsics[:, None].expand(1, 8, 3, 3))
    truth = render_rooms(rooms, c2w, rooms.intrinsics, 48)[0]
    made = gaussians_at(surface_points(truth, cameras), limit=20_000, sh_degree=0)
    save_splat(made, tmp_path / "scene.ply")
    model = splatfacto_with(tmp_path / "scene.ply", 3, monkeypatch).cuda()
    ours = render_splat(load_splat(tmp_path / "scene.ply").to("cuda"), cameras, (48, 48)).rgb
    taken = camera_batch_to_nerfstudio(cameras, 48, 48)
    with torch.no_grad():
        theirs = torch.stack([model.get_outputs(taken[i : i + 1])["rgb"].permute(2, 0, 1) for i in range(8)])
    assert truth.std() > 0.1 and psnr(pred=ours, target=truth).mean() > 12
    agreement = psnr(pred=theirs, target=ours).mean()
    assert agreement > 45
