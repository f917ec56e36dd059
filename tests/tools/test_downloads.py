"""Downloads give the same bytes whatever happens on the way, and one clear line for errors that cannot be overcome."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.file_server import PIECE, Answer, FileServer, serving

from scenetok_ns.tools import downloads
from scenetok_ns.tools.downloads import (
    DownloadError,
    Patience,
    check_space,
    download,
    looks_like_text,
    part_size,
    readable,
)

NAME = "weights.ckpt"
CONTENT = b"PK\x03\x04" + bytes(range(256)) * 6000
QUICK = Patience(connect_s=2.0, stall_s=0.3, attempts=3, first_wait_s=0.0)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({NAME: CONTENT}) as running:
        yield running


def fetch(server: FileServer, target: Path, **options: Any) -> None:
    download(f"{server.address}/{NAME}", target, **{"patience": QUICK, "notice": lambda line: None, **options})


def alone(target: Path) -> bool:
    return [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_file_arrives_whole_with_progress(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(server, tmp_path / "new" / NAME, report=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "new" / NAME).read_bytes() == CONTENT and alone(tmp_path / "new" / NAME)
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT)) and len(seen) > 2


def test_a_file_that_is_there_is_not_asked_for(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    fetch(server, tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == b"mine" and server.requests == []


DOWNLOAD = "import sys, pathlib, scenetok_ns.tools.downloads as d; d.download(sys.argv[1], pathlib.Path(sys.argv[2]))"


def test_what_a_kill_after_the_last_move_leaves_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "file"
    for name in (".file.lock", "file.part.json"):
        (tmp_path / name).touch()
    downloads.clear_finished(target)
    assert len(list(tmp_path.iterdir())) == 2, "a download under way is left alone"
    target.write_bytes(b"whole")
    downloads.clear_finished(target)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("part", [0.0, 0.8])
def test_a_killed_download_is_continued_where_it_was(server: FileServer, tmp_path: Path, part: float) -> None:
    target, enough = tmp_path / NAME, threading.Event()
    server.on_piece = lambda sent: enough.set() if sent >= part * len(CONTENT) - PIECE else None
    server.seconds_per_piece = 0.02
    url = f"{server.address}/{NAME}"
    # Not a fork: this process has threads, whose locks a fork would find held.
    process = subprocess.Popen([sys.executable, "-c", DOWNLOAD, url, str(target)])
    assert enough.wait(60)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not target.exists()

    server.seconds_per_piece, server.on_piece = 0.0, lambda sent: None
    have = part_size(target)
    fetch(server, target)
    assert target.read_bytes() == CONTENT and alone(target)
    asked = server.gets(NAME)[-1].get("Range")
    assert asked == (f"bytes={have}-" if have else None)
    assert part < 0.5 or have > 0


def test_a_part_that_was_complete_gets_its_name_without_a_request(server: FileServer, tmp_path: Path) -> None:
    server.answers[NAME] = [Answer(cut_after=PIECE)]
    with pytest.raises(DownloadError):
        fetch(server, tmp_path / NAME)
    (tmp_path / (NAME + ".part")).write_bytes(CONTENT)
    count = len(server.requests)
    fetch(server, tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == CONTENT and len(server.requests) == count and alone(tmp_path / NAME)


def test_cut_connections_are_continued(server: FileServer, tmp_path: Path) -> None:
    server.answers[NAME] = [*(Answer(cut_after=PIECE) for _ in range(2)), Answer()]
    notices: list[str] = []
    fetch(server, tmp_path / NAME, notice=notices.append)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert [headers.get("Range") for headers in server.gets(NAME)] == [None, f"bytes={PIECE}-", f"bytes={2 * PIECE}-"]
    assert notices[0] == f"the connection ended after {PIECE} bytes; trying again in 0 s"


def test_a_part_that_nobody_asked_for_is_continued(server: FileServer, tmp_path: Path) -> None:
    part = Answer(206, {"Content-Range": f"bytes 0-99/{len(CONTENT)}"}, CONTENT[:100])
    server.answers[NAME] = [part, Answer()]
    fetch(server, tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == CONTENT and server.gets(NAME)[-1]["Range"] == "bytes=100-"


def test_progress_gives_new_attempts(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PROGRESS", PIECE)
    server.answers[NAME] = [Answer(cut_after=PIECE)]  # always: more cuts than attempts
    fetch(server, tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == CONTENT and len(server.gets(NAME)) > QUICK.attempts


def test_a_server_without_ranges_starts_again(server: FileServer, tmp_path: Path) -> None:
    server.answers[NAME] = [Answer(cut_after=5 * PIECE, ranges=False), Answer(ranges=False)]
    fetch(server, tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("without", [(), ("ETag",)])
def test_a_file_that_changed_on_the_server_is_not_mixed(
    server: FileServer, tmp_path: Path, without: tuple[str, ...]
) -> None:
    server.answers[NAME] = [Answer(cut_after=PIECE, without=without)]
    with pytest.raises(DownloadError):
        fetch(server, tmp_path / NAME)
    changed = CONTENT[::-1] + (b"longer" if without else b"")  # without a tag, the size must tell
    server.files[NAME], server.answers = changed, {}
    fetch(server, tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == changed


def test_a_part_of_another_address_is_not_used(server: FileServer, tmp_path: Path) -> None:
    server.answers[NAME] = [Answer(cut_after=PIECE)]
    with pytest.raises(DownloadError):
        fetch(server, tmp_path / NAME)
    server.files["other"] = CONTENT[::-1]
    download(f"{server.address}/other", tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == CONTENT[::-1]


def test_a_busy_server_is_asked_again_when_it_says(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(downloads.time, "sleep", waits.append)
    server.answers[NAME] = [Answer(503, {"Retry-After": "7"}), Answer(429), Answer(502), Answer()]
    fetch(server, tmp_path / NAME, patience=Patience(attempts=4, first_wait_s=1.0))
    assert (tmp_path / NAME).read_bytes() == CONTENT and waits[:3] == [7.0, 2.0, 4.0]


def test_redirects_are_followed(server: FileServer, tmp_path: Path) -> None:
    server.files["elsewhere"] = CONTENT
    server.answers[NAME] = [Answer(302, {"Location": f"{server.address}/elsewhere"})]
    fetch(server, tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == CONTENT


PAGE = b"<!DOCTYPE html><html>Share</html>"
FAULTS: dict[str, tuple[list[Answer], str]] = {
    "404": ([Answer(404)], r"does not have the file \(any more\) \(404 Not Found\)"),
    "410": ([Answer(410)], r"removed from the server \(410 Gone\)"),
    "403": ([Answer(403)], r"refuses access \(403"),
    "401": ([Answer(401)], r"password or an accepted licence \(401"),
    "451": ([Answer(451)], r"does not send the file \(451"),
    "503": ([Answer(503)], r"answers 503 Service Unavailable; gave up after 3 attempts"),
    "429": ([Answer(429, {"Retry-After": "0"})], r"answers 429 Too Many Requests; gave up after 3"),
    "500": ([Answer(500)], r"answers 500"),
    "page": ([Answer(page=True, body=PAGE)], r"web page or a message \(text/html\) instead of the file"),
    "page as a file": ([Answer(page=True, body=PAGE, headers={"Content-Type": "a/b"})], r"web page or a message inste"),
    "message": ([Answer(page=True, body=b'{"error": 1}', headers={"Content-Type": "a/b"})], r"web page or a message"),
    "plain text": (
        [Answer(page=True, body=b"Too many requests", headers={"Content-Type": "a/b"})],
        r"web page or a mess",
    ),
    "list": ([Answer(page=True, body=b" [1, 2]\n", headers={"Content-Type": "a/b"})], r"web page or a message"),
    "empty": ([Answer(page=True, body=b"", headers={"Content-Type": "a/b"})], r"^the server sent an empty file"),
    "no content": ([Answer(204)], r"does not send the file \(204"),
    "range": ([Answer(416)], r"does not send the file \(416"),
    "no length": ([Answer(headers={"Content-Length": "abc"})], r"answer is broken \(Content-Length: abc\)"),
    "length below 0": ([Answer(headers={"Content-Length": "-5"})], r"answer is broken \(Content-Length: -5\)"),
    "compressed": ([Answer(headers={"Content-Encoding": "gzip"})], r"proxy sends the file compressed \(gzip\)"),
    "redirect to nowhere": ([Answer(302)], r"does not send the file \(302"),
    "redirect to a file": ([Answer(302, {"Location": "file:///etc/hosts"})], r"not an address of a file: .*file:///"),
    "redirect to nonsense": ([Answer(302, {"Location": "http://[::x/"})], r"redirects to an invalid address \("),
    "another part": (
        [Answer(206, {"Content-Range": "bytes 100-199/1536004"}, body=b"x" * 100)],
        r"part does not belong to the server's file.*; gave up after 3",
    ),
    "cut": ([Answer(cut_after=PIECE, ranges=False)], rf"ended after {PIECE} bytes; gave up after 3 attempts"),
    "slow": ([Answer(stall_after=PIECE)], r"no data for 0\.3 s, after \d+ bytes; gave up after 3"),
    "circle": ([Answer(302, {"Location": f"/{NAME}"})], r"redirects in a circle"),
    "another size": ([Answer(total=123)], r"offers a file of 123 bytes, the released one has 1536004"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_one_line(server: FileServer, tmp_path: Path, fault: str) -> None:
    server.answers[NAME], message = FAULTS[fault]
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(server, tmp_path / NAME, size=None if "page" in message or "empty" in message else len(CONTENT))
    assert "\n" not in str(caught.value) and not (tmp_path / NAME).exists()
    server.answers.clear()
    fetch(server, tmp_path / NAME, size=len(CONTENT))  # nothing that the fault left is in the way
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_file_of_unknown_length_and_the_wrong_size_is_refused(server: FileServer, tmp_path: Path) -> None:
    server.answers[NAME] = [Answer(without=("Content-Length",), headers={"Connection": "close"}, cut_after=PIECE)]
    with pytest.raises(DownloadError, match=f"sent {PIECE} bytes, the released file has {len(CONTENT)}"):
        fetch(server, tmp_path / NAME, size=len(CONTENT))
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/x", r"no connection \(Connection refused\); gave up after 3"),
        ("http://nowhere.invalid/x", r"no connection \(.*\); gave up after 3"),
        ("ftp://127.0.0.1/x", "not an address of a file"),
    ],
)
def test_addresses_that_nobody_answers_at(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(DownloadError, match=message) as caught:
        download(url, tmp_path / NAME, patience=QUICK, notice=lambda line: None)
    assert "\n" not in str(caught.value)


def test_https_is_not_left(server: FileServer) -> None:
    import requests

    answer, step = requests.Response(), requests.Response()
    step.url, answer.url, answer.history = "https://a/x", "http://b/x", [step]
    with pytest.raises(DownloadError, match="redirects from https to http://b/x"):
        downloads._check_secure("https://a/x", answer)
    answer.url = "https://b/x"
    downloads._check_secure("https://a/x", answer)


def test_a_disk_without_room_is_said_before_anything_moves(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(DownloadError, match=r"weights\.ckpt needs 1\.5 MiB in .*, which has 1000 bytes free"):
        fetch(server, tmp_path / NAME)
    assert part_size(tmp_path / NAME) == 0
    with pytest.raises(DownloadError, match=r"needs 2\.0 KiB"):
        check_space(tmp_path / "not" / "there", 2048, "it")


def test_a_disk_that_fills_up_keeps_the_part(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *args: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            if self.file.tell() >= 1 << 20:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

    opened = Path.open

    def open_full(path: Path, *args: Any, **options: Any) -> Any:
        file = opened(path, *args, **options)
        return Full(file) if path.suffix == ".part" else file

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(DownloadError, match=r"the disk of .* is full, .* missing; free some space"):
        fetch(server, tmp_path / NAME)
    monkeypatch.undo()
    assert part_size(tmp_path / NAME) == 1 << 20
    fetch(server, tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == CONTENT and server.gets(NAME)[-1]["Range"] == f"bytes={1 << 20}-"


def test_folders_that_cannot_be_written_to_are_named(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"cannot write to .*file"):
        fetch(server, tmp_path / "file" / NAME)


def test_two_processes_do_not_write_the_same_part(server: FileServer, tmp_path: Path) -> None:
    with downloads._alone(tmp_path / NAME), pytest.raises(DownloadError, match="another process is downloading"):
        fetch(server, tmp_path / NAME)


def test_a_server_that_is_none_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def talk() -> None:
            for _ in range(QUICK.attempts):
                client, _ = listening.accept()
                with client:
                    client.recv(1000)
                    client.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/x"
        with pytest.raises(DownloadError, match=r"^no connection \(SSH-2\.0-OpenSSH\); gave up after 3 attempts$"):
            download(url, tmp_path / NAME, patience=QUICK, notice=lambda line: None)
        thread.join()


@pytest.mark.parametrize(
    ("beginning", "text"),
    [
        (b"PK\x03\x04", False),  # torch's files
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", False),  # older ones
        (b'\x28\x00\x00\x00\x00\x00\x00\x00{"a":', False),  # safetensors
        (b"<html>", True),
        (b"\xef\xbb\xbf\r\n{}", True),
        ("zu viele Anfragen, später".encode()[:25], True),  # ends within a character
        (b"", True),
    ],
)
def test_files_of_weights_do_not_look_like_text(beginning: bytes, text: bool) -> None:
    assert looks_like_text(beginning) is text


def test_sizes_for_people() -> None:
    assert [readable(n) for n in (0, 1023, 1024, 3 << 30)] == ["0 bytes", "1023 bytes", "1.0 KiB", "3.0 GiB"]
