"""The folder Compare: photographs of the scene beside, or against, the pictures of the same cameras."""

from __future__ import annotations

from scenetok_ns.data.scenes import DataError
from scenetok_ns.viewer.cameras import look_through
from scenetok_ns.viewer.comparison import DIFFERENCE, PHOTOGRAPH
from scenetok_ns.viewer.elements import Choice, Folder, QuietButton, Setting, asking_client
from scenetok_ns.viewer.part import Part
from scenetok_ns.viewer.session import Session

PICTURE, BESIDE = "picture alone", "picture | photograph"
DISPLAYS = [PICTURE, BESIDE, PHOTOGRAPH, DIFFERENCE]


class ComparePart(Part):
    """See the module."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.view = Setting("View", 0, hint="Number of a photograph of the scene, context view or held out")
        self.display = Choice(
            *("Display", PICTURE, DISPLAYS),
            cb_hook=self.does(self._display, loud=False),
            hint="Also as output types, for Split Screen in the tab Control",
        )
        self.folder = Folder(
            "Compare with photographs",
            [
                self.view,
                QuietButton("Go to view", self.does(self._go, loud=False), is_main=True),
                QuietButton("Next view", self.does(lambda: self._step(1), loud=False), hint="Key n"),
                QuietButton("Previous view", self.does(lambda: self._step(-1), loud=False), hint="Key p"),
                self.display,
            ],
            is_open=False,
        )
        session.view.comparison.wanted = self._wanted
        session.view.comparison.measured = self._measured

    def _wanted(self) -> set[str]:
        viewer = self.session.viewer
        if viewer is None:
            return set()
        panel = viewer.control_panel
        return {panel.output_render, *([panel.split_output_render] if panel.split else [])}

    def _step(self, by: int) -> str:
        found = self.session.shown.photographs
        if found is None:
            raise DataError("this scene has no photographs")
        now = self.session.view.comparison.chosen
        self.view.show(found[1][0] if now is None else (int(self.view.value) + by) % found[0].num_frames)
        return self._go()

    def _go(self) -> str:
        """Move this browser's camera to where the photograph was taken, and compare pictures with this photograph."""
        session, index = self.session, int(self.view.value)
        found = session.shown.photographs
        if found is None:
            raise DataError("this scene has no photographs: it was opened from a token file")
        scene, given = found
        if not 0 <= index < scene.num_frames:
            raise DataError(f"this scene has views 0 to {scene.num_frames - 1}, got {index}")
        with session.lock:
            session.view.comparison.chosen = index
            _, camera = session.view.comparison.photograph()  # type: ignore[misc]
        viewer, client = session.open_viewer, asking_client()
        if viewer.hide_images.visible:  # at the exact place of a frustum, only its picture would be visible
            viewer.set_camera_visibility(False)
            viewer.toggle_cameravis_button()
        clients = [client] if client is not None else list(viewer.viser_server.get_clients().values())
        for one in clients:
            look_through(one, camera.c2w[0, 0], camera.intrinsics[0, 0])
        session.ask_again()
        return f"view {index} ({'context view' if index in given else 'held out'}); its PSNR follows"

    def _measured(self, index: int, psnr: float) -> None:
        found = self.session.shown.photographs
        kind = "context view" if found is not None and index in found[1] else "held out"
        self.session.report(self.folder.status, f"view {index} ({kind}): PSNR {psnr:.2f} dB", loud=False)

    def _display(self) -> None:
        panel, chosen = self.session.open_viewer.control_panel, self.display.value
        output = {PICTURE: "rgb", BESIDE: "rgb"}.get(chosen, chosen)
        if output not in panel._output_render.options:
            raise DataError("wait for the first picture, then choose again")
        panel._output_render.value = output
        if chosen == BESIDE:
            panel._split_output_render.value = PHOTOGRAPH
            panel._split_percentage.value = 0.5
        panel._split.value = chosen == BESIDE
