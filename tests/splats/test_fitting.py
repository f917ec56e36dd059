"""Fitting of Gaussians, with the plain rasterizer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_splats import blobs, ring_of_cameras, row_of_cameras, wall
from support.torch_rasterizer import rasterize

from scenetok_ns.models.cameras import CameraBatch, scaled_poses
from scenetok_ns.models.metrics import psnr
from scenetok_ns.splats.fitting import FitOptions, epochs, fit_gaussians, picture_loss, regularisation
from scenetok_ns.splats.gaussians import Gaussians
from scenetok_ns.splats.rasterizer import render_splat, require_gsplat

SIZE = (16, 16)


def test_a_fit_gets_views_right_that_it_has_not_seen() -> None:
    """A fit from paler, smaller and more transparent Gaussians improves held-out views by more than 4 dB."""
    cameras, scene = row_of_cameras(16), wall(12)
    truth = render_splat(scene, cameras, SIZE, rasterize).rgb
    train, held_out = cameras.select(list(range(0, 16, 2))), cameras.select(list(range(1, 16, 2)))
    start = Gaussians(
        **{**scene.tensors(), "opacities": scene.opacities - 5, "scales": scene.scales - 0.5, "sh0": 0.8 * scene.sh0}
    )
    kept = {name: value.clone() for name, value in start.tensors().items()}
    seen: list[int] = []
    options = FitOptions(iterations=100, batch_size=4)
    found = fit_gaussians(start, truth[::2], train, options, rasterize, on_step=lambda done, total: seen.append(done))
    assert seen == list(range(1, 101))
    before = psnr(pred=render_splat(start, held_out, SIZE, rasterize).rgb, target=truth[1::2]).mean()
    after = psnr(pred=render_splat(found, held_out, SIZE, rasterize).rgb, target=truth[1::2]).mean()
    assert after > before + 4, (before, after)
    for name, value in start.tensors().items():
        torch.testing.assert_close(value, kept[name], rtol=0, atol=0)
        assert not getattr(found, name).requires_grad


def test_the_same_seed_gives_the_same_fit_and_a_refinement_has_its_say() -> None:
    cameras = ring_of_cameras(4)
    truth = render_splat(blobs(6), cameras, SIZE, rasterize).rgb
    start = blobs(8, seed=1)
    rates = []

    def refine(parameters: dict, optimizers: dict, step: int, means_rate: float) -> None:
        assert set(parameters) == set(optimizers) == set(start.tensors())
        rates.append(means_rate)
        parameters["opacities"].data.fill_(-9.0)

    options = FitOptions(iterations=6, batch_size=2)
    first, second = (fit_gaussians(start, truth, cameras, options, rasterize) for _ in range(2))
    torch.testing.assert_close(first.means, second.means, rtol=0, atol=0)
    other = fit_gaussians(start, truth, cameras, FitOptions(6, 2, seed=1), rasterize)
    assert not torch.equal(first.means, other.means)
    faded = fit_gaussians(start, truth, cameras, options, rasterize, refine)
    assert (faded.opacities == -9.0).all() and len(rates) == 6
    assert rates[-1] < rates[0] and rates[-1] / rates[0] == pytest.approx(0.01 ** (5 / 6))


@given(count=st.integers(1, 20), iterations=st.integers(1, 30), batch=st.integers(1, 12))
def test_every_view_comes_before_any_comes_again(count: int, iterations: int, batch: int) -> None:
    order = epochs(count, FitOptions(iterations, batch), torch.Generator().manual_seed(0))
    assert order.shape == (iterations, min(batch, count))
    flat = order.flatten().tolist()
    for first in range(0, len(flat) - count + 1, count):
        assert sorted(flat[first : first + count]) == list(range(count))


def test_losses_see_differences_holes_and_waste() -> None:
    pictures = torch.rand(2, 3, 16, 16)
    assert picture_loss(pictures, pictures).abs() < 1e-6
    assert picture_loss(pictures.flip(-1), pictures) > 0.2
    made = blobs(5)
    big = Gaussians(**{**made.tensors(), "scales": made.scales + 2})
    opaque = Gaussians(**{**made.tensors(), "opacities": made.opacities + 3})
    base = regularisation(made)
    assert regularisation(big) > base and regularisation(opaque) > base


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_the_units_of_the_world_do_not_matter(factor: float) -> None:
    cameras = ring_of_cameras(4)
    far = CameraBatch(scaled_poses(cameras.c2w, factor), cameras.intrinsics)
    start, shown = blobs(8, seed=1), blobs(6)
    pictures = [render_splat(g, c, SIZE, rasterize) for g, c in ((shown, cameras), (shown.scaled(factor), far))]
    torch.testing.assert_close(pictures[0].rgb, pictures[1].rgb, atol=1e-4, rtol=0)
    torch.testing.assert_close(pictures[0].depth * factor, pictures[1].depth, atol=1e-3 * factor, rtol=0)
    assert pictures[0].alpha.mean() > 0.05

    def shake(parameters: dict, optimizers: dict, step: int, means_rate: float) -> None:
        parameters["means"].data.add_(means_rate)

    truth, options = pictures[0].rgb, FitOptions(iterations=6, batch_size=2)
    small = fit_gaussians(start, truth, cameras, options, rasterize, shake)
    large = fit_gaussians(start.scaled(factor), truth, far, options, rasterize, shake)
    assert (small.means - start.means).abs().max() > 1e-3
    torch.testing.assert_close(large.means / factor, small.means, atol=1e-4, rtol=0)
    torch.testing.assert_close(large.scaled(1 / factor).scales, small.scales, atol=1e-3, rtol=0)


def test_what_is_drawn_begins_right_before_the_camera() -> None:
    """An opaque Gaussian is drawn at a hundredth of the scene's extent; at a thousandth, the near plane cuts it off."""
    cameras, room = row_of_cameras(1), wall(6)
    for distance, drawn in ((0.01, True), (0.001, False)):
        spot = blobs(1)
        spot = Gaussians(
            **{
                **spot.tensors(),
                "means": cameras.c2w[0, :, :3, 3] + torch.tensor([0.0, 0.0, distance * room.extent]),
                "scales": torch.full((1, 3), -9.0),
                "opacities": torch.full((1,), 9.0),
            }
        )
        both = Gaussians(**{name: torch.cat([value, getattr(spot, name)]) for name, value in room.tensors().items()})
        plain, hidden = (render_splat(g, cameras, SIZE, rasterize).depth for g in (room, both))
        assert (hidden < 0.8 * plain).any() == drawn


def test_holes_are_filled_because_the_background_changes() -> None:
    """The frames are black. With a black background, empty space would fit them just as well."""
    cameras = ring_of_cameras(4)
    start = Gaussians(**{**blobs(20).tensors(), "opacities": torch.full((20,), -2.0)})
    found = fit_gaussians(start, torch.zeros(4, 3, *SIZE), cameras, FitOptions(60, 4), rasterize)
    alpha = [render_splat(g, cameras, SIZE, rasterize).alpha.mean() for g in (start, found)]
    assert alpha[1] > alpha[0] + 0.1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_there_is_a_clear_refusal() -> None:
    with pytest.raises(ImportError, match="needs an NVIDIA GPU"):
        require_gsplat()
