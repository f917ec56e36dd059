"""Pictures of an evaluation, as files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from scenetok_ns.evaluation.features import to_bytes
from scenetok_ns.evaluation.records import EvaluationFolder, file_name
from scenetok_ns.evaluation.scene_evaluation import EvaluatedScene, OnScene
from scenetok_ns.tools.atomic_files import write_atomically

JPEG_QUALITY = 92


def side_by_side(folder: Path) -> OnScene:
    """As Nerfstudio's ns-eval writes them, truth left and prediction right: eval_img_SCENE_NNNN.png.

    NNNN is the frame's number in its scene. Nerfstudio counts through all views; here that would name a view after what
    could be read of the scenes before it, which a continued evaluation may find otherwise.
    """

    def write(scene: EvaluatedScene) -> None:
        for frame, (truth, pred) in zip(scene.frames, _pairs(scene), strict=True):
            both = np.concatenate([truth, pred], axis=1)
            _save(folder / f"eval_img_{file_name(scene.key)}_{frame:04d}.png", both, "PNG")

    return write


def for_report(folder: EvaluationFolder) -> OnScene:
    """Context, truth and prediction of every view, from which `scenetok report` makes its page."""

    def write(scene: EvaluatedScene) -> None:
        root = folder.pictures(scene.key)
        for frame, image in zip(scene.context_frames, scene.context.images, strict=True):
            _save(root / f"context_{frame:05d}.jpg", _rows(image), "JPEG")
        for frame, (truth, pred) in zip(scene.frames, _pairs(scene), strict=True):
            _save(root / f"truth_{frame:05d}.jpg", truth, "JPEG")
            _save(root / f"pred_{frame:05d}.jpg", pred, "JPEG")

    return write


def _pairs(scene: EvaluatedScene) -> list[tuple[np.ndarray, np.ndarray]]:
    preds = to_bytes(scene.pred).cpu()
    return [(_rows(truth), _rows(pred)) for truth, pred in zip(scene.target.images, preds, strict=True)]


def _rows(image: UInt8[Tensor, "3 h w"]) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().numpy()


def _save(path: Path, image: np.ndarray, kind: str) -> None:
    data = BytesIO()
    Image.fromarray(image).save(data, kind, quality=JPEG_QUALITY)
    write_atomically(path, data.getvalue())
