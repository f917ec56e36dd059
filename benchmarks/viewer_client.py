"""The browser's side of viser's protocol, as far as tests and benchmarks need it."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import msgspec
from jaxtyping import UInt8
from numpy import asarray, ndarray
from PIL import Image
from websockets.sync.client import connect

MOVING = 12
"""Threshold for the first number of a JPEG's quantisation table, which is 8 at rest and 20 while the camera moves."""


class ViewerClient:
    """One connection to a viewer."""

    def __init__(self, port: int) -> None:
        self._socket = connect(f"ws://127.0.0.1:{port}", max_size=None)

    def __enter__(self) -> ViewerClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def look(
        self,
        position: tuple[float, float, float],
        aspect: float,
        wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0),
        fov: float = 1.0,
    ) -> None:
        """Send a camera at `position`, in the viewer's units, looking along +z turned by a quaternion."""
        message: dict[str, Any] = {
            "type": "ViewerCameraMessage",
            "wxyz": wxyz,
            "position": position,
            "fov": fov,
            "aspect": aspect,
            "look_at": (0.0, 0.0, 1.0),
            "up_direction": (0.0, 0.0, 1.0),
        }
        self._socket.send(msgspec.msgpack.encode(message))

    def set(self, element: str, value: Any) -> None:
        """Set the value of an element of the panel, or press it if it is a button. `element` is the identifier that the
        server sent."""
        message = {"type": "GuiUpdateMessage", "id": element, "updates": {"value": value}}
        self._socket.send(msgspec.msgpack.encode(message))

    def messages(self, seconds: float) -> Iterator[dict[str, Any]]:
        """Yield the messages that the server sends in the next `seconds`."""
        deadline = time.monotonic() + seconds
        while (rest := deadline - time.monotonic()) > 0:
            try:
                packet = msgspec.msgpack.decode(self._socket.recv(timeout=rest))
            except TimeoutError:
                return
            yield from packet if isinstance(packet, list) else [packet]

    def pictures(self, seconds: float) -> Iterator[UInt8[ndarray, "h w 3"]]:
        """Yield the rendered pictures among the messages."""
        for message in self.messages(seconds):
            if message.get("type") == "BackgroundImageMessage":
                yield asarray(Image.open(io.BytesIO(message["rgb_bytes"])).convert("RGB"))

    def at_rest(self, quiet: float, seconds: float = 60) -> UInt8[ndarray, "h w 3"]:
        """Return the picture in full quality after which no other arrives for `quiet` seconds."""
        deadline, full = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            came = False
            for message in self.messages(quiet):
                if message.get("type") == "BackgroundImageMessage":
                    came, picture = True, Image.open(io.BytesIO(message["rgb_bytes"]))
                    full = asarray(picture.convert("RGB")) if picture.quantization[0][0] < MOVING else None
            if full is not None and not came:
                return full
        raise TimeoutError(f"no picture in full quality came in {seconds} s")
