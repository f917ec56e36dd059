"""Write the pictures of an evaluation as files."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from scenetok_ns.evaluation.records import EvaluationFolder, file_name
from scenetok_ns.evaluation.scene_evaluation import EvaluatedScene, OnScene
from scenetok_ns.rendering.picture_files import save_picture, sheet, to_bytes


def side_by_side(folder: Path) -> OnScene:
    """Create a writer of pictures as in Nerfstudio's ns-eval, truth left and prediction right: eval_img_SCENE_NNNN.png.

    NNNN is the frame's number in its scene. Nerfstudio instead counts all views. Such a number would depend on which
    earlier scenes could be read, and that may change when an evaluation is continued.
    """

    def write(scene: EvaluatedScene) -> None:
        for frame, (truth, pred) in zip(scene.frames, _pairs(scene), strict=True):
            save_picture(folder / f"eval_img_{file_name(scene.key)}_{frame:04d}.png", sheet([[truth, pred]]))

    return write


def for_report(folder: EvaluationFolder) -> OnScene:
    """Create a writer of context, truth and prediction of every view, from which `scenetok report` creates its page."""

    def write(scene: EvaluatedScene) -> None:
        root = folder.pictures(scene.key)
        for frame, image in zip(scene.context_frames, scene.context.images, strict=True):
            save_picture(root / f"context_{frame:05d}.jpg", image)
        for frame, (truth, pred) in zip(scene.frames, _pairs(scene), strict=True):
            save_picture(root / f"truth_{frame:05d}.jpg", truth)
            save_picture(root / f"pred_{frame:05d}.jpg", pred)

    return write


def plain_pairs(folder: Path) -> OnScene:
    """Create a writer of two folders of plain PNG files with equal names, as other programs for FID expect them.

    The files are FOLDER/truth/SCENE_NNNNN.png and FOLDER/pred/SCENE_NNNNN.png. NNNNN is the frame's number in its
    scene.
    """

    def write(scene: EvaluatedScene) -> None:
        for frame, (truth, pred) in zip(scene.frames, _pairs(scene), strict=True):
            name = f"{file_name(scene.key)}_{frame:05d}.png"
            save_picture(folder / "truth" / name, truth)
            save_picture(folder / "pred" / name, pred)

    return write


def all_of(*writers: OnScene) -> OnScene:
    """Create a writer that passes every scene to all of the given writers."""

    def write(scene: EvaluatedScene) -> None:
        for writer in writers:
            writer(scene)

    return write


def _pairs(scene: EvaluatedScene) -> list[tuple[UInt8[Tensor, "3 h w"], UInt8[Tensor, "3 h w"]]]:
    return list(zip(scene.target.images, to_bytes(scene.pred).cpu(), strict=True))
