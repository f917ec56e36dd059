"""Nerfstudio's own render threads without browsers. The pictures that they would send are recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.models.base_model import Model
from nerfstudio.viewer.render_state_machine import RenderAction, RenderStateMachine
from nerfstudio.viewer.utils import CameraState
from torch import Tensor


def pose(turn: float = 0.0, ahead: float = 0.0) -> Tensor:
    """Camera-to-world pose with OpenGL axes, in float64 as in the viewer."""
    angle = torch.tensor(turn, dtype=torch.float64)
    c2w = torch.eye(4, dtype=torch.float64)[:3]
    c2w[0, 0], c2w[0, 2], c2w[2, 0], c2w[2, 2] = angle.cos(), angle.sin(), -angle.sin(), angle.cos()
    c2w[2, 3] = -ahead
    return c2w


class Browser(RenderStateMachine):
    """A render thread; `pictures` holds (state, outputs) of all pictures that it has sent."""

    def __init__(self, viewer: FakeViewer) -> None:
        super().__init__(viewer, 10.0, client=SimpleNamespace(flush=self._flush))  # type: ignore[arg-type]
        self.view = CameraState(fov=1.0, aspect=1.5, c2w=pose(), camera_type=CameraType.PERSPECTIVE)
        self.pictures: list[tuple[str, dict[str, Tensor]]] = []
        self.flushed = 0

    def _flush(self) -> None:
        self.flushed = len(self.pictures)

    def _send_output_to_viewer(self, outputs: dict[str, Any], static_render: bool = True) -> None:
        self.pictures.append((self.state, outputs))

    def look(self, c2w: Tensor, **changes: Any) -> None:
        """Move the camera."""
        self.view = CameraState(**{**vars(self.view), **changes, "c2w": c2w})
        self.action(RenderAction("move", self.view))

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.is_alive(), "the render thread has ended"
            if found := condition():
                return found
            time.sleep(0.01)
        raise AssertionError(f"not in {seconds} s; pictures: {[state for state, _ in self.pictures]}")

    def at_rest(self) -> Tensor:
        """Wait for the next full picture and return it; earlier pictures are dropped."""
        self.wait(lambda: self.pictures and self.pictures[-1][0] == "high")
        _, outputs = self.pictures[-1]
        self.pictures.clear()
        return outputs["rgb"]


class FakeViewer:
    """The part of Nerfstudio's viewer that its render threads use."""

    def __init__(self, model: Model, max_res: int = 48) -> None:
        self.ready, self.include_time, self.trainer, self.step = True, False, None, 0
        self.train_lock = threading.Lock()
        self.control_panel = SimpleNamespace(crop_viewport=False, layer_depth=True, max_res=max_res)
        self.render_tab_state = SimpleNamespace(preview_render=False)
        self.render_statemachines: dict[int, Browser] = {}
        self._model = model

    def get_model(self) -> Model:
        return self._model

    def get_camera_state(self, client: Any) -> CameraState:
        return next(browser.view for browser in self.render_statemachines.values() if browser.client is client)

    def connect(self) -> Browser:
        browser = Browser(self)
        self.render_statemachines[len(self.render_statemachines)] = browser
        browser.start()
        return browser

    def close(self) -> None:
        for browser in self.render_statemachines.values():
            browser.running = False
        for browser in self.render_statemachines.values():
            browser.join(60)
            assert not browser.is_alive()
