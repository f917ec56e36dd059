"""Which views of an evaluation scene a scene generator is given as photographs, and which as poses alone."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.view_sampling import ViewIndices
from scenetok_ns.models.presets import Preset


def condition_of(views: ViewIndices, preset: Preset, count: int | None) -> Int64[Tensor, " condition"]:
    """The condition views: context views spread evenly from the first on.

    None as the count: all of them if the generator takes as many (evaluation indices for generation name one to a
    few), else the first alone. Raises DataError for a count that the generator does not take.
    """
    most, there = preset.data.views.max_condition_views, len(views.context)
    if count is None:
        count = there if there <= most else 1
    if not 1 <= count <= min(most, there):
        raise DataError(
            f"{count} condition views, but preset {preset.name} takes 1 to {most}, and there are {there} context "
            "views; set --pipeline.datamanager.num-condition"
        )
    return views.context[torch.linspace(0, there - 1, count).round().long()]


def path_of(views: ViewIndices, num_anchors: int) -> Int64[Tensor, " k"]:
    """Frames whose poses the anchors are taken from: the context views where they are as many as anchors are needed,
    as in training, else all views in the order of the frames."""
    if len(views.context) == num_anchors:
        return views.context
    return torch.cat([views.context, views.target]).unique()
