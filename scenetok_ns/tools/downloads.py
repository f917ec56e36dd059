"""Download large files over HTTP. Downloads resume after a kill; a file gets its own name only when it is complete."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from requests import Response

logger = logging.getLogger(__name__)

PART = ".part"
"""Suffix of an unfinished download. Unlike other unfinished files it is kept: the next call continues it."""
PIECE = 1 << 16
"""Bytes read and written at a time: a kill loses at most this many."""
BEGINNING = 8
"""Number of leading bytes that tell text from weights: every weights file has a byte among them that is not text."""
PROGRESS = 1 << 20
"""Bytes that an attempt must bring to count as progress."""
RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}
MAX_WAIT_S = 60.0

Report = Callable[[int, int | None], None]
"""Called with the number of bytes received and the size of the file; None while the size is unknown."""


class DownloadError(OSError):
    """A file could not be downloaded; the message is one line and says why."""


@dataclass(frozen=True)
class Patience:
    """How long a download waits, and how often it tries again."""

    connect_s: float = 15.0
    """Time limit for a connection."""
    stall_s: float = 60.0
    """Time limit between two pieces of data."""
    attempts: int = 5
    """Number of attempts in a row without progress (`PROGRESS` bytes) before the download fails."""
    first_wait_s: float = 1.0
    """Wait before the second attempt; it doubles from attempt to attempt."""


class _TryAgainError(Exception):
    """An attempt failed for a reason that may pass."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    report: Report = lambda done, total: None,
    notice: Callable[[str], None] = logger.warning,
    patience: Patience = Patience(),
) -> None:
    """Download `url` to `target`, unless the file exists.

    Data goes to `target`.part, which a later call continues where the server allows it (HTTP ranges) and the file on
    the server is still the same. The part gets its final name when it is complete.

    Args:
        url: Address of the file. Redirects are followed, but never from https to http.
        target: Path of the file. Its folder is created.
        size: Size of the file in bytes, if known: a file of another size is refused.
        report: Called with the progress.
        notice: Called with one line for each failed attempt that is followed by another.
        patience: Time limits and number of attempts.

    Raises:
        DownloadError: The download failed; the message gives the reason in one line. The data that has arrived stays
            in `target`.part, unless it is useless.
    """
    with _alone(target):
        attempt, most = 0, 0
        while not target.exists():
            try:
                _attempt(url, target, size, report, patience)
            except _TryAgainError as problem:
                have = _size(_part(target))
                attempt = 1 if have >= most + PROGRESS else attempt + 1
                most = max(most, have)
                if attempt >= patience.attempts:
                    raise DownloadError(f"{problem}; gave up after {attempt} attempts") from problem
                wait = patience.first_wait_s * 2 ** (attempt - 1) if problem.wait_s is None else problem.wait_s
                wait = min(wait, MAX_WAIT_S)
                notice(f"{problem}; trying again in {wait:.0f} s")
                time.sleep(wait)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise DownloadError if `folder`, which need not exist, has fewer than `needed` bytes free."""
    free = free_space(folder)
    if needed > free:
        raise DownloadError(
            f"{what} needs {readable(needed)} in {folder}, which has {readable(free)} free: free some space or choose "
            "another folder with --to"
        )


def free_space(folder: Path) -> int:
    """Number of free bytes on the disk of a folder, which need not exist."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def readable(count: int) -> str:
    """Format a number of bytes for people, such as 3.0 GiB."""
    value, unit = float(count), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def clear_finished(target: Path) -> None:
    """Remove leftovers beside a file whose download was killed after the final renaming."""
    if not target.is_file() or not any(path.exists() for path in (_facts_file(target), _lock_file(target))):
        return
    with suppress(DownloadError), _alone(target):  # on an error, another process holds the lock and removes them
        _discard(target)


def part_size(target: Path) -> int:
    """Number of bytes in an unfinished download of `target`."""
    return _size(_part(target))


# --- One attempt ---


def _attempt(url: str, target: Path, size: int | None, report: Report, patience: Patience) -> None:
    """Try once to download what is missing of a file. Raises _TryAgainError or DownloadError."""
    import requests  # its import takes a while

    part, facts = _part(target), _Facts.read(target)
    have = _size(part) if facts is not None and facts.url == url else 0
    if facts is not None and have and have == facts.size == (size or have):  # killed before it got its name
        os.replace(part, target)
        _discard(target)
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "scenetok-ns"}
    if have and facts is not None:
        headers["Range"] = f"bytes={have}-"
        if facts.validator:
            headers["If-Range"] = facts.validator
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(patience.connect_s, patience.stall_s)) as answer:
            _check_secure(url, answer)
            _check_status(answer, have)
            have, total = _place(answer, have, facts, target)
            _check_kind(answer)
            if size is not None and total is not None and total != size:
                raise DownloadError(f"the server offers a file of {total} bytes, the released one has {size}")
            check_space(target.parent, 0 if total is None else total - have, target.name)
            _Facts(url, answer.headers.get("ETag"), answer.headers.get("Last-Modified"), total).write(target)
            _receive(answer, part, have, total, report)
    except requests.RequestException as error:
        _raise_for(error, part, patience)
    except ValueError as error:  # from urllib.parse
        raise DownloadError(f"the server redirects to an invalid address ({error})") from error
    if size is not None and _size(part) != size:
        _discard(target)
        raise DownloadError(f"the server sent {_size(part)} bytes, the released file has {size}")
    os.replace(part, target)
    _discard(target)


def _receive(answer: Response, part: Path, have: int, total: int | None, report: Report) -> None:
    """Append the body of the answer to the first `have` bytes of the part."""
    with part.open("r+b" if part.exists() else "wb") as file:
        file.truncate(have)
        file.seek(have)
        report(have, total)
        # Each piece is flushed, so a kill loses only the piece that is arriving.
        for piece in answer.iter_content(PIECE):
            if have == 0 and (len(piece) >= BEGINNING or len(piece) == total) and looks_like_text(piece):
                raise DownloadError("the server sent a web page or a message instead of the file")
            try:
                file.write(piece)
                file.flush()
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    left = "" if total is None else f", {readable(total - have)} are missing"
                    raise DownloadError(f"the disk of {part.parent} is full{left}; free some space") from error
                raise DownloadError(f"cannot write {part}: {error.strerror or error}") from error
            have += len(piece)
            report(have, total)
        os.fsync(file.fileno())
    if have == 0:
        raise DownloadError("the server sent an empty file")
    if total is not None and have != total:
        raise _TryAgainError(f"the connection ended after {have} of {total} bytes")


def _place(answer: Response, have: int, facts: _Facts | None, target: Path) -> tuple[int, int | None]:
    """Return the offset of the answer's body in the file, and the size of the whole file (None if unknown)."""
    length = answer.headers.get("Content-Length")
    if length is not None and not length.isdigit():
        raise DownloadError(f"the server's answer is broken (Content-Length: {length})")
    if answer.status_code == 416 and have:  # nothing is left to send, or the file has become shorter
        _discard(target, part=True)
        raise _TryAgainError("the part does not belong to the server's file: starting from the beginning", 0.0)
    if answer.status_code != 206:
        return 0, None if length is None else int(length)
    first, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    known = facts.size if facts is not None else None
    if first.partition("-")[0] != str(have) or not total.isdigit() or (known is not None and int(total) != known):
        _discard(target, part=True)
        raise _TryAgainError("the part does not belong to the server's file: starting from the beginning", 0.0)
    return have, int(total)


def _check_secure(url: str, answer: Response) -> None:
    """Raise DownloadError if a redirect left https."""
    steps = [step.url for step in (*answer.history, answer)]
    if urlsplit(url).scheme == "https" and (plain := [step for step in steps if urlsplit(step).scheme != "https"]):
        raise DownloadError(f"the server redirects from https to {plain[0]}, which is not protected")


def _check_status(answer: Response, have: int) -> None:
    status = answer.status_code
    if status in (200, 206) or (status == 416 and have):
        return
    text = f"{status} {answer.reason or ''}".strip()
    if status in RETRIED_STATUSES:
        after = answer.headers.get("Retry-After", "")
        raise _TryAgainError(f"the server answers {text}", float(after) if after.isdigit() else None)
    reasons = {
        401: "the server asks for a password or an accepted licence",
        403: "the server refuses access",
        404: "the server does not have the file (any more)",
        410: "the file was removed from the server",
    }
    raise DownloadError(f"{reasons.get(status, 'the server does not send the file')} ({text})")


def _check_kind(answer: Response) -> None:
    """Refuse web pages and messages: a link to a share's page, a log-in page or a proxy's error has status 200, too."""
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.startswith("text/") or kind in ("application/json", "application/xml", "application/xhtml+xml"):
        raise DownloadError(f"the server sent a web page or a message ({kind}) instead of the file")
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise DownloadError(f"the server or a proxy sends the file compressed ({encoding}), though it was asked not to")


def looks_like_text(beginning: bytes) -> bool:
    """Whether a file begins with text, as a web page or a message does. Weights files begin with other bytes, too."""
    start = beginning[:64]
    text = start.decode("utf8", errors="ignore").lstrip("\ufeff")
    whole = start.removeprefix(b"\xef\xbb\xbf")
    # The last character may be cut in two.
    return len(text.encode()) > len(whole) - 4 and all(char.isprintable() or char.isspace() for char in text)


def _raise_for(error: Any, part: Path, patience: Patience) -> NoReturn:
    """Raise the DownloadError or _TryAgainError that stands for an exception of requests."""
    import requests

    if isinstance(error, requests.TooManyRedirects):
        raise DownloadError("the server redirects in a circle") from error
    if isinstance(error, requests.exceptions.SSLError):
        raise DownloadError(f"the server's certificate is not accepted ({_innermost(error)})") from error
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
        raise DownloadError(f"not an address of a file: {error}") from error
    if isinstance(error, requests.exceptions.ConnectTimeout):
        raise _TryAgainError(f"no connection within {patience.connect_s:.0f} s") from error
    if isinstance(error, requests.exceptions.ReadTimeout) or "timed out" in str(error).lower():
        raise _TryAgainError(f"no data for {patience.stall_s:g} s, after {_size(part)} bytes") from error
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        raise _TryAgainError(f"the connection ended after {_size(part)} bytes") from error
    raise _TryAgainError(f"no connection ({_innermost(error)})") from error


def _innermost(error: BaseException) -> str:
    """The first cause of an exception in one line: requests wraps the operating system's error three times."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(reason).strip().splitlines()[0]


# --- Files beside the target ---


@dataclass(frozen=True)
class _Facts:
    """The file that an unfinished download belongs to, as recorded in `target`.part.json."""

    url: str
    etag: str | None
    modified: str | None
    size: int | None

    @property
    def validator(self) -> str | None:
        """Value of If-Range: the server sends the whole file if it has changed. Weak ETags are not allowed there."""
        return self.modified if self.etag is None or self.etag.startswith("W/") else self.etag

    def write(self, target: Path) -> None:
        # Written directly: a kill would leave a temporary file, and a part with damaged facts is not used anyway.
        _facts_file(target).write_text(json.dumps(vars(self), indent=1))

    @classmethod
    def read(cls, target: Path) -> _Facts | None:
        try:
            values = json.loads(_facts_file(target).read_text())
            return cls(**values) if isinstance(values, Mapping) else None
        except (OSError, ValueError, TypeError):
            return None


def _part(target: Path) -> Path:
    return target.with_name(target.name + PART)


def _facts_file(target: Path) -> Path:
    return target.with_name(target.name + PART + ".json")


def _lock_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _discard(target: Path, *, part: bool = False) -> None:
    for path in (_facts_file(target), *([_part(target)] if part else [])):
        with suppress(FileNotFoundError):
            path.unlink()


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keep other processes away from the same part. Raises DownloadError if another one is downloading it."""
    from filelock import FileLock, Timeout

    path = _lock_file(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DownloadError("another process is downloading this file; wait for it or stop it") from error
    except OSError as error:
        raise DownloadError(f"cannot write to {target.parent}: {error.strerror or error}") from error
    try:
        yield
        with suppress(OSError):
            path.unlink()  # the file is complete now, so a process that gets the old lock has nothing to do
    finally:
        lock.release()
