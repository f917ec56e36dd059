"""`scenetok download`: plans, downloaded files, checks against known sizes and hashes, and the final run folder."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from nerfstudio.utils.eval_utils import eval_setup
from support.file_server import Answer, FileServer, serving
from support.released_files import random_state, write_lightning

from scenetok_ns.cli.main import entrypoint
from scenetok_ns.models.presets import config_folder, load_preset
from scenetok_ns.tools import download_records, downloads
from scenetok_ns.tools.download_records import recorded
from scenetok_ns.tools.downloads import part_size

CHECKPOINT, VAVAE, DCAE, WAN = (
    "va-videodc_re10k.ckpt",
    "vavae-imagenet256-f16d32-dinov2.pt",
    "F32T4C128_AE.safetensors",
    "Wan2.2_VAE.pth",
)
CONTENT = b"\x80\x02" + bytes(300_000) + b"\x01\x80"
"""It begins like a pickle, also backwards."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({CHECKPOINT: CONTENT, VAVAE: CONTENT[::-1], DCAE: CONTENT * 2, WAN: CONTENT}) as running:
        yield running


def run(server: FileServer, *words: str) -> None:
    entrypoint(["download", *words, "--mirror", server.address + "/"])


def failure(server: FileServer, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run(server, *words)
    assert "\n" not in str(stop.value)
    return str(stop.value)


def test_the_files_of_a_preset_arrive_and_the_import_is_printed(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run(server, "re10k", "--to", str(tmp_path / "to"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == {
        CHECKPOINT: CONTENT,
        VAVAE: CONTENT[::-1],
        DCAE: CONTENT * 2,
    }
    printed = capsys.readouterr().out
    assert f"scenetok import --preset re10k --checkpoint {tmp_path}/to/{CHECKPOINT} --vavae {tmp_path}" in printed
    assert f"--video-dcae {tmp_path}/to/{DCAE} --output runs/re10k" in printed
    count = len(server.requests)
    run(server, "re10k", "--to", str(tmp_path / "to"))
    assert len(server.requests) == count


def test_without_a_folder_files_go_to_the_cache(server: FileServer, tmp_path: Path) -> None:
    run(server, "dl3dv-shift8-fixed")  # its checkpoint was not released, so only its autoencoders are downloaded
    assert sorted(path.name for path in (tmp_path / "cache/scenetok_ns/weights").iterdir()) == [DCAE, VAVAE]


@pytest.mark.parametrize("words", [["re10k", "--dry-run"], ["--list"], ["re10k", "--list"]])
def test_plans_and_lists_move_nothing(
    server: FileServer, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture
) -> None:
    run(server, *words)
    printed = capsys.readouterr().out
    assert f"{CHECKPOINT}: about 3.0 GiB; licence: none published for the weights" in printed
    assert ("Wan2.2_VAE.pth: 2.6 GiB; licence: Apache-2.0" in printed) == (words == ["--list"])
    assert ("(to download)" in printed) == ("--dry-run" in words)
    assert server.requests == [] and not (tmp_path / "cache").exists()


def test_a_plan_says_what_is_there(server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / VAVAE).write_bytes(b"\x80\x02.")
    (tmp_path / (CHECKPOINT + ".part")).write_bytes(bytes(2048))
    entrypoint(["download", "re10k", "--dry-run", "--to", str(tmp_path)])
    printed = capsys.readouterr().out
    assert f"from https://nextcloud.mpi-klsb.mpg.de/index.php/s/6Y7EsosfbnpcRxj/download\n  to   {tmp_path}" in printed
    assert f"{tmp_path}/{CHECKPOINT} (2.0 KiB of it there)" in printed and f"{tmp_path}/{VAVAE} (there)" in printed
    assert f"https://huggingface.co/hpcai-tech/Open-Sora-v2-Video-DC-AE/blob/main/{DCAE}" in printed


def test_a_plan_names_files_that_cannot_be_the_released_ones_and_counts_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"<html>a page of 30 bytes</html>")
    entrypoint(["download", "re10k", "--dry-run", "--to", str(tmp_path)])
    printed = capsys.readouterr().out
    assert f"{CHECKPOINT} (is a web page or a message, not the file)" in printed
    assert "2 of the files to download: about 2.0 GiB and 1 of unknown size" in printed
    assert re.search(rf"GiB free in {tmp_path}\n  by hand: put files .* into {tmp_path} \(--to DIR", printed)


def test_without_a_network_all_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as stop:
        entrypoint(["download", "re10k", "--to", str(tmp_path)])
    said = str(stop.value)
    assert f"download: {CHECKPOINT}: HF_HUB_OFFLINE is set" in said and f"put it at {tmp_path / CHECKPOINT}" in said
    pages = (
        "https://huggingface.co/hustvl/vavae-imagenet256-f16d32-dinov2/blob/main",
        "https://huggingface.co/hpcai-tech",
    )
    assert f"Also missing: {VAVAE} ({pages[0]}/{VAVAE}), {DCAE} ({pages[1]}/" in said


def test_the_first_download_is_recorded_and_later_ones_are_compared(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run(server, "re10k", "--to", str(tmp_path / "one"))
    first = recorded(CHECKPOINT)
    assert first is not None and first["source"] == f"{server.address}/{CHECKPOINT}"
    run(server, "re10k", "--to", str(tmp_path / "two"))
    server.files[CHECKPOINT] = CONTENT + b"changed"
    said = failure(server, "re10k", "--to", str(tmp_path / "three"))
    assert f"{CHECKPOINT} is not the file that was first downloaded here ({first['date']})" in said
    assert f"was {first['sha256']}" in said and "--accept-changed" in said
    run(server, "re10k", "--to", str(tmp_path / "three"), "--accept-changed")
    second = recorded(CHECKPOINT)
    assert second is not None and second["sha256"] != first["sha256"]


def test_a_published_size_and_hash_are_compared(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = failure(server, "dl3dv-wan-shift8", "--to", str(tmp_path))
    assert f"{WAN}: the server offers a file of {len(CONTENT)} bytes, the released one has 2818839170" in said
    assert "get the file with a browser from https://huggingface.co/Wan-AI/Wan2.2-TI2V-5B/blob/921dbaf" in said
    assert f"put it at {tmp_path / WAN}" in said
    (tmp_path / WAN).write_bytes(CONTENT)
    assert f"{WAN} has {len(CONTENT)} bytes, the released file 2818839170: remove it" in failure(
        server, "dl3dv-wan-shift8", "--to", str(tmp_path)
    )
    with (tmp_path / WAN).open("wb") as file:
        file.truncate(2_818_839_170)  # a sparse file, which takes no space on the disk
    monkeypatch.setattr("scenetok_ns.tools.digests.sha256_of", lambda path, progress: "0" * 64)
    assert "is not the released file: its SHA-256 is 0000" in failure(server, "dl3dv-wan-shift8", "--to", str(tmp_path))


def test_a_page_saved_as_the_file_is_refused(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"<!DOCTYPE html>")
    said = failure(server, "re10k", "--to", str(tmp_path))
    assert f"{tmp_path / CHECKPOINT} is a web page or a message, not the file: remove it and try again" in said


def test_a_server_s_fault_names_the_link_and_the_place(server: FileServer, tmp_path: Path) -> None:
    server.answers[CHECKPOINT] = [Answer(404)]
    said = failure(server, "re10k", "--to", str(tmp_path))
    assert said.startswith(f"scenetok download: {CHECKPOINT}: the server does not have the file (any more) (404")
    assert "with a browser from https://nextcloud.mpi-klsb.mpg.de/index.php/s/6Y7EsosfbnpcRxj and put" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a preset to download, or list all files with --list; presets: dl3dv-shift4, "),
        (["nonsense"], "unknown preset 'nonsense'"),
        (["scenetok-tiny"], "preset scenetok-tiny comes with the package: there is nothing to download"),
        (["re10k", "--data", "."], "--data only works with --output"),
        (["re10k", "--output", "."], "exists; choose another --output"),
        (["re10k", "--output", "new", "--data", "nowhere"], "no data at nowhere"),
        (["dl3dv-shift4", "--output", "new"], "no checkpoint of preset dl3dv-shift4 was released: leave out --output"),
    ],
)
def test_impossible_requests_move_nothing(server: FileServer, words: list[str], message: str) -> None:
    assert message in failure(server, *words)
    assert server.requests == []


@pytest.mark.parametrize("address", ["nonsense", "", "ftp://server"])
def test_a_mirror_is_an_address(address: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        entrypoint(["download", "re10k", "--mirror", address])
    said = f"{stop.value} {capsys.readouterr().err}"
    assert f"--mirror must be an address such as http://server/weights, got {address!r}" in said


def test_room_for_all_files_is_checked_before_the_first_moves(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 4 << 30})())
    said = failure(server, "re10k", "--to", str(tmp_path))
    assert f"{CHECKPOINT}, {VAVAE}, {DCAE} needs 5.0 GiB in {tmp_path}, which has 4.0 GiB free" in said
    assert server.requests == []


def test_offline_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit, match="HF_HUB_OFFLINE is set and the file is not here"):
        entrypoint(["download", "re10k", "--to", str(tmp_path)])


def test_it_ends_in_a_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((config_folder() / "scenetok-tiny.yaml").read_text())
    del values["embedded_weights"]
    values["compressor"].update(hidden_size=32, depth=1, num_heads=2, num_tokens=16, token_dim=8)
    values["denoiser"].update(hidden_size=32, depth=1, num_heads=2)
    (tmp_path / "small.yaml").write_text(yaml.dump({**values, "checkpoint": CHECKPOINT}))
    state = random_state(load_preset(str(tmp_path / "small.yaml")))
    with serving({CHECKPOINT: write_lightning(tmp_path / "small.ckpt", state)}) as server:
        run(server, str(tmp_path / "small.yaml"), "--output", str(tmp_path / "run"))
    saved = torch.load(tmp_path / "run/nerfstudio_models/step-000000000.ckpt", weights_only=True)["pipeline"]
    assert all(torch.equal(saved["_model.scenetok." + key], value) for key, value in state.items())
    assert (tmp_path / "run/config.yml").is_file()
    said = capsys.readouterr().err
    assert "It displays data/re10k, which is not there: put a data set there, or" in said
    assert f"scenetok new-run {tmp_path}/run --data DATA --output RUN2" in said


TRANSFER = "import sys, pathlib, scenetok_ns.tools.downloads as d; d.download(sys.argv[1], pathlib.Path(sys.argv[2]))"
"""The download itself, without the command's checks, in a process that starts quickly."""


def test_a_download_that_is_killed_five_times_ends_in_a_run_that_opens_with_the_same_bytes(
    workplace: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load((workplace / "small.yaml").read_text())
    (tmp_path / "small.yaml").write_text(yaml.dump({**values, "checkpoint": CHECKPOINT}))
    state = random_state(load_preset(str(workplace / "small.yaml")))
    file = write_lightning(tmp_path / "small.ckpt", state, more=torch.zeros(500_000))
    size, kills, target = file.stat().st_size, 5, tmp_path / "to" / CHECKPOINT
    parts: list[int] = []
    limit, reached, killed = 0, threading.Event(), threading.Event()

    def pause(place: int) -> None:
        if len(parts) < kills and place >= limit:
            reached.set()
            killed.wait(60)

    with serving({CHECKPOINT: file}, on_piece=pause) as server:
        for number in range(kills):
            limit = size * (2 * number + 1) // (2 * kills)
            reached.clear()
            killed.clear()
            process = subprocess.Popen([sys.executable, "-c", TRANSFER, f"{server.address}/{CHECKPOINT}", target])
            assert reached.wait(60)
            while part_size(target) < limit and process.poll() is None:
                time.sleep(0.01)
            process.kill()
            assert process.wait() == -signal.SIGKILL and not target.exists()
            parts.append(part_size(target))
            killed.set()
        words = ["--to", str(target.parent), "--data", str(workplace / "data"), "--output", str(tmp_path / "run")]
        run(server, str(tmp_path / "small.yaml"), *words)
        ranges = [headers.get("Range") for headers in server.gets(CHECKPOINT)]
    assert parts == sorted(set(parts)) and ranges == [None, *(f"bytes={part}-" for part in parts)]
    assert target.read_bytes() == file.read_bytes() and list(target.parent.iterdir()) == [target]
    loaded = eval_setup(tmp_path / "run" / "config.yml", test_mode="inference")[1].model.scenetok.state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[key].cpu(), state[key]) for key in state)


def test_records_survive_damage_and_folders_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download_records.record("a", "1" * 64, "http://a")
    (download_records.cache_folder() / "downloads.json").write_text("{")
    assert recorded("a") is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    download_records.record("a", "1" * 64, "http://a")
    assert recorded("a") is None


def test_a_file_of_another_kind_is_refused_and_does_not_become_the_reference(
    server: FileServer, tmp_path: Path
) -> None:
    """A file that was put there by hand, or a cut one, must not make the right file look changed."""
    folder = tmp_path / "by hand"
    folder.mkdir()
    (folder / CHECKPOINT).write_bytes(bytes(range(1, 128)) * 100)
    said = failure(server, "re10k", "--to", str(folder))
    assert "is not a whole PyTorch file (12700 bytes): remove it and try again" in said
    assert recorded(CHECKPOINT) is None
    (folder / CHECKPOINT).unlink()
    run(server, "re10k", "--to", str(folder))
    assert recorded(CHECKPOINT) is not None
