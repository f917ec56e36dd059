"""The greeting of a new browser: its camera, and the photograph until the first picture comes."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from scenetok_ns.viewer import session as module
from scenetok_ns.viewer.session import Session

MOST = 64


class Greeting:
    """A session with a viewer whose only browser, number 0, has a canvas of the given aspect."""

    def __init__(self, aspect: float) -> None:
        self.thread = SimpleNamespace(output_keys=set(), action=Mock())
        self.view = Mock()
        self.view.photograph = lambda height, width: torch.full((height, width, 3), 0.5)
        self.session = Session(self.view, nn.Module())
        self.session.viewer = Mock()
        self.session.viewer.control_panel.max_res = MOST
        self.session.viewer.render_statemachines = {0: self.thread}
        self.client: Any = Mock(client_id=0)
        self.client.camera.aspect = aspect

    @property
    def sent(self) -> list[np.ndarray]:
        return [call.args[0] for call in self.client.scene.set_background_image.call_args_list]


@pytest.fixture(autouse=True)
def placed(monkeypatch: pytest.MonkeyPatch) -> Mock:
    placed = Mock()
    monkeypatch.setattr(module, "place_camera", placed)
    return placed


@pytest.mark.parametrize(("aspect", "shape"), [(2.4, (26, MOST, 3)), (0.5, (MOST, 32, 3)), (1e6, (1, MOST, 3))])
def test_the_photograph_has_the_size_of_a_picture_at_rest(aspect: float, shape: tuple[int, ...], placed: Mock) -> None:
    greeting = Greeting(aspect)
    greeting.session.greet(greeting.client)
    assert [pixels.shape for pixels in greeting.sent] == [shape] and placed.called


@pytest.mark.parametrize("aspect", [0.0, -1.0, math.inf, math.nan])
def test_a_browser_with_an_impossible_canvas_is_not_greeted(aspect: float, placed: Mock) -> None:
    greeting = Greeting(aspect)
    greeting.session.greet(greeting.client)
    assert not greeting.sent and not placed.called
