"""Training of depth heads: what a head is given, and losses that are least at the truth."""

from __future__ import annotations

import torch
from support.depth_scenes import WALL, wall_views
from support.small_models import small_model, views

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.rectified_flow import shift_time
from scenetok_ns.models.presets import load_preset
from scenetok_ns.training.depth import draw_depth, last_features, photometric_loss, swept_targets

SAMPLER = load_preset("scenetok-tiny").sampler


def test_times_are_those_before_last_steps_and_windows_may_go_on() -> None:
    draws = draw_depth(torch.Generator().manual_seed(0), (200, 8, 2, 1, 1), SAMPLER, 2)
    own = shift_time(1 / SAMPLER.steps, SAMPLER.timestep_shift or 1.0)
    last = draws.times[:, -1]
    assert 0.3 < ((last - own).abs() < 1e-5).float().mean() < 0.7 and last.min() > 0 and last.max() == 1
    clean = (draws.times == 0).float()
    assert (clean[:, :4] == clean[:, :1]).all() and not clean[:, 4:].any() and 0.3 < clean[:, 0].mean() < 0.7
    assert 0.3 < draws.own.float().mean() < 0.7
    torch.testing.assert_close(draws.times[:, 4:], last[:, None].expand(-1, 4))


def test_features_are_of_noised_truth_or_of_the_denoisers_own_estimate() -> None:
    model = small_model("1:1")
    tokens = model.encode(*views(3))
    state = model.denoiser.project(tokens.mean[None])
    cameras = CameraBatch(torch.eye(4).repeat(1, 8, 1, 1), torch.eye(3).repeat(1, 8, 1, 1))
    first, second = (torch.randn(1, 8, *model.denoiser.latent_shape) for _ in range(2))
    draws = draw_depth(torch.Generator().manual_seed(3), tuple(first.shape), SAMPLER, 1)  # type: ignore[arg-type]
    for own, same in ((False, False), (True, True)):
        draws.own.fill_(own)
        one, other = (last_features(model.denoiser, state, latents, cameras, draws) for latents in (first, second))
        assert one.features.shape == one.poses.shape and torch.equal(one.poses, other.poses)
        assert torch.allclose(one.features, other.features, atol=1e-5) == same


def test_neighbours_moved_by_the_true_depth_fit_best() -> None:
    frames, cameras, truth = wall_views(count=7, size=32)
    losses = [float(photometric_loss(-(factor * truth[None]).log(), frames[None], cameras)) for factor in (0.7, 1, 1.4)]
    assert losses[1] < 0.5 * min(losses[0], losses[2])


def test_the_photometric_loss_leads_a_wrong_depth_to_the_right_one() -> None:
    frames, cameras, truth = wall_views(count=5, size=24)
    log_inverse = torch.nn.Parameter(-(1.15 * truth[None]).log())
    optimizer = torch.optim.Adam([log_inverse], lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        photometric_loss(log_inverse, frames[None], cameras).backward()
        optimizer.step()
    off = ((-log_inverse).exp() / truth[None] - 1).abs()
    assert off.median() < 0.07


def test_swept_depth_counts_where_it_is_sure() -> None:
    frames, cameras, _ = wall_views(count=7, size=24)
    both = CameraBatch(cameras.c2w.repeat(2, 1, 1, 1), cameras.intrinsics.repeat(2, 1, 1, 1))
    depth, weight = swept_targets(torch.stack([frames, torch.full_like(frames, 0.5)]), both, [2, 4])
    assert depth.shape == weight.shape == (2, 2, 1, 24, 24)
    counted = weight[0] > 0
    assert counted.float().mean() > 0.5 and (depth[0][counted] / WALL - 1).abs().median() < 0.03
    assert not (weight[1] > 0).any()


def test_cameras_in_one_place_have_no_swept_depth() -> None:
    frames, cameras, _ = wall_views(count=3, size=24)
    still = CameraBatch(cameras.c2w[:, :1].expand(1, 3, 4, 4), cameras.intrinsics)
    _, weight = swept_targets(frames[None, :1].expand(1, 3, 3, 24, 24), still, [1])
    assert not weight.any()
