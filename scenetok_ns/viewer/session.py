"""State that the folders of the panel share: the open viewer, the scene, the run's files, and how results are
reported."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import viser
from nerfstudio.viewer.viewer_elements import ViewerElement
from torch import nn

from scenetok_ns.data.scenes import DataError
from scenetok_ns.rendering.picture_files import encode_picture
from scenetok_ns.rendering.scene_renderer import SceneRenderer
from scenetok_ns.viewer.background import Work
from scenetok_ns.viewer.cameras import STOCK_SCALE, draw_frustums, frustum_scale, full_size, place_camera
from scenetok_ns.viewer.elements import COLOURS, Folder, Kind, Status, asking_client
from scenetok_ns.viewer.renderer import ViewerRenderer, ViewSettings
from scenetok_ns.viewer.shown_scene import SceneState, ShownScene
from scenetok_ns.viewer.viewer_files import ViewerFiles

if TYPE_CHECKING:
    from nerfstudio.viewer.render_state_machine import RenderStateMachine
    from nerfstudio.viewer.viewer import Viewer

logger = logging.getLogger(__name__)

SECONDS = {"good": 5, "warning": 12, "error": 20}
"""Number of seconds that a notification stays, by its kind."""
MOST_UNDONE = 30
"""Number of states for undo."""


@dataclass
class Session:
    """One panel and, once it is opened, its viewer."""

    view: ViewerRenderer
    module: nn.Module
    """Nerfstudio's model, which is in eval mode while a scene is generated or a video rendered."""
    viewer: Viewer | None = None
    files: ViewerFiles | None = None
    work: Work[Any] | None = None
    """The task in the background: a generation, a capture or a video; one at a time."""
    redrawn: list[Callable[[], None]] = field(default_factory=list)
    """Called when another scene is shown, and after an undo."""
    listed: list[Callable[[], None]] = field(default_factory=list)
    """Called when files have come or gone."""
    _past: list[tuple[SceneState, ViewSettings]] = field(default_factory=list)
    _frustum_scale: float = STOCK_SCALE
    """Size of frustums that was set here; with another size in the configuration, the user chose it."""

    @property
    def shown(self) -> ShownScene:
        return self.view.scene

    @property
    def renderer(self) -> SceneRenderer:
        return self.view.renderer

    @property
    def open_viewer(self) -> Viewer:
        """Raises DataError where there is none."""
        if self.viewer is None:
            raise DataError("this needs an open viewer")
        return self.viewer

    @property
    def open_files(self) -> ViewerFiles:
        """Raises DataError where there is no run folder."""
        if self.files is None:
            raise DataError("this needs an open viewer of a run")
        return self.files

    @property
    def run(self) -> Path:
        return self.open_files.run

    @property
    def trains(self) -> bool:
        """Whether training is in progress, which must not run between the steps of background work."""
        trainer = self.viewer and self.viewer.trainer
        return bool(trainer and trainer.training_state == "training")

    @property
    def lock(self) -> Any:
        """The viewer's lock. Hold it whenever you use the model."""
        lock = self.viewer and self.viewer.train_lock
        return contextlib.nullcontext() if lock is None else lock

    # --- Elements ---

    def hook(self, folder: Callable[[], Folder], act: Callable[[], str | None], *, loud: bool = True) -> Callable:
        """Return a hook that never raises. The folder shows the result of `act`, or the error.

        loud: Also show the result as a notification in the browser that asked; errors are always shown there.
        """

        def hook(element: Any) -> None:
            self.attempt(folder().status, act, loud=loud)

        return hook

    def attempt(self, status: Status, act: Callable[[], str | None], *, loud: bool = True) -> None:
        try:
            said = act()
        except Exception as error:
            logger.warning("the viewer's panel: %s", error, exc_info=not isinstance(error, (ValueError, OSError)))
            self.report(status, str(error) or type(error).__name__, "error")
            return
        if said is not None:
            self.report(status, said, loud=loud)

    def report(self, status: Status, text: str, kind: Kind = "good", *, loud: bool = True) -> None:
        """Show a line in a folder. If `loud`, also notify the browser that asked, or all browsers if none did."""
        status.say(text, kind)
        if loud:
            self.notify(text, kind)

    def notify(self, text: str, kind: Kind = "good") -> None:
        """Show a notification that disappears after a while."""
        if self.viewer is None:
            return
        title = {"good": "SceneTok", "warning": "Note", "error": "That did not work"}[kind]
        asking = asking_client()
        clients = self.viewer.viser_server.get_clients()
        for client in [asking] if asking is not None and asking.client_id in clients else list(clients.values()):
            client.add_notification(title, text, auto_close=1000 * SECONDS[kind], color=COLOURS[kind])

    def connect(self, element: ViewerElement) -> None:
        """Make the viewer render again after changes of an installed element, as for elements that it finds itself."""
        if not getattr(element, "renders", True):
            return
        element.interrupt = self.view.interrupt  # type: ignore[attr-defined]
        act = element.cb_hook

        def locked(touched: Any) -> None:
            with self.lock:
                act(touched)
            self.ask_again()

        element.cb_hook = locked

    def download(self, name: str, content: bytes) -> None:
        """Send a file to the browser that asked for it. Raises DataError if nobody did."""
        client = asking_client()
        if client is None:
            raise DataError("only a browser can download something")
        client.send_file_download(name, content)

    # --- The viewer ---

    def ask_again(self) -> None:
        """Trigger a render like the viewer's `_trigger_rerender`, which fails when a browser comes or goes
        meanwhile."""
        self.view.interrupt()
        if self.viewer is None or not self.viewer.ready:
            return
        for identity, client in self.viewer.viser_server.get_clients().items():
            if (thread := self.viewer.render_statemachines.get(identity)) is not None:
                self._ask(thread, client)

    def _ask(self, thread: RenderStateMachine, client: viser.ClientHandle) -> None:
        from nerfstudio.viewer.render_state_machine import RenderAction

        thread.action(RenderAction("move", self.open_viewer.get_camera_state(client)))

    def redraw(self) -> None:
        """Draw the frustums of the displayed scene, and move the camera of the browser that asked for the scene."""
        self.redraw_frustums()
        asking = asking_client()
        if self.viewer is not None:
            for client in self.viewer.viser_server.get_clients().values():
                if asking is None or client.client_id == asking.client_id:
                    self.place(client)
                else:
                    text = "Another browser has opened another scene: all browsers at this viewer share one."
                    client.add_notification(
                        "Note", text, auto_close=1000 * SECONDS["warning"], color=COLOURS["warning"]
                    )
        for call in self.redrawn:
            call()

    def list_files(self) -> None:
        """Update the page's lists of the run's files."""
        for call in self.listed:
            call()

    def redraw_frustums(self) -> None:
        if self.viewer is not None:
            self.size_frustums()
            draw_frustums(self.viewer, self.shown.pictures())

    def size_frustums(self) -> None:
        """Size frustums in proportion to the displayed scene, unless the user chose a size."""
        config = self.open_viewer.config
        if config.camera_frustum_scale == self._frustum_scale:
            wanted = frustum_scale(self.shown.pictures().cameras) or self._frustum_scale
            config.camera_frustum_scale = self._frustum_scale = wanted

    def place(self, client: viser.ClientHandle) -> None:
        place_camera(client, self.shown.pictures().cameras, self.open_viewer.config.camera_frustum_scale)

    def greet(self, client: viser.ClientHandle) -> None:
        """Put a new browser's camera at the start, and show the photograph from there until the first picture comes.

        Nothing happens if the browser sends an impossible canvas. All browsers wait while viser calls this, so another
        thread loads and sends the photograph.
        """
        if not 0 < client.camera.aspect < math.inf:
            return
        self.place(client)
        threading.Thread(target=self._send_photograph, args=(client,), daemon=True).start()

    def _send_photograph(self, client: viser.ClientHandle) -> None:
        """Send the photograph unless a picture has been sent already.

        A picture may still come between this check and the photograph, which then covers it. It is rendered again.
        """
        viewer = self.open_viewer
        try:
            photograph = self.view.photograph(*full_size(client.camera.aspect, viewer.control_panel.max_res))
        except (OSError, ValueError) as error:
            logger.warning("a new browser gets no photograph: %s", error)
            return
        thread = viewer.render_statemachines.get(client.client_id)
        if photograph is None or thread is None:
            return
        pixels = (255 * photograph).to(torch.uint8).numpy()
        if thread.output_keys:
            return
        client.scene.set_background_image(pixels, format="jpeg", jpeg_quality=viewer.config.jpeg_quality)
        with contextlib.suppress(KeyError):  # the browser has gone
            client.flush()
        if thread.output_keys:
            self._ask(thread, client)

    def snapshot(self, size: tuple[int, int]) -> tuple[str, bytes]:
        """Render the asking browser's view in full quality at size (height, width). Returns name and bytes of a PNG."""
        from nerfstudio.viewer.utils import get_camera

        viewer, client = self.open_viewer, asking_client()
        if client is None:
            raise DataError("only a browser can take a snapshot")
        state = viewer.get_camera_state(client)
        camera = get_camera(state, *size)
        with self.lock, torch.no_grad(), self.evaluating():
            rgb = self.view.picture(camera.to(self.renderer.device))
        title = "".join(mark if mark.isalnum() or mark in "-_" else "_" for mark in self.shown.title) or "scene"
        return f"{title}.png", encode_picture(rgb.permute(2, 0, 1), "PNG")

    # --- Undo ---

    def remember(self) -> None:
        """Save scene, tokens and settings for undo. Call this before something changes them."""
        state = self.shown.state, self.view.settings
        if not self._past or self._past[-1] != state:
            self._past = [*self._past, state][-MOST_UNDONE:]

    def undo(self) -> str:
        """Return to the last saved state."""
        now = self.shown.state, self.view.settings
        while self._past and self._past[-1] == now:
            self._past.pop()
        if not self._past:
            raise DataError("there is nothing to undo")
        state, settings = self._past.pop()
        same_scene = state == now[0]
        self.shown.state, self.view.settings = state, settings
        if not same_scene:
            self.redraw_frustums()
        for call in self.redrawn:
            call()
        return "undone: " + ("settings" if same_scene else "scene and tokens")

    # --- Background work ---

    def start(self, work: Work[Any], begins: str) -> None:
        """Start work in the background; a running task ends at its next step.

        `begins` is a line that reports the start. It is displayed first, so that it never hides the result of work that
        ends at once.
        """
        self.stop()
        self.work = work
        work.announce(begins)
        work.start()

    def stop(self) -> bool:
        """End the background task at its next step; return whether there was one."""
        going, self.work = self.work, None
        if going is None or not going.is_alive():
            return False
        going.abort()
        return True

    @contextlib.contextmanager
    def evaluating(self) -> Any:
        """The model in eval mode, whatever it was in."""
        was_training = self.module.training
        self.module.eval()
        try:
            yield
        finally:
            self.module.train(was_training)
