"""The focal quirk of released DL3DV weights has the recorded factor and acts on the right views."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from support.parity_cases import CORE, load_case
from support.released_files import small_preset

from scenetok_ns.models.autoencoders.registry import build_autoencoder
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.quirks import network_cameras, scale_focal_by_256
from scenetok_ns.models.scenetok import SceneTok


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


@pytest.mark.parametrize("quirk", ["none", "context", "all"])
def test_scenetok_encodes_and_renders_with_the_preset_s_cameras(quirk: str) -> None:
    plain = small_preset()
    preset = replace(plain, data=replace(plain.data, scale_focal_by_256=quirk))
    torch.manual_seed(0)
    model = SceneTok(
        plain, build_autoencoder(plain.context_autoencoder), build_autoencoder(plain.target_autoencoder)
    ).eval()
    quirky = SceneTok(
        preset, build_autoencoder(plain.context_autoencoder), build_autoencoder(plain.target_autoencoder)
    ).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    quirky.load_state_dict(model.state_dict())
    pose = torch.eye(4).repeat(1, 4, 1, 1)
    pose[0, :, 0, 3] = torch.arange(4) * 0.2
    intrinsics = torch.tensor([[0.9, 0.0, 0.5], [0.0, 0.9, 0.5], [0.0, 0.0, 1.0]]).expand(1, 4, 3, 3)
    cameras = CameraBatch(pose, intrinsics)
    wrong = CameraBatch(pose, scale_focal_by_256(intrinsics))
    images = torch.rand(4, 3, 128, 128)

    tokens = quirky.encode(images, cameras)
    expected = model.encode(images, cameras if quirk == "none" else wrong)
    torch.testing.assert_close(tokens.mean, expected.mean, rtol=0, atol=0)
    frames = quirky.render(tokens, cameras)
    expected_frames = model.render(expected, wrong if quirk == "all" else cameras)
    torch.testing.assert_close(frames, expected_frames, rtol=0, atol=0)
    assert not torch.equal(model.render(expected, wrong), model.render(expected, cameras))
