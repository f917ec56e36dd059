"""The common interface of all sources of posed images."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from scenetok_ns.data.depth_maps import crop_depth
from scenetok_ns.data.errors import BadScene, DataError
from scenetok_ns.data.images import crop_intrinsics, rescale_and_crop
from scenetok_ns.models.cameras import are_rigid
from scenetok_ns.models.tokens import SceneTokens

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Views(NamedTuple):
    """Some frames of a scene as a model sees them: rescaled, centre-cropped, and with the cameras of the crops."""

    images: UInt8[Tensor, "v 3 h w"]
    """Images as bytes, which are a quarter of the traffic of floats; divide by 255 on the device."""
    c2w: Float[Tensor, "v 4 4"]
    intrinsics: Float[Tensor, "v 3 3"]


@dataclass(frozen=True, eq=False)
class ViewIndices:
    """Frame numbers of one scene."""

    context: Int64[Tensor, " context"]
    """Context views: sorted if they are drawn, in the order of the evaluation index if it names them."""
    target: Int64[Tensor, " target"]
    """Target views. In training: one or more clips of consecutive frames, each of whole chunks of the temporal
    layout."""
    condition: Int64[Tensor, " condition"] | None = None
    """SceneGen's condition views. The first is a context view, the reference that poses are relative to."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Posed frames of one scene. Cameras are in memory; images are decoded on request.

    Raises BadScene if the cameras are not finite rigid poses with positive focal lengths.
    """

    key: str
    c2w: Float[Tensor, "v 4 4"]
    """Camera-to-world, OpenCV axes (x right, y down, z forward), float32, in the units of the data set."""
    intrinsics: Float[Tensor, "v 3 3"]
    """Intrinsics of the uncropped images, divided by their width (first row) and height (second row)."""
    frame_names: tuple[str, ...]
    """File names without folder and suffix, which rendered frames get as well."""
    read_frame: Callable[[int], UInt8[Tensor, "3 h w"]]
    """Decodes a frame at its stored size."""
    timestamps: Int64[Tensor, " v"] | None = None
    sizes: tuple[tuple[int, int], ...] | None = None
    """(height, width) of each frame as stored, if frames may differ; None: all have one size."""
    read_depth: Callable[[int], Float[Tensor, "h w"]] | None = None
    """Reads the depth of a whole frame along the optical axis, at any resolution, 0 where unknown. None: the data has
    no depth."""
    depth_scale: float = 1.0
    """Factor from `read_depth` to the units of `c2w`."""

    def __post_init__(self) -> None:
        check_cameras(self.key, self.c2w, self.intrinsics, self.frame_names)
        if len(self.frame_names) != self.num_frames:
            raise BadScene(f"{self.num_frames} cameras, but {len(self.frame_names)} images", self.key)

    @property
    def num_frames(self) -> int:
        return len(self.c2w)

    def load_images(self, indices: Sequence[int] | Tensor) -> list[UInt8[Tensor, "3 h w"]]:
        """Decode frames at their stored size. Raises BadScene, which names the frame."""
        return [self._load_image(int(index)) for index in indices]

    def load_views(self, indices: Sequence[int] | Tensor, image_size: tuple[int, int]) -> Views:
        """Decode, rescale and centre-crop frames to `image_size` = (height, width).

        Raises:
            BadScene: A frame is missing, damaged or smaller than `image_size`, or sizes differ unexpectedly.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        images = self.load_images(chosen)
        stored = [(image.shape[1], image.shape[2]) for image in images]
        if len(set(stored)) > 1 and self.sizes is None:
            sizes = sorted(set(stored))
            raise BadScene(f"images of different sizes: {sizes}; expected one size for all frames", self.key)
        for height, width in set(stored):
            if height < image_size[0] or width < image_size[1]:
                raise BadScene(
                    f"images are {height} x {width} pixels, smaller than the crop of {image_size[0]} x "
                    f"{image_size[1]}; take larger images or a preset with a smaller image size",
                    self.key,
                )
        if not images:
            empty = torch.empty(0, 3, *image_size, dtype=torch.uint8)
            return Views(empty, self.c2w[chosen], self.intrinsics[chosen])
        cropped = torch.stack([rescale_and_crop(image, image_size) for image in images])
        lenses = zip(self.intrinsics[chosen], stored, strict=True)
        intrinsics = torch.stack([crop_intrinsics(lens, size, image_size) for lens, size in lenses])
        return Views(cropped, self.c2w[chosen], intrinsics)

    def load_depths(self, indices: Sequence[int] | Tensor, image_size: tuple[int, int]) -> Float[Tensor, "v 1 h w"]:
        """Read the depth of frames, cropped as `load_views` crops them, in the units of the poses; 0: unknown.

        Only call this if the scene has `read_depth`. Raises BadScene if a depth map cannot be read.
        """
        assert self.read_depth is not None
        found = []
        for index in torch.as_tensor(indices, dtype=torch.int64).tolist():
            try:
                found.append(crop_depth(self.read_depth(index), image_size) * self.depth_scale)
            except (OSError, SyntaxError, ValueError) as error:
                reason = f"the depth of frame {self.frame_names[index]} cannot be read: {error}"
                raise BadScene(reason, self.key) from error
        return torch.stack(found) if found else torch.empty(0, 1, *image_size)

    def _load_image(self, index: int) -> UInt8[Tensor, "3 h w"]:
        if not 0 <= index < self.num_frames:
            raise BadScene(f"frame {index} was asked for, but there are {self.num_frames} frames", self.key)
        try:
            return self.read_frame(index)
        except BadScene:
            raise
        # Pillow reports damaged files as OSError, SyntaxError (PNG) or ValueError.
        except (OSError, SyntaxError, ValueError) as error:
            raise BadScene(f"frame {self.frame_names[index]} cannot be decoded: {error}", self.key) from error


def scene_part(scene: Scene, indices: Int64[Tensor, " v"]) -> Scene:
    """Return the scene with only the frames `indices`, in that order."""
    chosen = indices.tolist()
    return Scene(
        key=scene.key,
        c2w=scene.c2w[indices],
        intrinsics=scene.intrinsics[indices],
        frame_names=tuple(scene.frame_names[i] for i in chosen),
        read_frame=partial(_read_chosen, scene, chosen),
        timestamps=None if scene.timestamps is None else scene.timestamps[indices],
        sizes=None if scene.sizes is None else tuple(scene.sizes[i] for i in chosen),
        read_depth=None if scene.read_depth is None else partial(_read_chosen_depth, scene, chosen),
        depth_scale=scene.depth_scale,
    )


def _read_chosen_depth(scene: Scene, chosen: Sequence[int], index: int) -> Float[Tensor, "h w"]:
    assert scene.read_depth is not None
    return scene.read_depth(chosen[index])


def _read_chosen(scene: Scene, chosen: Sequence[int], index: int) -> UInt8[Tensor, "3 h w"]:
    return scene.read_frame(chosen[index])


class SkippedScenes:
    """Scenes that are left out, with reasons. Each is logged once: by name, or as part of a group by their number."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def add(self, error: BadScene) -> None:
        if error.key not in self.reasons:
            self.reasons[error.key] = error.reason
            logger.warning("skipped scene %s: %s (%d skipped so far)", error.key, error.reason, len(self.reasons))

    def add_all(self, keys: Iterable[str], reason: str) -> None:
        """Leave out several scenes for the same reason, such as a partial download."""
        new = [key for key in keys if key not in self.reasons]
        self.reasons.update(dict.fromkeys(new, reason))
        if new:
            logger.warning("skipped %d scenes, the first is %s: %s", len(new), new[0], reason)

    def __len__(self) -> int:
        return len(self.reasons)

    def __contains__(self, key: str) -> bool:
        return key in self.reasons

    def summary(self, limit: int = 10) -> str:
        """One line with the number of scenes, and the first `limit` names with reasons."""
        named = [f"{key} ({reason})" for key, reason in islice(self.reasons.items(), limit)]
        more = f", and {len(self) - limit} more" if len(self) > limit else ""
        return f"{len(self)} scenes skipped" + (f": {', '.join(named)}{more}" if named else "")


class SceneSource(ABC):
    """Scenes that are read one at a time: a data set with many, or a capture, photograph or token file with one.

    A source is sent to DataLoader workers without the data that it has read. The defaults here are those of a data
    set; other sources override what differs.
    """

    pose_scale: float = 1.0
    """Factor from the units of the poses to those of the training data."""
    tokens: SceneTokens | None = None
    """Tokens of the scene, if the source has them instead of photographs."""
    anchors_path: Float[Tensor, "k 4 4"] | None = None
    """Poses of the path along which a scene generator places its anchors; None: the cameras of the scene."""
    is_capture: bool = False
    """Whether the source is one capture, whose photographs can be trained on (`training_part`)."""

    def __init__(self, skipped: SkippedScenes | None = None) -> None:
        self.skipped = SkippedScenes() if skipped is None else skipped

    @property
    @abstractmethod
    def keys(self) -> Sequence[str]:
        """Names of the scenes in a fixed order."""

    @abstractmethod
    def scene(self, key: str) -> Scene:
        """Read the cameras and file names of one scene. Raises BadScene, or DataError for an unknown key."""

    def fixed_views(self, count: int, *, fewer: bool = False) -> ViewIndices | None:
        """Evaluation views, if the source itself chooses them. None: the evaluation index or `default_views` does.

        Args:
            count: Number of context views wanted.
            fewer: Accept fewer context views if there are not `count`.

        Raises:
            BadScene: There are too few views.
        """
        return None

    def training_part(self) -> SceneSource:
        """Return the source without its evaluation views, in units of the training data."""
        return self


class OneScene(SceneSource):
    """Base of sources of a single scene, `key`."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    @property
    def keys(self) -> Sequence[str]:
        return [self.key]

    def scene(self, key: str) -> Scene:
        if key != self.key:
            raise DataError(f"there is one scene, {self.key!r}, not {key!r}")
        return self.read()

    @abstractmethod
    def read(self) -> Scene:
        """Read the scene. Raises BadScene."""


def first_good(source: SceneSource, keys: Iterable[str], load: Callable[[Scene], T]) -> T:
    """Return the result of `load` for the first scene of `keys` for which reading and `load` succeed.

    Scenes that raise BadScene are recorded in `source.skipped`. Raises DataError if no scene can be used.
    """
    tried = 0
    for key in keys:
        tried += 1
        if key in source.skipped:
            continue
        try:
            return load(source.scene(key))
        except BadScene as error:
            source.skipped.add(error if error.key else BadScene(error.reason, key))
    raise DataError(f"none of {tried} scenes can be used; {source.skipped.summary(3)}")


def check_cameras(
    key: str, c2w: Float[Tensor, "v 4 4"], intrinsics: Float[Tensor, "v 3 3"], names: Sequence[str] = ()
) -> None:
    """Raise BadScene unless there is a frame, and all cameras are finite and rigid with positive focal lengths.

    The message contains the name of the first bad frame, if `names` has it.
    """
    if len(c2w) == 0 or c2w.shape[1:] != (4, 4) or intrinsics.shape != (len(c2w), 3, 3):
        raise BadScene(
            f"expected poses [v, 4, 4] and intrinsics [v, 3, 3] with v > 0, got {list(c2w.shape)} and "
            f"{list(intrinsics.shape)}",
            key,
        )
    finite = c2w.isfinite().flatten(1).all(1) & intrinsics.isfinite().flatten(1).all(1)
    _refuse(key, names, ~finite, "has a camera that is not finite (NaN or infinite)")
    _refuse(key, names, ~are_rigid(c2w), "has a pose that is not rigid (a rotation and a translation)")
    focal = intrinsics[:, [0, 1], [0, 1]]
    _refuse(key, names, (focal <= 0).any(1), "has a focal length that is not positive")


def _refuse(key: str, names: Sequence[str], bad: Tensor, what: str) -> None:
    frames = bad.nonzero().flatten().tolist()
    if frames:
        name = f"; it is {names[frames[0]]}" if frames[0] < len(names) else ""
        raise BadScene(f"frame {frames[0]} {what}{name}; {len(frames)} of {len(bad)} frames are affected", key)
