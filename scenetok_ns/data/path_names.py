"""Names of camera paths for options. Imports nothing heavy, because help texts need them."""

from __future__ import annotations

from typing import Literal, get_args

from scenetok_ns.tools.suggestions import did_you_mean

PathName = Literal["orbit", "dolly", "spiral", "interpolate", "lemniscate", "zoom"]
"""Paths around the cameras of a scene, see `camera_paths.preset_path`."""
PATH_NAMES: tuple[str, ...] = get_args(PathName)
Trajectory = Literal["forward", "sideways", "turn"]
"""Paths that start at a single photograph, see `anchors.trajectory`."""


def unknown_path(name: str) -> str:
    """Describe in one line that a path is neither one of `PATH_NAMES` nor a file."""
    meant = did_you_mean(name, PATH_NAMES)
    return f"unknown path {name!r}{meant}; give {', '.join(PATH_NAMES)} or a JSON file with poses"
