"""The depth head: units and confidence, loss, and frames in every temporal layout."""

from __future__ import annotations

import math

import pytest
import torch
from support.oracle import LAYOUTS

from scenetok_ns.models.networks.depth_head import DepthHead, DepthHeadConfig, as_depth, depth_loss
from scenetok_ns.models.presets import load_preset


def small_head(layout: str = "4:1") -> DepthHead:
    torch.manual_seed(0)
    head = DepthHead(DepthHeadConfig(features=8, grid=(2, 3), patch=4, width=64, depth=1), LAYOUTS[layout])
    torch.nn.init.normal_(head.last.weight, std=0.1)
    return head


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_frame_has_a_map_of_its_own(layout: str) -> None:
    head, latents = small_head(layout), 10
    features, poses = torch.randn(2, latents, 6, 8), torch.randn(2, latents, 6, 8)
    log_inverse, log_scale = head(features, poses)
    frames = LAYOUTS[layout].num_frames(latents)
    assert log_inverse.shape == log_scale.shape == (2, frames, 1, 8, 12)
    assert len({tuple(frame.flatten().tolist()) for frame in log_inverse[0]}) == frames


def test_places_of_tokens_are_places_of_the_map() -> None:
    """If the blocks do not mix tokens, a token changes only its own patch of the map."""
    head = small_head()
    head.blocks = torch.nn.ModuleList()
    features, poses = torch.zeros(1, 1, 6, 8), torch.zeros(1, 1, 6, 8)
    before = head(features, poses)[0]
    features[0, 0, 4] = 3.0  # row 1, column 1 of 2 x 3
    changed = (head(features, poses)[0] - before).abs().amax(dim=(0, 1, 2)) > 1e-6
    inside = torch.zeros(8, 12, dtype=torch.bool)
    inside[2:, 2:10] = True  # two convolutions reach two pixels further
    assert changed[4:, 4:8].all() and not changed[~inside].any()


def test_depth_is_one_over_inverse_depth_and_confidence_a_probability() -> None:
    log_inverse = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()[None, None, None]
    depth, confidence = as_depth(log_inverse, torch.full_like(log_inverse, math.log(0.1)), (2, 2))
    torch.testing.assert_close(depth, torch.full_like(depth, 2.0))
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(200_000, generator=generator) - 0.5
    draws = -0.1 * uniform.sign() * torch.log1p(-2 * uniform.abs())  # Laplace of scale 0.1
    within = (draws.abs() < math.log(1.1)).float().mean()
    torch.testing.assert_close(confidence[0, 0, 0, 0, 0], within, atol=5e-3, rtol=0)
    larger = as_depth(log_inverse, torch.zeros_like(log_inverse), (8, 8))
    assert larger[0].shape == (1, 1, 1, 8, 8) and (larger[1] < confidence.min()).all()


def test_the_loss_is_least_at_the_truth_with_the_scale_of_the_error() -> None:
    truth = torch.full((1, 1, 1, 4, 4), 2.0)
    known = torch.ones_like(truth, dtype=torch.bool)

    def loss(depth: float, scale: float) -> float:
        return float(
            depth_loss(-torch.full_like(truth, depth).log(), torch.full_like(truth, scale).log(), truth, known)
        )

    assert loss(2.0, 0.1) < loss(2.2, 0.1) < loss(2.5, 0.1)
    assert loss(2.2, math.log(1.1)) < min(loss(2.2, 0.03), loss(2.2, 0.3))
    # A pixel whose depth is not known changes nothing, whatever its value.
    known[..., 0, 0], truth[..., 0, 0] = False, 0.0
    assert loss(2.0, 0.1) == pytest.approx(math.log(0.1), abs=1e-5)


def test_a_head_learns_depth_from_features_that_tell_it() -> None:
    torch.manual_seed(0)
    head = DepthHead(DepthHeadConfig(features=8, grid=(2, 2), patch=2, width=64, depth=1), LAYOUTS["1:1"])
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(80):
        truth = 1 + 3 * torch.rand(8, 2, 4, 1)
        features = truth.log().expand(-1, -1, -1, 8)
        maps = truth.reshape(8, 2, 1, 2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
        loss = depth_loss(*head(features, torch.zeros_like(features)), maps, torch.ones_like(maps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    depth, confidence = as_depth(*head(features, torch.zeros_like(features)), (4, 4))
    assert ((depth / maps - 1).abs().mean() < 0.1) and confidence.mean() > 0.5


def test_sizes_follow_from_the_preset() -> None:
    assert DepthHeadConfig.for_preset(load_preset("scenetok-tiny"), (8, 8)).patch == 8
    assert DepthHeadConfig.for_preset(load_preset("re10k"), (8, 8)).features == 1024
