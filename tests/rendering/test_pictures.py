"""Outputs for Nerfstudio's tools and page: read late, and depth in the range that is seen."""

from __future__ import annotations

import pytest
import torch

from scenetok_ns.data.square_pictures import PictureRequest
from scenetok_ns.rendering.pictures import FAR, PictureOutputs, depth_shades, for_display, picture_outputs


def test_depth_is_displayed_from_near_to_far_whatever_the_border_holds() -> None:
    """In any units; a few outliers do not set the range."""
    depth = torch.linspace(2, 4, 400).reshape(20, 20, 1)
    shades = depth_shades(depth)
    assert shades.min() == 0 and shades.max() == 1 and shades.median() == pytest.approx(0.5, abs=0.02)
    bordered = torch.cat([torch.full((20, 5, 1), FAR), depth, torch.full((20, 5, 1), FAR)], dim=1)
    bordered[3, 9] = 90.0
    displayed = depth_shades(bordered)
    assert (displayed[:, :5] == 0).all() and (displayed[:, 25:] == 0).all() and displayed[3, 9] == 1
    assert (displayed[:, 5:25] - shades).abs().median() < 0.01
    torch.testing.assert_close(depth_shades(100 * depth), shades)


def test_depth_that_is_not_known_or_all_alike_is_displayed_without_a_range() -> None:
    assert (depth_shades(torch.full((4, 4, 1), FAR)) == 0).all()
    assert torch.isfinite(depth_shades(torch.full((4, 4, 1), 3.0))).all()


def test_what_is_displayed_reads_nothing_early() -> None:
    """Depth can cost more than the picture."""
    read = []

    def uncertainty() -> torch.Tensor:
        read.append("uncertainty")
        return torch.ones(4, 8, 1)

    outputs = picture_outputs(torch.rand(4, 8, 3), uncertainty, PictureRequest(4, 8))
    assert isinstance(outputs, PictureOutputs)
    displayed = for_display(outputs)
    assert read == [] and list(displayed) == list(outputs)
    assert torch.equal(displayed["rgb"], outputs["rgb"]) and (outputs["depth"] == FAR).all()
    values = displayed["uncertainty"][..., 0]
    assert read == ["uncertainty"] and (values[:, 2:6] == 1).all() and (values[:, :2] == 0).all()
