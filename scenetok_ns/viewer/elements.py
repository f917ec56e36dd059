"""Nerfstudio's viewer elements, with hooks that end the render at work instead of waiting for it.

The viewer calls a hook once it holds the lock that a render holds, and asks for new pictures after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nerfstudio.viewer.viewer_elements import (
    ViewerButton,
    ViewerDropdown,
    ViewerElement,
    ViewerNumber,
    ViewerSlider,
    ViewerText,
)
from torch import nn
from viser import ViserServer


class _Prompt:
    """Calls `interrupt` at once when the person at the viewer touches the element."""

    interrupt: Callable[[], None] | None = None
    gui_handle: Any

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        super()._create_gui_handle(viser_server)  # type: ignore[misc]
        register = getattr(self.gui_handle, "on_click", None) or self.gui_handle.on_update
        # Before the hook, which is registered later and called in order.
        register(lambda _: self.interrupt() if self.interrupt is not None else None)


class Button(_Prompt, ViewerButton):
    """A button."""


class Dropdown(_Prompt, ViewerDropdown):
    """A choice."""


class Number(_Prompt, ViewerNumber):
    """A number."""


class Slider(_Prompt, ViewerSlider):
    """A slider."""


Text = ViewerText
"""A line of text. Changes with every key pressed, so it interrupts nothing."""


class Information(ViewerText):
    """A line that only the program writes. The viewer would ask for new pictures with every change of an element."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "", disabled=True)

    @property
    def cb_hook(self) -> Callable[[Any], None]:
        """Does nothing, whatever the viewer sets."""
        return lambda element: None

    @cb_hook.setter
    def cb_hook(self, hook: Callable[[Any], None]) -> None:
        pass


class Folder(nn.Module):
    """Elements in a folder of the viewer, in the order given.

    The viewer finds elements as attributes of modules, and sorts them by the attributes' names. Not a part of any
    model: it has no parameters.
    """

    def __init__(self, elements: Sequence[ViewerElement]) -> None:
        super().__init__()
        for index, element in enumerate(elements):
            setattr(self, f"element_{index:02d}", element)
