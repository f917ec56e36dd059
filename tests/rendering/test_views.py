"""Choice of the photographs that renders are compared with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from scenetok_ns.rendering.views import held_out_photographs


def test_no_context_view_is_held_out_and_not_too_many_are() -> None:
    """Published evaluation indices also have context views among the targets, which must not be held out."""
    shown: Any = SimpleNamespace(context=torch.tensor([0, 4, 8]), target=torch.arange(10))
    assert held_out_photographs(shown) == [1, 2, 3, 5, 6, 7, 9]
    many: Any = SimpleNamespace(context=torch.tensor([0]), target=torch.arange(500))
    chosen = held_out_photographs(many)
    assert len(set(chosen)) == 48 and chosen[0] == 1 and chosen[-1] == 499
