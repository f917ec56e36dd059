"""The greeting of a new browser (its camera, and the photograph until the first picture), and the size of frustums."""

from __future__ import annotations

import math
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from scenetok_ns.dataparsers.camera_conversion import camera_batch_to_nerfstudio
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.viewer import session as module
from scenetok_ns.viewer.cameras import STOCK_SCALE
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
        self.sent: list[np.ndarray] = []
        self.client.scene.set_background_image = lambda pixels, **options: self.sent.append(pixels)
        self.flushed = threading.Event()
        self.client.flush = self.flushed.set


@pytest.fixture(autouse=True)
def placed(monkeypatch: pytest.MonkeyPatch) -> Mock:
    placed = Mock()
    monkeypatch.setattr(module, "place_camera", placed)
    return placed


@pytest.mark.parametrize(("aspect", "shape"), [(2.4, (26, MOST, 3)), (0.5, (MOST, 32, 3)), (1e6, (1, MOST, 3))])
def test_the_photograph_has_the_size_of_a_picture_at_rest(aspect: float, shape: tuple[int, ...], placed: Mock) -> None:
    greeting = Greeting(aspect)
    greeting.session.greet(greeting.client)
    assert greeting.flushed.wait(60)
    assert [pixels.shape for pixels in greeting.sent] == [shape] and placed.called


@pytest.mark.parametrize("aspect", [0.0, -1.0, math.inf, math.nan])
def test_a_browser_with_an_impossible_canvas_is_not_greeted(
    aspect: float, placed: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    greeting, threads = Greeting(aspect), Mock()
    monkeypatch.setattr(module, "threading", threads)
    greeting.session.greet(greeting.client)
    assert not placed.called and not threads.Thread.called


def test_other_browsers_do_not_wait_until_the_photograph_is_loaded() -> None:
    greeting, loaded = Greeting(1.0), threading.Event()
    photograph = greeting.view.photograph
    greeting.view.photograph = lambda *size: photograph(*size) if loaded.wait(60) else None
    greeting.session.greet(greeting.client)
    assert not greeting.sent
    loaded.set()
    assert greeting.flushed.wait(60) and len(greeting.sent) == 1 and not greeting.thread.action.called


def test_the_photograph_does_not_cover_a_picture() -> None:
    """It is not sent after a picture. If a picture comes while it is sent, the browser's picture is rendered again."""
    greeting = Greeting(1.0)
    photograph = greeting.view.photograph

    def load(*size: int) -> torch.Tensor:
        greeting.thread.output_keys = {"rgb"}
        return photograph(*size)

    greeting.view.photograph = load
    greeting.session._send_photograph(greeting.client)
    assert not greeting.sent and not greeting.thread.action.called

    late = Greeting(1.0)

    def send(pixels: np.ndarray, **options: Any) -> None:
        late.thread.output_keys = {"rgb"}

    late.client.scene.set_background_image = send
    late.session._send_photograph(late.client)
    assert [call.args[0].action for call in late.thread.action.call_args_list] == ["move"]


def test_a_photograph_that_cannot_be_read_and_a_browser_that_has_gone_are_no_errors() -> None:
    greeting = Greeting(1.0)
    greeting.client.flush = Mock(side_effect=KeyError(0))
    greeting.session._send_photograph(greeting.client)
    assert greeting.client.flush.called
    greeting.view.photograph = Mock(side_effect=OSError("no such file"))
    greeting.session._send_photograph(greeting.client)
    assert len(greeting.sent) == 1


def row_of_cameras(count: int, apart: float) -> SimpleNamespace:
    c2w = torch.eye(4).repeat(1, count, 1, 1)
    c2w[0, :, 0, 3] = apart * torch.arange(count)
    cameras = CameraBatch(c2w, torch.eye(3).repeat(1, count, 1, 1))
    return SimpleNamespace(cameras=camera_batch_to_nerfstudio(cameras, 64, 64))


@pytest.mark.parametrize(("chosen", "stays"), [(STOCK_SCALE, False), (0.3, True)])
def test_frustums_are_sized_again_for_each_scene_unless_the_user_chose_a_size(chosen: float, stays: bool) -> None:
    session = Greeting(1.0).session
    config = session.open_viewer.config
    config.camera_frustum_scale = chosen
    sizes = []
    for count, apart in ((3, 1.0), (3, 4.0), (1, 0.0)):
        session.view.scene.pictures.return_value = row_of_cameras(count, apart)  # type: ignore[attr-defined]
        session.size_frustums()
        sizes.append(config.camera_frustum_scale)
    if stays:
        assert sizes == [chosen] * 3
    else:
        assert sizes[0] not in (chosen, 0) and sizes == pytest.approx([sizes[0], 4 * sizes[0], 4 * sizes[0]])
