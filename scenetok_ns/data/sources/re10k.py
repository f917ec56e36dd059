"""Read RealEstate10K and ACID as pixelSplat and SceneTok store them: chunks of scenes with JPEG bytes, and an index."""

from __future__ import annotations

import logging
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from scenetok_ns.data.depth_maps import MILLIMETRES
from scenetok_ns.data.images import decode_image
from scenetok_ns.data.poses import cameras_from_rows
from scenetok_ns.data.scenes import BadScene, DataError, Scene, SceneSource
from scenetok_ns.tools.json_files import JsonError, check_no_device, read_json
from scenetok_ns.tools.suggestions import did_you_mean

logger = logging.getLogger(__name__)

INDEX = "index.json"
CACHED_CHUNKS = 4
"""Maximum number of chunks that one process keeps open. They are memory-mapped, so each costs only the pages that were
used."""


class RE10KSource(SceneSource):
    """The scenes of one folder of `*.torch` chunks, such as root/train.

    At first only `index.json` (scene -> chunk) is read, so 60,000 scenes cost no more than their names. Without it, the
    names are read from all chunks. A chunk is a list of dictionaries with `key`, `cameras` (see
    `poses.cameras_from_rows`), `images` (one uint8 tensor of JPEG bytes for each frame) and `timestamps`. Raises
    DataError if the folder or all its chunks are missing.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._chunk_of = self._usable(self._read_index())
        self._keys = tuple(self._chunk_of)
        self._open_chunks: OrderedDict[str, dict[str, dict[str, Any]]] = OrderedDict()

    @property
    def keys(self) -> Sequence[str]:
        return self._keys

    def scene(self, key: str) -> Scene:
        if key not in self._chunk_of:
            reason = self.skipped.reasons.get(key)
            if reason:
                raise BadScene(reason, key)
            raise DataError(f"{self.folder / INDEX} has no scene {key!r}{did_you_mean(key, self.keys)}")
        example = self._chunk(key).get(key)
        if example is None:
            raise BadScene(f"{INDEX} says it is in {self._chunk_of[key]}, but it is not", key)
        return _scene_of(key, example)

    def _read_index(self) -> dict[str, str]:
        path = self.folder / INDEX
        if not self.folder.is_dir():
            raise DataError(f"no folder {self.folder}; expected .torch chunks and {INDEX} in it")
        if not path.is_file():
            return self._names_in_chunks()
        try:
            index = read_json(path)
        except JsonError as error:
            raise DataError(f"{path} cannot be read as JSON ({error}); fetch it again") from error
        if not isinstance(index, dict) or not all(isinstance(chunk, str) for chunk in index.values()):
            raise DataError(f"{path}: expected an object that maps scene names to chunk files")
        if not index:
            raise DataError(f"{path} lists no scenes")
        return index

    def _names_in_chunks(self) -> dict[str, str]:
        """Scene -> chunk, from the chunks themselves, which are memory-mapped for this."""
        chunks = sorted(self.folder.glob("*.torch"))
        if not chunks:
            raise DataError(f"{self.folder} has neither .torch chunks nor {INDEX}, which is published with them")
        logger.info("%s has no %s: the names of the scenes come from its %d chunks", self.folder, INDEX, len(chunks))
        index: dict[str, str] = {}
        for chunk in chunks:
            try:
                index.update(dict.fromkeys(_open_chunk(chunk), chunk.name))
            except DataError as error:
                logger.warning("%s: %s", self.folder, error)
        if not index:
            raise DataError(f"none of the {len(chunks)} chunks in {self.folder} can be read; fetch them again")
        return index

    def _usable(self, index: dict[str, str]) -> dict[str, str]:
        """Remove scenes whose chunk was not downloaded, and record them as skipped."""
        present = {path.name for path in self.folder.glob("*.torch")}
        usable = {key: chunk for key, chunk in index.items() if chunk in present}
        if not usable:
            raise DataError(f"{self.folder} holds none of the .torch chunks that its {INDEX} names")
        self.skipped.add_all((key for key in index if key not in usable), "its .torch chunk is missing")
        return usable

    def _chunk(self, key: str) -> dict[str, dict[str, Any]]:
        name = self._chunk_of[key]
        if name not in self._open_chunks:
            try:
                self._open_chunks[name] = _open_chunk(self.folder / name)
            except DataError as error:
                raise BadScene(str(error), key) from error
            if len(self._open_chunks) > CACHED_CHUNKS:
                self._open_chunks.popitem(last=False)
        self._open_chunks.move_to_end(name)
        return self._open_chunks[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_chunks": OrderedDict()}


def _open_chunk(path: Path) -> dict[str, dict[str, Any]]:
    torch.serialization.add_safe_globals(_numpy_arrays())
    try:
        check_no_device(path)
        # Files of torch < 1.6 are not zip archives and cannot be mapped.
        chunk = torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path))
    # A damaged file raises almost anything: UnpicklingError, RuntimeError, EOFError, KeyError, UnicodeDecodeError.
    except Exception as error:
        raise DataError(f"chunk {path.name} cannot be read ({type(error).__name__}); fetch it again") from error
    if not isinstance(chunk, list) or not all(isinstance(item, dict) and "key" in item for item in chunk):
        raise DataError(f"chunk {path.name}: expected a list of dictionaries with a key")
    return {item["key"]: item for item in chunk}


def _numpy_arrays() -> list[Any]:
    """Types that torch.load must accept to read NumPy arrays of numbers. None of them runs code from the file."""
    make_array: Any = np.zeros(0).__reduce__()[0]  # lives in another module in each major version of numpy
    numbers = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "uint8")]
    return [make_array, np.ndarray, np.dtype, *numbers]


def _tensor(value: Any) -> Any:
    """Convert NumPy arrays, which some converters store, to tensors; return anything else unchanged."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype != object else value


def _scene_of(key: str, example: dict[str, Any]) -> Scene:
    rows, images = _tensor(example.get("cameras")), example.get("images")
    if isinstance(images, (list, tuple)):
        images = [_tensor(image) for image in images]
    if not isinstance(rows, Tensor) or rows.ndim != 2 or rows.shape[1] != 18:
        raise BadScene("expected cameras [v, 18]", key)
    if not isinstance(images, (list, tuple)) or not all(isinstance(image, Tensor) for image in images):
        raise BadScene("expected images as a list of byte tensors", key)
    if not rows.isfinite().all():
        raise BadScene("has a camera that is not finite (NaN or infinite)", key)
    try:
        c2w, intrinsics = cameras_from_rows(rows.float())
    except ValueError as error:
        raise BadScene(str(error), key) from error
    timestamps = _tensor(example.get("timestamps"))
    names = tuple(f"frame_{index:05d}" for index in range(len(images)))
    read, depths = partial(_decode, images), _tensor(example.get("depths"))
    has_depth = isinstance(depths, Tensor) and depths.ndim == 3 and len(depths) == len(images)
    return Scene(
        key,
        c2w,
        intrinsics,
        names,
        read,
        timestamps if isinstance(timestamps, Tensor) else None,
        read_depth=partial(_depth, depths) if has_depth else None,
    )


def _depth(depths: Tensor, index: int) -> Float[Tensor, "h w"]:
    """Depth of a frame from millimetres, as `scenetok demo-data --depth` writes them."""
    return depths[index].float() * MILLIMETRES


def _decode(images: Sequence[Tensor], index: int) -> UInt8[Tensor, "3 h w"]:
    return decode_image(images[index].numpy().tobytes())
