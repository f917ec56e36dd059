"""`scenetok capture`: from pictures to a capture that the other commands read, and on to the viewer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.room_pictures import walk, write_photographs

from scenetok_ns.cli.main import entrypoint


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "my photos"
    write_photographs(folder, walk(9))
    return folder


def run(*words: object) -> None:
    entrypoint(["capture", *map(str, words)])


def test_capture_to_viewer(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The first call finds the cameras. The second, with --open, continues from the folder of the first."""
    monkeypatch.chdir(tmp_path)
    run(photographs, "--threads", 1)
    said = capsys.readouterr().err
    assert "my photos-capture is ready" in said and "9 of 9 pictures have a camera (100%)" in said
    assert "scenetok capture" in said and "--output 'my photos-capture' --open" in said
    assert "--data 'my photos-capture' --output scene.safetensors --fit-steps 60" in said
    assert "scenetok-refine" not in said  # of nine photographs, fitting makes more

    from scenetok_ns.cli import viewing

    served = []
    monkeypatch.setattr(viewing, "start_viewer", lambda config, pipeline: served.append((config, pipeline)))
    run(photographs, "--threads", 1, "--open")
    said = capsys.readouterr().err
    assert "my photos-capture already exists; using it" in said and "starting the viewer" in said
    ((config, pipeline),) = served
    folder = tmp_path / "my photos-capture/run-scenetok-tiny"
    assert config.get_base_dir() == folder and (folder / "config.yml").is_file()
    renderer, scenes = pipeline.model.renderer, pipeline.model.renderer.scenes
    assert scenes.scene(scenes.active).scene.num_frames == 9
    assert renderer.tokens_of(scenes.active).mean.isfinite().all()
    run(photographs, "--threads", 1, "--open")  # the run folder exists already and is used
    assert len(served) == 2


def test_nerfstudio_starts_a_viewer_as_we_ask_it_to() -> None:
    import inspect

    from nerfstudio.scripts.viewer.run_viewer import _start_viewer

    assert list(inspect.signature(_start_viewer).parameters) == ["config", "pipeline", "step"]


def test_bad_words_and_interrupts(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    finished = tmp_path / "finished"
    finished.mkdir()
    (finished / "transforms.json").write_text("{}")
    three = tmp_path / "three"
    write_photographs(three, walk(3))
    for words, said in (
        ([tmp_path / "gone"], "scenetok capture: no photographs or video at"),
        ([photographs, "--frames", 0], "--frames must be at least 1, got 0"),
        ([photographs, "--threads", -3], "--threads must be at least 1, got -3"),
        ([photographs, "--run", "scenetok-tiny"], "--run only works with --open"),
        ([three], r"three: 3 pictures, too few .* run scenetok gallery, upload them, choose 'all uploaded'"),
        ([finished], "finished is a capture with cameras already; the next step is `scenetok encode --data"),
    ):
        with pytest.raises(SystemExit, match=said):
            run(*words, "--output", tmp_path / "out")
    from scenetok_ns.data.capture import capture_folder

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(capture_folder, "find_matches", interrupted)
    with pytest.raises(SystemExit, match="interrupted"):
        run(photographs, "--output", tmp_path / "out")
    assert "the same command continues where it stopped" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_cameras_are_found_without_nerfstudio_and_torch(photographs: Path, tmp_path: Path) -> None:
    """Importing these takes ten seconds, longer than the cameras of the twelve pictures of a first try."""
    import subprocess

    code = "import sys; from scenetok_ns.cli.main import entrypoint; entrypoint(sys.argv[1:]); import json;" + (
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'nerfstudio', 'viser'})))"
    )
    words = [
        sys.executable,
        "-c",
        code,
        "capture",
        str(photographs),
        "--output",
        str(tmp_path / "out"),
        "--threads",
        "1",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PATH": ""} | _home())
    assert json.loads(done.stdout) == []


def _home() -> dict[str, str]:
    import os

    return {name: os.environ[name] for name in ("HOME", "XDG_CACHE_HOME", "PYTHONPATH") if name in os.environ}
