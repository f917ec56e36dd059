"""Names of camera paths for options. Imports nothing heavy, because help texts need them."""

from __future__ import annotations

from typing import Literal, get_args

PathName = Literal["orbit", "dolly", "spiral", "interpolate", "lemniscate", "zoom"]
"""Paths around the cameras of a scene, see `camera_paths.preset_path`."""
PATH_NAMES: tuple[str, ...] = get_args(PathName)
Trajectory = Literal["forward", "sideways", "turn"]
"""Paths that start at a single photograph, see `anchors.trajectory`."""
