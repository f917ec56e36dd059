"""A local file server that can fail in the ways in which servers fail."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PIECE = 1 << 16


@dataclass
class Answer:
    """The way in which one request is answered."""

    status: int | None = None
    """Status of an error, sent instead of the file."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers to add or replace."""
    body: bytes = b"no"
    """Body of an error or a page."""
    page: bool = False
    """Send `body` with status 200 instead of the file."""
    cut_after: int | None = None
    """Close the connection after this number of bytes."""
    stall_after: int | None = None
    """Stop sending after this number of bytes, but keep the connection open until the server is closed."""
    ranges: bool = True
    """Whether the server supports ranges."""
    total: int | None = None
    """Size to announce instead of the file's."""
    without: tuple[str, ...] = ()
    """Headers to leave out."""


@dataclass
class FileServer:
    """Serves `files` (path below the server's address -> content, or a file that holds it).

    GET requests of a path use its `answers` one after another, and the last one repeatedly. Paths without answers work.
    Paths of the form OWNER/NAME/resolve/REVISION/FILE get the headers of the Hugging Face Hub.
    """

    files: dict[str, bytes | Path]
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of each request."""
    seconds_per_piece: float = 0.0
    on_piece: Callable[[int], None] = lambda count: None
    """Called with the number of bytes of a file sent so far."""
    address: str = ""
    closed: threading.Event = field(default_factory=threading.Event)

    def gets(self, path: str) -> list[dict[str, str]]:
        """Headers of the GET requests for a path."""
        return [headers for method, asked, headers in self.requests if (method, asked) == ("GET", path)]


@contextmanager
def serving(files: dict[str, bytes | Path], **options: Any) -> Iterator[FileServer]:
    """Run a server on a free port."""
    server = FileServer(files, **options)
    http = _Http(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.address = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closed.set()
        http.shutdown()
        http.server_close()
        thread.join()


class _Http(ThreadingHTTPServer):
    def handle_error(self, *args: Any) -> None:
        """Do nothing: a client that disconnects is not an error here."""


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None: ...

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.lstrip("/").partition("?")[0]
            server.requests.append((self.command, path, dict(self.headers)))
            answers = server.answers.get(path, [])
            how = Answer() if not answers or not (body or answers[0].status) else answers[0]
            if body and len(answers) > 1:
                answers.pop(0)
            content = server.files.get(path)
            if how.status is not None or content is None:
                return self.send(how.status or 404, how.headers, how.body, body)
            if how.page:
                return self.send(200, {"Content-Type": "text/html", **how.headers}, how.body, body)
            self.send_file(path, content, how, body)

        def send(self, status: int, headers: dict[str, str], content: bytes, body: bool) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def send_file(self, path: str, content: bytes | Path, how: Answer, body: bool) -> None:
            size = how.total or (len(content) if isinstance(content, bytes) else content.stat().st_size)
            tag = f'"{_tag(content)}"'
            headers = {"ETag": tag, "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
            if match := re.fullmatch(r"[^/]+/[^/]+/resolve/([^/]+)/.*", path):
                revision = match[1] if len(match[1]) == 40 else "0" * 40
                headers |= {"X-Repo-Commit": revision, "X-Linked-Etag": tag, "X-Linked-Size": str(size)}
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if how.ranges else None
            first, last, status = 0, size - 1, 200
            if asked and self.headers.get("If-Range", tag) == tag:
                first, last, status = int(asked[1]), int(asked[2] or last), 206
                if first > last:
                    return self.send(416, {"Content-Range": f"bytes */{size}"}, b"", body)
                headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            headers["Content-Length"] = str(last + 1 - first)
            self.send_response(status)
            for name, value in (headers | how.headers).items():
                if name not in how.without:
                    self.send_header(name, value)
            self.end_headers()
            if body:
                self.send_body(content, first, last, how)

        def send_body(self, content: bytes | Path, first: int, last: int, how: Answer) -> None:
            for start in range(first, last + 1, PIECE):
                sent = start - first
                for limit in (how.cut_after, how.stall_after):
                    if limit is not None and sent >= limit:
                        if how.stall_after is not None:
                            server.closed.wait()
                        self.close_connection = True
                        return
                try:
                    self.wfile.write(_read(content, start, min(PIECE, last + 1 - start)))
                    self.wfile.flush()
                except OSError:  # the client has gone
                    self.close_connection = True
                    return
                server.on_piece(start)
                time.sleep(server.seconds_per_piece)

    return Handler


def _read(content: bytes | Path, start: int, count: int) -> bytes:
    if isinstance(content, bytes):
        return content[start : start + count]
    with content.open("rb") as file:
        file.seek(start)
        return file.read(count)


_TAGS: dict[Path, str] = {}


def _tag(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    if content not in _TAGS:
        with content.open("rb") as file:
            _TAGS[content] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[attr-defined]
    return _TAGS[content]
