"""Common base of the dataparsers of data sets with many scenes.

The scenetok methods open whole splits with `scene_source`. Methods that fit one scene (splatfacto, nerfacto) call
`get_dataparser_outputs`. They train on the context views of one evaluation scene and are evaluated on its target views,
the same task that SceneTok solves for that scene.
"""

from __future__ import annotations

import hashlib
import os
import re
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from PIL import Image
from torch import Tensor

from scenetok_ns.data.capture.unposed import check_posed
from scenetok_ns.data.evaluation_index import EvaluationIndex
from scenetok_ns.data.images import crop_intrinsics
from scenetok_ns.data.scenes import DataError, Scene, SceneSource, first_good
from scenetok_ns.data.transforms_file import TRANSFORMS
from scenetok_ns.data.view_sampling import default_views
from scenetok_ns.dataparsers.camera_conversion import camera_batch_to_nerfstudio
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.tools.atomic_files import atomic_file
from scenetok_ns.tools.suggestions import did_you_mean_path


@dataclass
class SceneDataParserConfig(DataParserConfig):
    """Options of re10k-data and dl3dv-data."""

    train_split: str = "train"
    """Folder in the data folder with the scenes to train on. Without such a folder, or if it is the evaluation folder,
    training uses the evaluation scenes without their target views."""
    eval_split: str = "test"
    """Folder in the data folder with the scenes to evaluate, render and view."""
    downscale_factor: float | None = None
    """Factor by which the image size is divided for rendering and comparison (set by ns-render dataset
    --downscale-factor)."""
    scene: str | None = None
    """Name of the evaluation scene to render and view. Methods for one scene, such as splatfacto, fit this scene. None:
    the first one."""
    eval_index: Path | None = None
    """JSON file {scene: {"context": [...], "target": [...]}} that fixes the views of the evaluation scenes. None:
    context views are spread over each scene by farthest-point sampling, and all other frames are targets."""
    num_context: int = 12
    """Methods for one scene: number of training views without an evaluation index."""
    image_size: int = 256
    """Methods for one scene: side of the square centre crop in pixels."""
    frame_cache: Path | None = None
    """Methods for one scene: folder for the crops, which these methods read as files; None: the user's cache folder."""


@dataclass
class SceneDataParser(DataParser):
    """Base of re10k-data and dl3dv-data."""

    config: SceneDataParserConfig

    @abstractmethod
    def open_folder(self, folder: Path) -> SceneSource:
        """Open the scenes of one split's folder. Raises DataError."""

    @abstractmethod
    def holds_scenes(self, folder: Path) -> bool:
        """Whether `folder` itself holds scenes that `open_folder` can open."""

    def scene_source(self, split: str) -> SceneSource:
        """Open all scenes of Nerfstudio's split "train", "val" or "test", from `split_folder`. Raises DataError."""
        return self.open_folder(self.split_folder(split))

    def split_folder(self, split: str) -> Path:
        """Find the folder with the scenes of a split. Raises DataError if there is none.

        Training and evaluation share one folder in two cases: the data folder holds scenes itself instead of split
        folders, or it has the evaluation folder but no `train`.
        """
        root = Path(self.config.data)
        if not root.is_dir():
            check_posed(root)
            raise DataError(f"no data folder {root}{did_you_mean_path(root)}; give it with --data")
        evaluation = root / self.config.eval_split
        name, option = (
            (self.config.train_split, "--train-split") if split == "train" else (self.config.eval_split, "--eval-split")
        )
        if (root / name).is_dir():
            return root / name
        if self.holds_scenes(root):
            return root
        if name == SceneDataParserConfig.train_split and evaluation.is_dir():
            return evaluation
        check_posed(root)
        if (root / TRANSFORMS).is_file():
            advice = "add nerfstudio-data at the end of the command"
            raise DataError(f"{root} is a capture, and this dataparser reads data sets: {advice}")
        there = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())[:5]) or "no folders"
        raise DataError(f"{root} has no folder {name!r} (it has {there}); choose another with {option}")

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        source = self.scene_source("test")
        index = None if self.config.eval_index is None else EvaluationIndex.load(self.config.eval_index)
        keys = [self.config.scene] if self.config.scene is not None else source.keys
        if index is not None and self.config.scene is None:
            keys = index.keys_in(source)
        scene = first_good(source, keys, _check_first_frame)
        views = default_views(scene.c2w, self.config.num_context) if index is None else index.views(scene)
        indices = views.context if split == "train" else views.target
        side = max(1, round(self.config.image_size / (self.config.downscale_factor or 1)))
        outputs = view_outputs(scene, indices, side, scene_idx=list(source.keys).index(scene.key))
        folder = self._cache_folder() / re.sub(r"[^\w-]", "_", scene.key) / str(side)
        write_frames(scene, indices, side, [folder / name for name in outputs.image_filenames])
        outputs.image_filenames = [folder / name for name in outputs.image_filenames]
        return outputs

    def _cache_folder(self) -> Path:
        if self.config.frame_cache is not None:
            return self.config.frame_cache
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        data = str(Path(self.config.data).resolve() / self.config.eval_split)
        return base / "scenetok_ns" / "frames" / hashlib.sha256(data.encode()).hexdigest()[:12]


def view_outputs(scene: Scene, indices: Int64[Tensor, " v"], side: int, scene_idx: int) -> DataparserOutputs:
    """Describe some views of a scene, cropped to a square of `side` pixels, for Nerfstudio.

    World coordinates are those of the data set. `image_filenames` are bare names, `<frame>.png`; no file is written.
    The camera metadata `scene_idx` and `frame_idx` are (v, 1) tensors, which survive slicing. At most one image is
    decoded.
    """
    if scene.sizes is None:
        stored = scene.load_images(indices[:1])[0].shape[1:]
        intrinsics = crop_intrinsics(scene.intrinsics[indices], (stored[0], stored[1]), (side, side))
    else:
        sizes = [scene.sizes[index] for index in indices.tolist()]
        lenses = zip(scene.intrinsics[indices], sizes, strict=True)
        intrinsics = torch.stack([crop_intrinsics(lens, size, (side, side)) for lens, size in lenses])
    cameras = CameraBatch(scene.c2w[indices][None], intrinsics[None])
    metadata = {"scene_idx": torch.full((len(indices), 1), scene_idx), "frame_idx": indices[:, None].clone()}
    return DataparserOutputs(
        image_filenames=[Path(f"{scene.frame_names[index]}.png") for index in indices.tolist()],
        cameras=camera_batch_to_nerfstudio(cameras, side, side, metadata),
        scene_box=box_around(scene),
    )


def box_around(scene: Scene) -> SceneBox:
    """Bounding box of all camera positions, enlarged to twice its size. Nerfstudio draws it and crops to it."""
    low, high = scene.c2w[:, :3, 3].amin(0), scene.c2w[:, :3, 3].amax(0)
    half = (high - low).clamp(min=1e-3)
    middle = (low + high) / 2
    return SceneBox(aabb=torch.stack([middle - half, middle + half]))


def write_frames(scene: Scene, indices: Iterable[int] | Tensor, side: int, files: list[Path]) -> None:
    """Write crops of frames as PNG files, replacing those of an earlier run. Each file is complete or absent."""
    for index, file in zip([int(index) for index in indices], files, strict=True):
        pixels = scene.load_views([index], (side, side)).images[0].permute(1, 2, 0).numpy()
        with atomic_file(file) as opened:
            Image.fromarray(pixels).save(opened, "PNG")


def _check_first_frame(scene: Scene) -> Scene:
    scene.load_images([0])
    return scene
