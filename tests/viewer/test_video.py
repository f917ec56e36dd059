"""Videos and commands of the panel: picture for picture what a shell renders from the files that it names."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mediapy
import numpy as np
import pytest
import torch
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.viewer.render_panel import Keyframe
from support.small_runs import write_run, write_small_re10k
from support.viewer_panel import Panel

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.cli.render import render
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.plugin.run_folder import derive_run
from scenetok_ns.tools.ffmpeg import put_ffmpeg_on_path

VIDEO = "Video"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    """A small run folder in the viewer, with a scene, a seed and tokens that its configuration doesn't name."""
    put_ffmpeg_on_path()
    folder = tmp_path_factory.mktemp("video")
    run = write_run(write_small_re10k(folder / "re10k"), folder / "runs")
    panel = Panel(derive_run(run, folder / "unused").load(), run, random=False)
    session = panel.pipeline.SceneTok.session
    session.shown.show(1)
    rest = replace(session.view.settings.rest, steps=3)
    session.view.settings = replace(session.view.settings, rest=rest, seed=5, num_tokens=5)
    yield panel
    panel.close()


@pytest.fixture(autouse=True)
def unchanged(opened: Panel) -> Iterator[None]:
    """Settings, elements and files as at the beginning."""
    session, part = opened.pipeline.SceneTok.session, opened.pipeline.SceneTok.part(VIDEO)
    settings = session.view.settings
    values = {element: element.value for element in part.folder.elements if hasattr(element, "default_value")}
    part.folder.status.say("")
    part.tab.parts["camera_path"].reset()
    shutil.rmtree(opened.folder / "viewer", ignore_errors=True)
    yield
    session.view.settings = settings
    for element, value in values.items():
        element.value = value


def made(panel: Panel) -> Path:
    """The video that the panel renders."""
    panel.press(f"{VIDEO}/Render video")
    panel.wait(lambda: " frames, " in panel.says(VIDEO))
    return next((panel.folder / "viewer" / "videos").glob("*/renders/*.mp4"))


def command_of(panel: Panel) -> list[str]:
    """The words of the command beside the video."""
    text = panel.pipeline.SceneTok.part(VIDEO).line.content
    return shlex.split(json.loads(text.split("<pre")[1].split("}}>{")[1].split("}</pre>")[0]))


def rendered(words: list[str], output: Path) -> list[np.ndarray]:
    """Run a `scenetok render` command; return the video that it writes."""
    assert words[:2] == ["scenetok", "render"]
    given: dict[str, list[str]] = {}
    for word in words[2:]:
        if word.startswith("--"):
            given[word[2:].replace("-", "_")] = []
        else:
            given[next(reversed(given))].append(word)
    options: dict[str, Any] = {name: values[0] for name, values in given.items()}
    options |= {name: int(options[name]) for name in ("frames", "seed", "steps") if name in options}
    options["size"] = (int(given["size"][0]), int(given["size"][1]))
    options |= {"run": Path(options["run"]), "tokens": (Path(options["tokens"]),), "output": output}
    render(**{**options, "frame_rate": float(options["frame_rate"])})
    return list(mediapy.read_video(next(output.glob("*.mp4"))))


@pytest.mark.parametrize("path", ["orbit", "zoom", "keyframes of the Render tab"])
def test_a_video_is_that_of_the_command_beside_it(opened: Panel, tmp_path: Path, path: str) -> None:
    for name, value in (("Path", path), ("Frames", 5), ("Width", 96), ("Height", 64), ("Frames a second", 12.0)):
        opened.element(f"{VIDEO}/{name}").value = value
    if path.startswith("keyframes"):
        keyframes(opened, (96, 64))
    video = made(opened)
    frames = list(mediapy.read_video(video))
    assert frames[0].shape == (64, 96, 3) and len(frames) == (8 if path.startswith("keyframes") else 5)
    tokens = SceneTokens.load(video.parents[1] / "scene.safetensors")
    assert (tokens.scene, len(tokens.mean)) == (opened.pipeline.datamanager.scenes.keys[1], 5)
    again = rendered(command_of(opened), tmp_path / "again")
    assert len(again) == len(frames) and all((a == b).all() for a, b in zip(frames, again, strict=True))
    assert any(np.abs(frames[0].astype(float) - frame).mean() > 0.5 for frame in frames[1:])
    reseed(opened, 6)
    other = list(mediapy.read_video(made_after(opened, video)))
    assert np.abs(other[0].astype(float) - frames[0]).mean() > 0.5  # the seed is in it


def reseed(panel: Panel, seed: int) -> None:
    view = panel.pipeline.SceneTok.session.view
    view.settings = replace(view.settings, seed=seed)


def made_after(panel: Panel, video: Path) -> Path:
    panel.pipeline.SceneTok.part(VIDEO).folder.status.say("")
    made(panel)
    return next(path for path in (panel.folder / "viewer" / "videos").glob("*/renders/*.mp4") if path != video)


def keyframes(panel: Panel, size: tuple[int, int]) -> None:
    """Two keyframes in the Render tab, of 8 frames."""
    tab = panel.pipeline.SceneTok.part(VIDEO).tab
    tab.parts["resolution"].value = size
    client = next(iter(panel.viewer.viser_server.get_clients().values()))
    for turn in (0.0, 0.3):
        client.camera.wxyz = np.array([np.cos(turn), 0.0, np.sin(turn), 0.0])
        tab.parts["camera_path"].add_camera(Keyframe.from_camera(client.camera, size[0] / size[1]))
    tab.parts["framerate_number"].value, tab.parts["duration_number"].value = 16.0, 0.5
    tab.parts["camera_path"].framerate = 16.0
    tab.parts["camera_path"].update_spline()


def test_a_video_can_be_stopped_and_wrong_numbers_are_reported(opened: Panel) -> None:
    for name, value, said in (
        ("Frames", 0, "Frames must be from 1"),
        ("Width", 5, "from 16 to 4096"),
        ("Frames a second", 0.0, "Frames a second from 1"),
        ("Path", "keyframes of the Render tab", "add at least two keyframes"),
    ):
        element = opened.element(f"{VIDEO}/{name}")
        usual, element.value = element.value, value
        opened.press(f"{VIDEO}/Render video")
        opened.wait(lambda said=said: said in opened.says(VIDEO))
        element.value = usual
    opened.press(f"{VIDEO}/Download video")
    opened.wait(lambda: "there is no video yet" in opened.says(VIDEO))
    opened.element(f"{VIDEO}/Frames").value = 2000
    opened.press(f"{VIDEO}/Render video")
    opened.wait(lambda: "step" in opened.says(VIDEO))
    opened.press(f"{VIDEO}/Stop video")
    opened.wait(lambda: opened.says(VIDEO) == "stopped")
    assert not list((opened.folder / "viewer" / "videos").rglob("*.mp4"))


def test_generate_command_names_a_run_that_displays_what_is_on_screen(opened: Panel) -> None:
    keyframes(opened, (64, 64))
    tab, dialogs = opened.pipeline.SceneTok.part(VIDEO).tab, []
    client = next(iter(opened.viewer.viser_server.get_clients().values()))
    add_markdown = client.gui.add_markdown
    client.gui.add_markdown = lambda content, **options: dialogs.append(content) or add_markdown(content, **options)
    event = SimpleNamespace(client=client, client_id=client.client_id, target=tab.button)

    def press(name: str) -> None:
        tab.parts["render_name_text"].value = name
        tab.button._impl.update_cb[0](event_of(event))

    for name in ("../../out", "/out", "~/out"):
        press(name)
    assert not dialogs and not (opened.folder.parent / "out.json").exists()
    press("walk")
    words = shlex.split(json.loads(dialogs[0].split("<pre")[1].split("}}>{")[1].split("}</pre>")[0]))
    named = dict(zip(words[2::2], words[3::2], strict=True))
    config = Path(named["--load-config"])
    assert Path(named["--camera-path-filename"]).is_file() and opened.folder in config.parents
    saved = read_run(config.parent)
    assert saved.get_base_dir() == config.parent
    _, pipeline, _, _ = eval_setup(config, test_mode="inference")
    shown, renderer = opened.pipeline.SceneTok.session, pipeline.model.renderer
    tokens = shown.shown.tokens(shown.view.settings.num_tokens)
    assert torch.equal(renderer.tokens_of(renderer.scenes.active).mean.cpu(), tokens.mean.cpu())
    assert (renderer.settings.sampler, renderer.settings.seed) == (shown.view.settings.rest, 5)
    press("walk")  # the same again: no other folder
    assert len(list(config.parents[1].iterdir())) == 1
    reseed(opened, 7)
    press("walk")
    assert len(list(config.parents[1].iterdir())) == 2


def event_of(event: Any) -> Any:
    from viser import GuiEvent

    return GuiEvent(client=event.client, client_id=event.client_id, target=event.target)


def test_the_methods_of_the_package_listen_on_this_machine_alone(opened: Panel) -> None:
    saved = read_run(opened.folder)
    assert saved.viewer.websocket_host == "127.0.0.1" != ViewerConfig().websocket_host
    panel = opened.pipeline.SceneTok
    assert "Anybody on your network" not in panel._notes(opened.viewer)
    opened.viewer.config.websocket_host = "0.0.0.0"
    assert "--viewer.websocket-host 127.0.0.1" in panel._notes(opened.viewer)
