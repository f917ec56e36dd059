"""Record the SHA-256 of files at their first download on this machine, where the publisher gives no SHA-256."""

from __future__ import annotations

import json
import logging
import os
from datetime import datetime, timezone
from pathlib import Path

from scenetok_ns.tools.atomic_files import write_atomically

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Folder of this package in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scenetok_ns"


def recorded(name: str) -> dict[str, str] | None:
    """Return `sha256`, `source` and `date` of the first download of a file; None if there was none."""
    entry = _read().get(name)
    return entry if isinstance(entry, dict) and {"sha256", "source", "date"} <= set(entry) else None


def record(name: str, sha256: str, source: str) -> None:
    """Record a file's SHA-256. If the cache cannot be written to, only a warning is logged: later downloads of the file
    are then not compared with this one."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    content = {**_read(), name: {"sha256": sha256, "source": source, "date": date}}
    try:
        write_atomically(_records(), json.dumps(content, indent=1).encode())
    except OSError as error:
        logger.warning("the SHA-256 of %s is not recorded: %s", name, error)


def _records() -> Path:
    return cache_folder() / "downloads.json"


def _read() -> dict[str, object]:
    try:
        content = json.loads(_records().read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
