"""SHA-256 of large files, computed once for each content: a run checks gigabytes of weights at every start."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from scenetok_ns.tools.atomic_files import write_atomically
from scenetok_ns.tools.download_records import cache_folder

logger = logging.getLogger(__name__)


def sha256_of(path: Path, progress: Callable[[int], None] = lambda count: None) -> str:
    """SHA-256 of a file; `progress` is called with the number of bytes of each piece read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()


def remembered_sha256(path: Path, progress: Callable[[int], None] = lambda count: None) -> str:
    """SHA-256 of a file, which is read again only if its size, modification time or place on the disk has changed.

    `progress` is called as in `sha256_of`, or once with the whole size if nothing has to be read.
    """
    status, key = path.stat(), str(path.resolve())
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    known = _read(_memory())
    entry = known.get(key)
    if isinstance(entry, dict) and entry.get("state") == state and isinstance(entry.get("sha256"), str):
        progress(status.st_size)
        return entry["sha256"]
    digest = sha256_of(path, progress)
    try:
        _memory().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_memory(), json.dumps({**known, key: {"state": state, "sha256": digest}}, indent=1).encode())
    except OSError as error:  # the home folder cannot be written to: the next start reads the file again
        logger.debug("digests are not remembered: %s", error)
    return digest


def _memory() -> Path:
    return cache_folder() / "sha256.json"


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
