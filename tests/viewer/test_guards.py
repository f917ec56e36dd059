"""The viewer's port attacked: files through its web server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import viser

from scenetok_ns.viewer.guards import guard_pages, guard_updates


@pytest.fixture
def port() -> Iterator[int]:
    for _ in range(2):  # once is enough, twice does no harm
        guard_pages()
        guard_updates()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    server = viser.ViserServer("127.0.0.1", free, verbose=False)
    yield server.get_port()
    server.stop()


def request(port: int, path: str) -> bytes:
    """A web server's answer to a path as it is: no client of the library would send such ones."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


def test_the_page_is_sent_and_nothing_beside_it(port: int, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("not for you")
    assert b" 200 " in request(port, "/").splitlines()[0]
    for path in (f"/{'../' * 20}{str(secret)[1:]}", f"/{secret}", f"/%2e%2e/{secret}"):
        answer = request(port, path)
        assert b"not for you" not in answer and b" 200 " not in answer.splitlines()[0]
