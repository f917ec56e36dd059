"""Downloads from the Hugging Face Hub respect its library's settings, and its errors become one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.file_server import PIECE, Answer, FileServer, serving

from scenetok_ns.tools import downloads
from scenetok_ns.tools.downloads import DownloadError
from scenetok_ns.tools.hub_downloads import hub_cached, hub_download, hub_page

REPOSITORY, NAME, COMMIT = "owner/name", "vae.pth", "9" * 40
CONTENT = b"PK\x03\x04" + bytes(range(256)) * 2000


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    files: dict[str, bytes | Path] = {
        f"{REPOSITORY}/resolve/{revision}/{NAME}": CONTENT for revision in ("main", COMMIT)
    }
    with serving(files) as running:
        # As HF_ENDPOINT and HF_HOME set them when the library is imported.
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
        yield running


def path_of(revision: str = "main") -> str:
    return f"{REPOSITORY}/resolve/{revision}/{NAME}"


def test_a_file_goes_to_the_cache_once(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = hub_download(REPOSITORY, NAME, COMMIT)
    assert path.read_bytes() == CONTENT and (tmp_path / "hub") in path.parents
    asked = [headers for _, path, headers in server.requests if path == path_of(COMMIT)]
    assert len(asked) > 1 and {headers.get("authorization") for headers in asked} == {"Bearer hf_secret"}
    assert not [path for _, path, _ in server.requests if path == path_of()]


def test_a_file_goes_to_a_folder(server: FileServer, tmp_path: Path) -> None:
    assert hub_cached(REPOSITORY, NAME, None, tmp_path / "to") is None
    path = hub_download(REPOSITORY, NAME, None, tmp_path / "to", size=len(CONTENT))
    assert path == tmp_path / "to" / NAME and path.read_bytes() == CONTENT
    assert hub_cached(REPOSITORY, NAME, None, tmp_path / "to") == path
    assert not (tmp_path / "hub").exists()


def test_a_cut_connection_is_continued(server: FileServer, tmp_path: Path) -> None:
    server.answers[path_of()] = [Answer(cut_after=PIECE), Answer()]
    assert hub_download(REPOSITORY, NAME, None, tmp_path).read_bytes() == CONTENT
    assert server.gets(path_of())[-1]["Range"].startswith("bytes=")


FAULTS = {
    "no file": (Answer(404, {"X-Error-Code": "EntryNotFound"}), r"does not have the file any more \(404\)"),
    "no revision": (Answer(404, {"X-Error-Code": "RevisionNotFound"}), "does not have the pinned revision any more"),
    "no repository": (
        Answer(401, {"X-Error-Code": "RepoNotFound"}),
        "has no repository owner/name, or requires a token",
    ),
    "no licence": (
        Answer(403, {"X-Error-Code": "GatedRepo"}),
        r"licence of owner/name is not accepted: accept it at http://127.*/owner/name and log in with `hf auth login`",
    ),
    "busy": (Answer(503), "answers 503"),
    "a page": (Answer(200, {"Content-Type": "text/html"}), "missing the .X-Repo-Commit. header.* check that"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_one_line(server: FileServer, tmp_path: Path, fault: str) -> None:
    answer, message = FAULTS[fault]
    server.answers[path_of()] = [answer]
    with pytest.raises(DownloadError, match=message) as caught:
        hub_download(REPOSITORY, NAME, None, tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / NAME).exists()


def test_files_that_cannot_be_right_or_have_no_room_do_not_move(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadError, match=f"offers a file of {len(CONTENT)} bytes, the released one has 5"):
        hub_download(REPOSITORY, NAME, None, tmp_path, size=5)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(DownloadError, match=r"vae\.pth needs 500\.0 KiB in .*, which has 1000 bytes free"):
        hub_download(REPOSITORY, NAME, None, tmp_path)
    assert server.gets(path_of()) == []


def test_nothing_is_asked_offline_or_where_nobody_answers(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set and the file is not in the cache"):
        hub_download(REPOSITORY, NAME, None)
    assert server.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:1/{repo_id}/{revision}/{filename}")
    with pytest.raises(DownloadError, match="refused") as caught:
        hub_download(REPOSITORY, NAME, None)
    assert "\n" not in str(caught.value)


def test_pages_for_a_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_page("o/n", "f") == "https://huggingface.co/o/n/blob/main/f"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror/")
    assert hub_page("o/n", "f", COMMIT) == f"https://mirror/o/n/blob/{COMMIT}/f"
