"""Our data code gives the results of recorded runs of the published one (parity cases c11)."""

from __future__ import annotations

import json

import pytest
import torch
from support.parity_cases import CORE, VIDEO_DCAE, WAN, Limits, difference, differences, load_case
from support.scene_files import rows_from_cameras
from torch import Tensor

from scenetok_ns.data.images import crop_intrinsics, rescale_and_crop
from scenetok_ns.data.poses import (
    cameras_from_rows,
    farthest_points,
    interpolate_poses,
    pose_distances,
    reflect,
)
from scenetok_ns.data.sources.dl3dv import parse_transforms
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.quirks import scale_focal_by_256
from scenetok_ns.models.temporal import IMAGE_LAYOUT, TemporalLayout


def test_poses() -> None:
    case = load_case("c11_poses")
    inputs, actual = case.inputs, {}
    context, target = inputs["context_extrinsics"], inputs["target_extrinsics"]
    views = torch.cat([context, target], dim=1)
    cameras = CameraBatch(views, torch.eye(3).expand(*views.shape[:2], 3, 3))
    for name in case.outputs:
        if name.startswith("relative_") and name.endswith(".context"):
            stem = name.removesuffix(".context")
            relative = cameras.relative_to(context[:, int(stem.removeprefix("relative_"))]).c2w
            actual[name] = relative[:, : context.shape[1]]
            actual[f"{stem}.target"] = relative[:, context.shape[1] :]
        elif name.startswith("interp_"):
            count = int(name.removeprefix("interp_"))
            actual[name] = torch.stack([interpolate_poses(keys, count) for keys in inputs["key_extrinsics"]])
    rows = inputs["re10k_cameras"]
    actual["re10k_extrinsics"], actual["re10k_intrinsics"] = cameras_from_rows(rows)
    count = len(case.outputs["reflected_extrinsics"])
    actual["reflected_images"], actual["reflected_extrinsics"] = reflect(
        inputs["reflect_images"], actual["re10k_extrinsics"][:count]
    )
    assert differences(actual, case) == []
    assert difference(rows_from_cameras(*cameras_from_rows(rows)), rows, case.limits) == []


def test_dl3dv_metadata() -> None:
    case = load_case("c11_dl3dv_metadata")
    meta = json.loads((CORE / "c11_transforms.json").read_text())
    c2w, intrinsics, timestamps = parse_transforms(meta, case.info["url"])
    actual = {
        "extrinsics": c2w,
        "intrinsics": intrinsics,
        "timestamps": timestamps,
        "cameras": rows_from_cameras(c2w, intrinsics),
        "cameras_scaled": rows_from_cameras(c2w, scale_focal_by_256(intrinsics, (meta["h"], meta["w"]))),
        "dataset_scaled_intrinsics": scale_focal_by_256(intrinsics),
    }
    assert differences(actual, case) == []


def test_farthest_points() -> None:
    case = load_case("c11_fps")
    # Recordings without this number state 1e-4 in their notes.
    limit = Limits(case.info["tolerance"].get("distance_max_abs", 1e-4))
    actual: dict[str, Tensor] = {}
    for name, start in case.inputs.items():
        number, _, field = name.partition(".")
        if field == "start":
            poses, count = case.inputs[f"{number}.extrinsics"], int(case.inputs[f"{number}.n"])
            actual[f"{number}.distance"] = pose_distances(poses)
            actual[f"{number}.indices"] = farthest_points(poses, count, int(start))
    exact = {name: Limits(0) for name in actual if name.endswith("indices")}
    assert differences(actual, case, {**dict.fromkeys(actual, limit), **exact}) == []


def first_frame(latent: int, downsample: int, gap: int, offset: int) -> int:
    """The recorded rule for layouts that no autoencoder has (offset 0 with several latents in a chunk)."""
    return latent * downsample - (downsample - 1) * (latent // gap + (offset if latent % gap else 0))


def latent_of(frame: int, downsample: int, gap: int) -> int:
    chunk = downsample * (gap - 1) + 1
    return gap * (frame // chunk) + (frame % chunk + downsample - 1) // downsample


def test_index_maps() -> None:
    case = load_case("c11_index_maps")
    actual = {}
    for name, recorded in case.outputs.items():
        if name.startswith("view_mask"):
            layout = WAN if name.endswith("wan") else VIDEO_DCAE
            actual[name] = torch.stack([_view_mask(window, layout) for window in case.inputs["window"]])
            continue
        kind, _, numbers = name.partition(".")
        downsample, gap, offset = (int(number) for number in numbers.split("_"))
        if downsample == gap == 1:
            layout = IMAGE_LAYOUT
        elif offset:
            layout = TemporalLayout(downsample * (gap - 1) + 1, gap)
        else:
            layout = None
        if kind == "latent_to_frame":
            of = layout.first_frame if layout else lambda i, d=downsample, g=gap: first_frame(i, d, g, 0)
        else:
            of = layout.latent_of if layout else lambda f, d=downsample, g=gap: latent_of(f, d, g)
        actual[name] = torch.tensor([of(index) for index in range(len(recorded))])
    assert differences(actual, case, dict.fromkeys(actual, Limits(0))) == []


def _view_mask(window: Tensor, layout: TemporalLayout) -> Tensor:
    """Mask of the frames whose latents are in a window, given as a mask with one run of ones."""
    latents = window.nonzero().flatten().tolist()
    mask = torch.zeros(layout.num_frames(len(window)), dtype=torch.uint8)
    mask[layout.frame_slice(latents[0], latents[-1] + 1)] = 1
    return mask


@pytest.mark.parametrize("path", ["f32", "f64"], ids=["re10k", "dl3dv"])
def test_rescale_and_crop(path: str) -> None:
    case = load_case("c11_rescale_crop")
    for number in (name.removeprefix("shape.") for name in case.inputs if name.startswith("shape.")):
        image = case.inputs[f"image.{number}"]
        height, width = case.inputs[f"shape.{number}"].tolist()
        cropped = rescale_and_crop(image, (height, width))
        assert torch.equal(cropped, case.outputs[f"{number}.{path}"])
        intrinsics = crop_intrinsics(case.inputs[f"intrinsics.{number}"], tuple(image.shape[1:]), (height, width))
        limit = Limits(case.info["tolerance"]["intrinsics"])
        assert difference(intrinsics, case.outputs[f"{number}.intrinsics"], limit) == []
    # The published conversion to floats and back preserves every byte, so our code can work on bytes.
    assert torch.equal(case.outputs[f"trunc_{path}"].long(), torch.arange(256))
