"""Dataparser photograph-data: one photograph and a path, for scene generation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs

from scenetok_ns.data.anchors import home_pose, trajectory
from scenetok_ns.data.camera_path_files import read_camera_path
from scenetok_ns.data.path_names import Trajectory
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.sources.photograph import PhotographSource


@dataclass
class PhotographDataParserConfig(DataParserConfig):
    """One photograph, from which a scenegen method generates a scene along a path."""

    _target: type = field(default_factory=lambda: PhotographDataParser)
    data: Path = Path("photo.jpg")
    """The photograph; the model sees its middle square."""
    path: Path | None = None
    """Camera path (camera_path.json of the viewer) along which you want to see the scene; None: the trajectory."""
    trajectory: Trajectory = "forward"
    """Trajectory if there is no path: 1 unit straight ahead, or to the right, or a quarter of a circle of radius 1."""
    photo_at: Literal["first", "origin"] = "first"
    """Camera of the photograph. first: the first camera of the path. origin: at the world's origin, level, looking
    along +y, which is also where every trajectory begins."""
    fov: float | None = None
    """Field of view along the photograph's shorter side in degrees; None: from EXIF, else 58."""
    pose_scale: float = 1.0
    """Factor from units of the path to units of the training data."""


@dataclass
class PhotographDataParser(DataParser):
    config: PhotographDataParserConfig

    def scene_source(self, split: str) -> PhotographSource:
        """Open the scene. Raises DataError for the training split, and for files that cannot be read."""
        if split == "train":
            raise DataError("cannot train on a single photograph; give ns-train re10k-data, dl3dv-data, ...")
        config = self.config
        path = trajectory(config.trajectory) if config.path is None else read_camera_path(Path(config.path))
        if config.photo_at == "origin":
            path = torch.cat([home_pose()[None], path])
        return PhotographSource(Path(config.data), path, fov=config.fov, pose_scale=config.pose_scale)

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        raise DataError("a single photograph works with the scenegen methods only")
