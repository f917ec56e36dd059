"""The focal quirk of released DL3DV weights: its factor, and on which views it acts."""

from __future__ import annotations

import json

import pytest
import torch
from parity_cases import CORE, load_case

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.quirks import network_cameras, scale_focal_by_256


def test_factor_is_the_recorded_one() -> None:
    case = load_case("c11_dl3dv_metadata")
    clean = case.outputs["intrinsics"]
    torch.testing.assert_close(scale_focal_by_256(clean), case.outputs["dataset_scaled_intrinsics"], rtol=0, atol=1e-5)
    stored = json.loads((CORE / "c11_transforms.json").read_text())
    by_file = scale_focal_by_256(clean, (stored["h"], stored["w"]))
    recorded = torch.stack([by_file[:, 0, 0], by_file[:, 1, 1], by_file[:, 0, 2], by_file[:, 1, 2]], dim=1)
    torch.testing.assert_close(recorded, case.outputs["cameras_scaled"][:, :4], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("preset", "context", "target"),
    [
        ("dl3dv-shift8", True, True),
        ("dl3dv-wan-shift4", True, False),
        ("dl3dv-shift8-fixed", False, False),
        ("re10k", False, False),
    ],
)
def test_each_preset_scales_the_views_that_its_weights_saw_scaled(preset: str, context: bool, target: bool) -> None:
    intrinsics = torch.tensor([[0.9, 0.0, 0.5], [0.0, 1.6, 0.5], [0.0, 0.0, 1.0]]).expand(2, 3, 3, 3)
    cameras = CameraBatch(torch.eye(4).expand(2, 3, 4, 4), intrinsics)
    wrong = torch.tensor([[13.5, 0.0, 0.5], [0.0, 13.5, 0.5], [0.0, 0.0, 1.0]]).expand(2, 3, 3, 3)
    for role, scaled in (("context", context), ("target", target)):
        seen = network_cameras(cameras, role, load_preset(preset))
        torch.testing.assert_close(seen.intrinsics, wrong if scaled else intrinsics)
        assert seen.c2w is cameras.c2w
    assert cameras.intrinsics[0, 0, 0, 0] == pytest.approx(0.9)
