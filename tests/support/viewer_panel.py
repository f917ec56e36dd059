"""Nerfstudio's viewer with our panel and one websocket client, which acts like a browser and records the pictures."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.viewer import Viewer
from support.small_runs import randomize
from viewer_client import ViewerClient

from scenetok_ns.plugin.pipeline import SceneTokPipeline

Picture = np.ndarray
QUIET = 0.5


class Panel:
    """A viewer with one websocket client."""

    def __init__(self, pipeline: SceneTokPipeline, folder: Path, trainer: Any = None, random: bool = True) -> None:
        """`folder`: the run folder. `random`: set weights with which pictures depend on everything."""
        self.pipeline, self.folder = pipeline, folder
        if random:
            randomize(pipeline)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.viewer = Viewer(
            ViewerConfig(websocket_host="127.0.0.1", websocket_port=port, default_composite_depth=True),
            log_filename=folder / "viewer.log",
            datapath=folder,
            pipeline=pipeline,
            trainer=trainer,
            train_lock=threading.Lock(),  # type: ignore[arg-type]
        )
        self.viewer.control_panel._max_res.value = 64
        self.viewer.init_scene(pipeline.datamanager.train_dataset, "completed")
        self.client = ViewerClient(self.viewer.viser_server.get_port())
        self.client.look((0.0, 0.0, 0.0), aspect=1.0)
        self.picture = self.at_rest()

    def close(self) -> None:
        for _ in self.client.messages(0.2):  # else the connection waits for 10 s to be read to its end
            pass
        self.client.__exit__(None, None, None)
        self.viewer.viser_server.stop()

    def element(self, name: str) -> Any:
        """Find an element by "Folder/Name"."""
        folder, label = name.split("/")
        return self.pipeline.SceneTok.part(folder).folder.element(label)

    def at_rest(self) -> Picture:
        """Wait for the full picture after which no other one comes, and return it."""
        return self.client.at_rest(QUIET)

    def set(self, name: str, value: Any = True) -> Picture:
        """Set an element like a browser, or press it, and return the picture that this gives."""
        self.client.set(self.element(name).gui_handle._impl.id, value)
        self.picture = self.at_rest()
        return self.picture

    def says(self, folder: str = "Scene") -> str:
        """Status text of a folder."""
        return self.pipeline.SceneTok.part(folder).folder.status.value

    def press(self, name: str) -> None:
        """Press a button, whether or not it gives a picture."""
        self.client.set(self.element(name).gui_handle._impl.id, True)

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.says()
            time.sleep(0.02)

    def background(self, last: Callable[[dict[str, Any]], bool], seconds: float = 60) -> list[dict[str, Any]]:
        """Return the messages with pictures, up to the first one for which `last` is true."""
        found = []
        for message in self.client.messages(seconds):
            if message.get("type") == "BackgroundImageMessage":
                found.append(message)
                if last(message):
                    return found
        raise AssertionError(f"not in {seconds} s; {len(found)} other pictures came")

    def frustums(self) -> list[tuple[float, ...]]:
        return [tuple(handle.position) for handle in self.viewer.camera_handles.values()]
