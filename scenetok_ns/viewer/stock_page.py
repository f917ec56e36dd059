"""Changes to Nerfstudio's own page: its Render tab, and elements without meaning for this model.

Nerfstudio keeps the elements of its Render tab in the closures of their callbacks. They are found there once, when the
viewer is opened; where another version keeps them elsewhere, the page stays as it is.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import viser
from splines import quaternion
from viser import transforms
from viser._messages import GuiUpdateMessage

from scenetok_ns.data.camera_path_files import LARGEST_SIDE, CameraPath, square_lens
from scenetok_ns.data.poses import flip_axes
from scenetok_ns.data.scenes import DataError
from scenetok_ns.tools.printing import command
from scenetok_ns.viewer.elements import show_value
from scenetok_ns.viewer.page_text import command_text, paragraph

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

logger = logging.getLogger(__name__)

VIEWER_SCALE = 10.0
"""Units of the viewer's scene in one of Nerfstudio's."""
NEEDED: tuple[str, ...] = (
    *("camera_path", "datapath", "duration_number", "fov_degrees"),
    *("framerate_number", "render_name_text", "resolution"),
)
"""Names that the callback of Generate Command uses."""


@dataclass(frozen=True)
class RenderTab:
    """The Render tab's elements."""

    button: Any
    """Generate Command."""
    stock: Callable[[Any], None]
    """Its own callback: writes the path, and shows a command in a dialog."""
    parts: dict[str, Any]
    """By the names in `NEEDED`."""

    @classmethod
    def of(cls, viewer: Viewer) -> RenderTab | None:
        """Find the tab; None (and a warning) where this Nerfstudio has another one."""
        try:
            handles = list(viewer.viser_server.gui._gui_input_handle_from_id.values())
            button = next(handle for handle in handles if handle._impl.label == "Generate Command")
            stock = button._impl.update_cb[0]
            parts = inspect.getclosurevars(stock).nonlocals
            return cls(button, stock, {name: parts[name] for name in NEEDED})
        except (AttributeError, StopIteration, KeyError, IndexError, TypeError, ValueError) as error:
            logger.warning("the viewer's Render tab is another one than expected (%s); it stays as it is", error)
            return None

    def path(self) -> CameraPath | None:
        """The path through the keyframes, with the tab's size; None with fewer than two of them."""
        parts = self.parts
        count = int(parts["framerate_number"].value * parts["duration_number"].value)
        poses, focal = [], []
        width, height = (int(side) for side in parts["resolution"].value)
        for index in range(count):
            found = parts["camera_path"].interpolate_pose_and_fov_rad(index / count)
            if found is None:
                return None
            pose, fov = found[:2]
            turned = pose.rotation() @ transforms.SO3.from_x_radians(np.pi)
            pose = transforms.SE3.from_rotation_and_translation(turned, pose.translation() / VIEWER_SCALE)
            poses.append(torch.from_numpy(pose.as_matrix()))
            focal.append(height / 2 / np.tan(fov / 2) / max(width, height))
        if not poses or not 1 <= min(width, height) <= max(width, height) <= LARGEST_SIDE:
            return None
        c2w = flip_axes(torch.stack(poses)).float()
        return CameraPath(c2w, torch.stack([square_lens(float(one)) for one in focal]), (height, width))

    def start_with(self, fov: float, side: int) -> None:
        """Set the field of view (degrees) and the square size that new keyframes get."""
        parts = self.parts
        parts["camera_path"].default_fov = np.deg2rad(fov)
        # Not through `value`, whose callback would change the cameras of all browsers.
        for name, value in (("fov_degrees", round(fov, 2)), ("resolution", (side, side))):
            show_value(parts[name], value)

    def generate_with(self, write_run: Callable[[], Path], check_name: Callable[[str], str]) -> None:
        """Let Generate Command use a run folder of the displayed scene.

        Args:
            write_run: Writes the run folder and returns its config.yml. The dialog shows an exception from it.
            check_name: Returns the name of the path's file if it is a bare one, else raises.
        """

        def generate(event: Any) -> None:
            client = event.client
            if client is None:
                return
            try:
                name = check_name(f"{self.parts['render_name_text'].value}.json")
                if self.path() is None:
                    raise DataError("the path needs at least two keyframes: press Add Keyframe at several places")
                config = write_run()
            except Exception as error:
                client.add_notification("No command", str(error), auto_close=20_000, color="red")
                return
            target = self.parts["datapath"] / "camera_paths"
            if target.is_symlink() or (target / name).is_symlink():
                text = f"{target / name} is a link, and is not written to"
                client.add_notification("No command", text, auto_close=20_000, color="red")
                return
            words = ["ns-render", "camera-path", "--load-config", config, "--camera-path-filename", target / name]
            line = command(*words, "--output-path", Path("renders") / f"{Path(name).stem}.mp4")
            self.stock(replace(event, client=_Dialog(client, line)))

        self.button._impl.update_cb[:] = [generate]


class _Dialog:
    """A browser for the stock callback, whose dialog shows another command."""

    def __init__(self, client: viser.ClientHandle, line: str) -> None:
        self._client, self._line = client, line
        self.gui = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client.gui, name)

    def add_markdown(self, content: str) -> Any:
        """Text of the stock dialog, with our command."""
        del content
        text = "This command renders the path through the scene as it is displayed now: same tokens, seed and steps."
        return self._client.gui.add_markdown(paragraph(text) + "\n\n" + command_text(self._line))


def allow_two_keyframes() -> None:
    """Let the Render tab take two keyframes: with NumPy 2.2 or later, splines 0.3 fails on two rotations."""
    stock = quaternion.KochanekBartels
    if stock.__init__.__module__ == __name__:
        return

    class KochanekBartels(stock):  # type: ignore[misc, valid-type]
        def __init__(self, quaternions: Any, grid: Any = None, **options: Any) -> None:
            if len(quaternions) != 2 or options.get("endconditions") == "closed":
                super().__init__(quaternions, grid, **options)
                return
            first, last = quaternion.canonicalized(quaternions)
            third = (last * first.inverse()) ** (1 / 3)  # slerp, as a curve of degree 3
            segments = [(first, third * first, third.inverse() * last, last)]
            quaternion.DeCasteljau.__init__(self, segments, grid)

    quaternion.KochanekBartels = KochanekBartels


def hide_meaningless(viewer: Viewer) -> None:
    """Hide what does nothing for this model: it has no box to crop, and exports nothing from the page.

    Training buttons go where nothing trains.
    """
    panel = viewer.control_panel
    # Depth takes longer to send than the picture: composing frustums with it is off at first.
    panel._layer_depth.value = False
    if viewer.trainer is None:
        viewer.pause_train.visible = viewer.resume_train.visible = False
        viewer.make_stats_markdown = _only_resolution  # type: ignore[method-assign]
        viewer.stats_markdown.content = ""
        panel._train_speed.set_hidden(True)
        panel._train_util.set_hidden(True)
    try:
        gui = viewer.viser_server.gui
        crop = panel._crop_viewport.gui_handle._impl.parent_container_id  # type: ignore[union-attr]
        gui._websock_interface.queue_message(GuiUpdateMessage(crop, {"visible": False}))
        panel._crop_handle.visible = False  # else a page shows the handles of the box until its first picture
        tabs = _tabs(viewer)
        if tabs is not None and "Export" in tabs._labels:
            tabs._tabs[tabs._labels.index("Export")].remove()
    except (AttributeError, KeyError, ValueError) as error:
        logger.warning("the viewer's page is another one than expected (%s); it stays as it is", error)


def _only_resolution(step: int | None, res: str | None) -> str:
    """Text above the tabs while nothing trains. It leaves out the step."""
    del step
    return f"Resolution: {res}" if res else ""


def first_tab(viewer: Viewer, label: str, icon: Any) -> Any:
    """A container for our elements: the first tab beside Nerfstudio's, else a folder below them."""
    try:
        tabs = _tabs(viewer)
        if tabs is not None:
            made = tabs.add_tab(label, icon)
            for part in (tabs._labels, tabs._icons_html, tabs._tabs):
                part.insert(0, part.pop())
            tabs._sync_with_client()
            return made
    except AttributeError as error:
        logger.warning("the viewer's tabs are others than expected (%s)", error)
    return viewer.viser_server.gui.add_folder(label)


def _tabs(viewer: Viewer) -> Any:
    """The group of the tabs Control, Render and Export."""
    handles = viewer.viser_server.gui._container_handle_from_id.values()
    groups = [handle._parent for handle in handles if isinstance(handle, viser.GuiTabHandle)]
    return next((group for group in groups if "Control" in group._labels), None)
