"""The viewer's port attacked: files through its web server, uploads without end, the panel's hooks."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import viser
from support.small_runs import small_pipeline, write_small_re10k
from support.viewer_panel import Panel
from viewer_client import ViewerClient

from scenetok_ns.viewer import guards
from scenetok_ns.viewer.guards import (
    MOST_UPLOADS,
    NAMES,
    UnknownViserError,
    guard_uploads,
    guard_viser,
    is_sound_camera,
    missing_names,
)
from scenetok_ns.viewer.viewer_files import LARGEST_UPLOAD


class Served:
    """A viser server with an upload button, and one client."""

    def __init__(self) -> None:
        for _ in range(2):  # once is enough, twice does no harm
            guard_viser()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.server = viser.ViserServer("127.0.0.1", port, verbose=False)
        self.refused: list[str] = []
        guard_uploads(self.server, self.refused.append)
        self.taken: list[Any] = []
        self.button = self.server.gui.add_upload_button("Upload")
        self.button.on_upload(lambda event: self.taken.append(self.button.value))
        self.port = self.server.get_port()
        self.client = ViewerClient(self.port)
        self.client.look((0.0, 0.0, 0.0), 1.0)  # a browser counts once its camera is known
        self.wait(self.server.get_clients)

    def send(self, kind: str, **values: Any) -> None:
        self.client._socket.send(msgspec.msgpack.encode({"type": kind, **values}))

    def begin(self, uuid: str, size: Any, count: Any = 1, name: Any = "a.png") -> None:
        button = self.button._impl.id
        values = {"filename": name, "mime_type": "image/png", "part_count": count, "size_bytes": size}
        self.send("FileTransferStart", source_component_id=button, transfer_uuid=uuid, **values)

    def part(self, uuid: str, part: Any, content: Any) -> None:
        button = self.button._impl.id
        self.send("FileTransferPart", source_component_id=button, transfer_uuid=uuid, part=part, content=content)

    @property
    def waiting(self) -> dict[str, Any]:
        return self.server.gui._current_file_upload_states

    def wait(self, condition: Any) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, (self.refused, self.waiting)
            time.sleep(0.01)


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.client.__exit__(None, None, None)
    made.server.stop()


def request(port: int, path: str) -> bytes:
    """A web server's answer to a path as it is: no client of the library would send such ones."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


def test_the_page_is_served_and_no_other_file(served: Served, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("do not tell")
    assert b"200 OK" in request(served.port, "/") and b"<html" in request(served.port, "/index.html").lower()
    home = served.server._websock_server._http_server_root
    inside = next(path for path in Path(home, "assets").iterdir() if path.suffix == ".css")
    assert b"200 OK" in request(served.port, f"/assets/{inside.name}")
    up = "../" * 40
    for path in (
        f"/{up}{secret}",
        f"/assets/{up}{secret}",
        f"/{secret}",
        f"//{secret}",
        f"/%2e%2e/{secret}",
        "/../build",
        "/assets",
        "/\0",
    ):
        answer = request(served.port, path)
        assert b"do not tell" not in answer and b"200 OK" not in answer, path
    assert b"200 OK" in request(served.port, "/")  # it goes on


def test_uploads_end_where_they_should(served: Served) -> None:
    served.begin("good", 6, 2)
    served.wait(lambda: "good" in served.waiting)
    served.part("good", 0, b"abc")
    served.part("good", 1, b"def")
    served.wait(lambda: served.taken)
    assert (served.taken[0].name, served.taken[0].content) == ("a.png", b"abcdef") and not served.refused
    for size, count in ((LARGEST_UPLOAD + 1, 1), (10**12, 2000), (0, 1), (5, 6), (-1, 1)):
        before = len(served.refused)
        served.begin("bad", size, count)
        served.wait(lambda before=before: len(served.refused) > before)
        assert not served.waiting
    for part, content in ((0, b"more than announced"), (7, b"x"), (-1, b"x")):
        before = len(served.refused)
        served.begin("liar", 4)
        served.wait(lambda: "liar" in served.waiting)
        served.part("liar", part, content)
        served.wait(lambda before=before: len(served.refused) > before)
        assert not served.waiting
    served.part("unknown", 0, b"x" * 1000)
    for number in range(3 * MOST_UPLOADS):
        served.begin(f"many{number}", 100)
    served.begin("last", 3)
    served.part("last", 0, b"xyz")
    served.wait(lambda: len(served.waiting) <= MOST_UPLOADS and "dropped" in str(served.refused))
    assert len(served.taken) <= 2


def test_elements_take_nothing_but_values_that_they_offer(served: Served) -> None:
    names = served.server.gui.add_dropdown("Names", ("a", "b"), initial_value="a")
    number = served.server.gui.add_number("Number", 1)

    def update(handle: Any, **updates: Any) -> None:
        served.send("GuiUpdateMessage", id=handle._impl.id, updates=updates)

    update(names, value="../../secret.json")
    update(names, value="b", label="Other")
    update(number, update_cb=[])
    update(number, gui_api=None, value=5)
    served.send("GuiUpdateMessage", id="nothing", updates={"value": 1})
    update(names, value="b")
    update(number, value=7)
    served.wait(lambda: names.value == "b" and number.value == 7)
    assert names._impl.label == "Names" and number._impl.gui_api is served.server.gui


def test_cameras_are_those_of_a_window(served: Served) -> None:
    (client,) = served.server.get_clients().values()
    for aspect in (1e4, 1e-4, -1.0, math.inf, math.nan):
        served.client.look((1.0, 0.0, 0.0), aspect)
    served.client.look((math.nan, 0.0, 0.0), 1.0)
    served.client.look((2.0, 0.0, 0.0), 2.5)
    seen = []
    served.wait(lambda: seen.append((client.camera.aspect, client.camera.position[0])) or seen[-1] == (2.5, 2.0))
    assert set(seen) <= {(1.0, 0.0), (2.5, 2.0)}
    sound = {"wxyz": (1, 0, 0, 0), "position": (0, 0, 0), "look_at": (0, 0, 1), "up_direction": (0, 1, 0), "fov": 1.0}
    assert is_sound_camera(SimpleNamespace(**sound, aspect=1.0))
    assert not is_sound_camera(SimpleNamespace(**sound, aspect="wide"))
    assert not is_sound_camera(SimpleNamespace(**{**sound, "fov": 4.0}, aspect=1.0))
    assert not is_sound_camera(SimpleNamespace(**{**sound, "position": (0, 0)}, aspect=1.0))


@pytest.mark.parametrize("name", [f"{module}.{name}" for module, names in NAMES.items() for name in names])
def test_a_viser_of_other_names_is_refused_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_names() == []
    monkeypatch.setattr("viser.__version__", "9.9", raising=False)
    monkeypatch.delattr(name)
    with pytest.raises(UnknownViserError) as error:
        guard_viser()
    line = str(error.value)
    assert name in line and "9.9" in line and "pip install viser==0.2.7" in line and "\n" not in line


def test_without_guards_no_viewer_opens_and_other_tools_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "missing_names", lambda: ["viser._gui_api.GuiApi._handle_gui_updates"])
    pipeline = small_pipeline(write_small_re10k(tmp_path / "re10k")).eval()
    with pytest.raises(SystemExit, match=r"needs viser 0\.2\.7"):
        Panel(pipeline, tmp_path)


def test_another_version_with_the_same_names_warns_in_page_and_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("viser.__version__", "0.2.8", raising=False)
    panel = Panel(small_pipeline(write_small_re10k(tmp_path / "re10k")).eval(), tmp_path)
    try:
        assert "viser 0.2.8" in panel.pipeline.SceneTok._notes(panel.viewer)
        assert "this is viser 0.2.8" in caplog.text
    finally:
        panel.close()
