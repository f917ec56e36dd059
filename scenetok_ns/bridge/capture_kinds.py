"""Find the dataparser that reads a folder: a capture, or a data set with many scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from scenetok_ns.data.capture.unposed import check_posed
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.transforms_file import TRANSFORMS
from scenetok_ns.dataparsers.dl3dv_dataparser import Dl3dvDataParserConfig
from scenetok_ns.dataparsers.re10k_dataparser import Re10kDataParserConfig
from scenetok_ns.tools.printing import command
from scenetok_ns.tools.suggestions import did_you_mean_path

MODELS = ("colmap/sparse/0", "sparse/0", "sparse")
"""Folders of COLMAP models: of ns-process-data, of scenetok capture and COLMAP itself, and of COLMAP's undistorter."""
COLMAP_WORDS = ("colmap", "--eval-mode", "fraction")
"""Words of a command that read a COLMAP model as `find_dataparser` does."""
SHOWN = 5
"""Maximum number of names in a message."""


KINDS = {ColmapDataParserConfig: "colmap", Re10kDataParserConfig: "re10k-data", Dl3dvDataParserConfig: "dl3dv-data"}


def find_dataparser(data: Path) -> DataParserConfig:
    """Choose the dataparser that reads `data`: nerfstudio-data, colmap, re10k-data or dl3dv-data.

    Captures of both kinds hold out one photograph in ten, and none of fewer than ten.

    Returns:
        Its configuration.

    Raises:
        DataError: None of them reads `data`. For photographs, videos and exports of Polycam or Record3D, the message
            names the command that prepares them.
    """
    if not data.exists():
        raise DataError(f"no data at {data}{did_you_mean_path(data)}")
    if data.is_file() and data.suffix == ".json":
        return NerfstudioDataParserConfig(data=data)
    if data.is_dir():
        for kind in (_transforms, _colmap, _re10k, _dl3dv):
            if (found := kind(data)) is not None:
                return found
    check_posed(data if data.name else data.absolute())  # "." has no name
    raise DataError(_advice(data))


def _transforms(data: Path) -> DataParserConfig | None:
    if not (data / TRANSFORMS).is_file():
        return None
    return NerfstudioDataParserConfig(data=data)


def _colmap(data: Path) -> ColmapDataParserConfig | None:
    for model in MODELS:
        if any((data / model / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt")):
            # nerfstudio-data's split: the stock one holds out every eighth picture, also of four.
            return ColmapDataParserConfig(
                data=data, colmap_path=Path(model), load_3D_points=False, eval_mode="fraction"
            )
    return None


def fitting_dataparser(dataparser: DataParser) -> DataParser:
    """Adapt the dataparser that a command names to its folder.

    colmap looks for its model in all usual places, unless the command names the place. Raises DataError, with advice,
    for nerfstudio-data (the default) and a folder without transforms.json, and for videos and photographs without
    cameras.
    """
    config = dataparser.config
    if isinstance(config, ColmapDataParserConfig):
        usual = config.colmap_path == ColmapDataParserConfig().colmap_path
        if usual and not (config.data / config.colmap_path).exists():
            found = _colmap(config.data)
            if found is None:
                check_posed(config.data)
            config = config if found is None else replace(config, colmap_path=found.colmap_path)
        return config.setup()
    if isinstance(config, NerfstudioDataParserConfig) and config.data.is_file():
        check_posed(config.data)
    if isinstance(config, NerfstudioDataParserConfig) and config.data.is_dir() and _transforms(config.data) is None:
        kind = KINDS[type(find_dataparser(config.data))]
        words = " ".join(COLMAP_WORDS) if kind == "colmap" else kind
        raise DataError(
            f"{config.data} has no {TRANSFORMS}, but {kind} reads it: add {words} at the end of the command"
        )
    return dataparser


def _re10k(data: Path) -> DataParserConfig | None:
    there = any(next(data.glob(pattern), None) for pattern in ("index.json", "*/index.json", "*.torch", "*/*.torch"))
    return Re10kDataParserConfig(data=data) if there else None


def _dl3dv(data: Path) -> DataParserConfig | None:
    depths = ("*", "*/nerfstudio", "*/*", "*/*/nerfstudio", "*/*/*", "nerfstudio")
    if not any(next(data.glob(f"{depth}/{TRANSFORMS}"), None) is not None for depth in depths):
        return None
    if captures := captures_in(data):
        names = ", ".join(path.name for path in captures[:SHOWN])
        more = f" and {len(captures) - SHOWN} more" if len(captures) > SHOWN else ""
        raise DataError(
            f"{data} holds {len(captures)} captures ({names}{more}), each with its own scale and lens: give one "
            f"of them, such as {captures[0]}"
        )
    return Dl3dvDataParserConfig(data=data)


def captures_in(data: Path) -> list[Path]:
    """Find the captures in the subfolders of a folder; none if it is a data set in the layout of DL3DV.

    A data set has its scenes in folders of splits or in folders named nerfstudio, or their pictures are downscaled
    (images_4, images_8). Its scenes share one scale, and lens distortion is left in its pictures.
    """
    found = sorted(path for path in data.iterdir() if (path / TRANSFORMS).is_file() and path.name != "nerfstudio")
    smaller = any(folder.is_dir() for path in found for folder in path.glob("images_[0-9]*"))
    return [] if smaller else found


def _advice(data: Path) -> str:
    """Describe what to do with data whose cameras no dataparser can read."""
    data = data if data.name else data.absolute()  # "." has no name
    capturing = command("scenetok", "capture", data, "--output", f"{data.with_suffix('')}-capture")
    kinds: list[tuple[str, Callable[[], bool]]] = [
        ("polycam", lambda: (data / "keyframes").is_dir()),
        ("record3d", lambda: (data / "EXR_RGBD").is_dir() or data.suffix == ".r3d"),
    ]
    for kind, is_it in kinds:
        if is_it():
            processed = f"{data.with_suffix('')}-processed"
            making = command("ns-process-data", kind, "--data", data, "--output-dir", processed)
            return (
                f"{data} has no cameras in a form that can be read; make them with {making} (or from the pictures "
                f"alone with {capturing}), and give that folder"
            )
    return (
        f"{data} is not a data set: expected {TRANSFORMS} (scenetok capture, ns-process-data), a COLMAP model in "
        "sparse/0, index.json of re10k-data, or scenes of dl3dv-data"
    )
