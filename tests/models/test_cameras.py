from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.parity_cases import load_case
from support.small_networks import CHUNKED, LVSM, PATCHES, VIDEO, random_cameras

from scenetok_ns.models.cameras import CameraBatch, are_rigid, ray_map, relative_cameras
from scenetok_ns.models.networks.pose_embedding import PoseEmbedding
from scenetok_ns.models.presets import CameraConfig
from scenetok_ns.models.temporal import IMAGE_LAYOUT

SEEDS = st.integers(0, 10_000)


def rays(cameras: CameraBatch, size: tuple[int, int] = (3, 4), kind: str = "ray", normalize: bool = True):
    """Directions, and origins or moments, of the rays, each [b, views, 3, pixels]."""
    return ray_map(cameras, size, rays=kind, normalize=normalize).flatten(-2).split(3, dim=2)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(1, 5))
def test_points_on_a_ray_project_to_its_pixel_centre(seed: int, height: int, width: int) -> None:
    cameras = random_cameras(2, 3, seed)
    directions, origins = rays(cameras, (height, width))
    points = origins + 2.5 * directions
    w2c = torch.linalg.inv(cameras.c2w)
    local = w2c[..., :3, :3] @ points + w2c[..., :3, 3:]
    assert (local[..., 2, :] > 0).all(), "OpenCV cameras look along +z"
    pixels = cameras.intrinsics @ local
    x, y = (pixels[..., :2, :] / pixels[..., 2:, :]).unflatten(-1, (height, width)).unbind(2)
    torch.testing.assert_close(x, ((torch.arange(width) + 0.5) / width).expand_as(x), rtol=0, atol=1e-4)
    torch.testing.assert_close(y, ((torch.arange(height) + 0.5) / height)[:, None].expand_as(y), rtol=0, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_plucker_moments_are_those_of_the_line(seed: int) -> None:
    cameras = random_cameras(1, 2, seed)
    directions, origins = rays(cameras)
    same, moments = rays(cameras, kind="plucker")
    assert torch.equal(directions, same)
    further = torch.linalg.cross(origins + 3 * directions, directions, dim=2)
    torch.testing.assert_close(moments, further, rtol=1e-4, atol=1e-4)


def test_directions_are_unit_but_for_the_epsilon() -> None:
    once, _ = rays(random_cameras(1, 2), normalize=False)
    twice, _ = rays(random_cameras(1, 2), normalize=True)
    torch.testing.assert_close(once.norm(dim=2), torch.ones(1, 2, 12), rtol=0, atol=2e-6)
    assert (once != twice).any()


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_relative_cameras_forget_the_world(seed: int) -> None:
    cameras, world = random_cameras(2, 3, seed), random_cameras(2, 1, seed + 1).c2w
    moved = CameraBatch(world @ cameras.c2w, cameras.intrinsics)
    relative = cameras.relative_to(cameras.c2w[:, 1])
    torch.testing.assert_close(relative.c2w[:, 1], torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(moved.relative_to(moved.c2w[:, 1]).c2w, relative.c2w, rtol=0, atol=1e-4)
    assert relative.intrinsics is cameras.intrinsics


def test_relative_poses_are_those_recorded() -> None:
    case = load_case("c11_poses")
    context = case.inputs["context_extrinsics"]
    outputs = {name: value for name, value in case.outputs.items() if name.startswith("relative_")}
    assert outputs
    for name, expected in outputs.items():
        reference, part = name.removeprefix("relative_").split(".")
        c2w = case.inputs[f"{part}_extrinsics"]
        cameras = CameraBatch(c2w, torch.eye(3).expand(*c2w.shape[:2], 3, 3))
        relative = cameras.relative_to(context[:, int(reference)])
        torch.testing.assert_close(relative.c2w, expected, rtol=0, atol=case.limits.max_abs)


def test_views_are_selected_for_all_or_for_each() -> None:
    cameras = random_cameras(2, 4)
    assert torch.equal(cameras.select([2, 0]).c2w, cameras.c2w[:, [2, 0]])
    assert torch.equal(cameras.select(torch.tensor([3])).intrinsics, cameras.intrinsics[:, 3:])
    assert cameras.select(slice(1, 3)).num_views == 2
    each = cameras.select(torch.tensor([[1, 2, 1], [3, 0, 0]]))
    assert torch.equal(each.c2w, torch.stack([cameras.c2w[0, [1, 2, 1]], cameras.c2w[1, [3, 0, 0]]]))
    assert torch.equal(each.intrinsics[1], cameras.intrinsics[1, [3, 0, 0]])


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"expected c2w \[b, views, 4, 4\].*got \[2, 4, 4\] and \[2, 3, 3\]"):
        CameraBatch(torch.zeros(2, 4, 4), torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match="CameraBatch"):
        CameraBatch(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 3, 3))


def test_rays_are_float32_whatever_surrounds_them() -> None:
    cameras = random_cameras(1, 2)
    before = cameras.c2w.clone(), cameras.intrinsics.clone()
    exact = ray_map(cameras, (4, 4), rays="plucker", normalize=True)
    relative = cameras.relative_to(cameras.c2w[:, 0]).c2w
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ray_map(cameras, (4, 4), rays="plucker", normalize=True), exact)
        assert torch.equal(cameras.relative_to(cameras.c2w[:, 0]).c2w, relative)
    assert ray_map(cameras.to(dtype=torch.bfloat16), (4, 4), rays="ray", normalize=True).dtype == torch.float32
    assert torch.equal(cameras.c2w, before[0]) and torch.equal(cameras.intrinsics, before[1])


@pytest.mark.parametrize("config", [LVSM, PATCHES])
def test_embedding_is_float32_under_autocast_and_with_rounded_weights(config: CameraConfig) -> None:
    embedding = PoseEmbedding(config, 48, IMAGE_LAYOUT).eval()
    cameras = random_cameras(2, 3)
    exact = embedding(cameras)
    assert exact.shape == (2, 3, 16, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(embedding(cameras), exact)
    rounded = embedding.bfloat16()(cameras)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.02)


def test_channels_last_is_another_order_of_the_same_weights() -> None:
    right, quirk = (PoseEmbedding(LVSM, 8, VIDEO, channels_last=last) for last in (False, True))
    weight = right.model.model[1].weight
    # (frame, row, col, channel) -> (row, col, frame, channel)
    reordered = weight.unflatten(1, (4, 16, 6)).transpose(1, 2).flatten(1)
    quirk.load_state_dict({"model.model.1.weight": reordered})
    cameras = random_cameras(1, 8)
    torch.testing.assert_close(quirk(cameras), right(cameras))


@pytest.mark.parametrize(("layout", "frames", "latents"), [(IMAGE_LAYOUT, 3, 3), (VIDEO, 8, 2), (CHUNKED, 34, 10)])
def test_frames_become_the_latents_of_the_layout(layout, frames: int, latents: int) -> None:
    embedding = PoseEmbedding(LVSM, 8, layout)
    assert embedding(random_cameras(2, frames)).shape == (2, latents, 16, 8)


def test_a_latent_sees_its_own_frames_alone() -> None:
    embedding, cameras = PoseEmbedding(LVSM, 8, CHUNKED), random_cameras(1, 17)
    c2w = cameras.c2w.clone()
    c2w[:, 1, 0, 3] += 1
    changed = (embedding(CameraBatch(c2w, cameras.intrinsics)) != embedding(cameras)).any(dim=-1).any(dim=-1)
    assert changed.tolist() == [[False, True, False, False, False]]


def test_whole_elements_are_dropped_in_training() -> None:
    embedding, cameras = PoseEmbedding(PATCHES, 48, IMAGE_LAYOUT), random_cameras(200, 2)
    whole = embedding.eval()(cameras)
    torch.manual_seed(0)
    dropped = embedding.train()(cameras)
    gone = (dropped == 0).flatten(1).all(dim=1)
    assert 70 < gone.sum() < 130  # probability 0.5
    assert torch.equal(dropped[~gone], whole[~gone])
    given = torch.arange(200) == 7
    for mode in (True, False):
        assert (embedding.train(mode)(cameras, given) == 0).flatten(1).all(dim=1).tolist() == given.tolist()


def test_positions_tell_patches_apart() -> None:
    embedding = PoseEmbedding(PATCHES, 48, IMAGE_LAYOUT).eval()
    with torch.no_grad():
        embedding.model.model.proj.weight.zero_()
    tokens = embedding(random_cameras(1, 1))[0, 0]
    assert len(torch.unique(tokens, dim=0)) == 16
    rows = tokens.unflatten(0, (4, 4))
    assert torch.equal(rows[0, :, :24], rows[3, :, :24]) and torch.equal(rows[:, 0, 24:], rows[:, 3, 24:])


def test_impossible_embeddings_are_named() -> None:
    with pytest.raises(ValueError, match="patch_embed takes one frame per latent"):
        PoseEmbedding(PATCHES, 8, VIDEO)
    with pytest.raises(ValueError, match="hidden_size 10 is not a multiple of 4"):
        PoseEmbedding(PATCHES, 10, IMAGE_LAYOUT)
    with pytest.raises(ValueError, match=r"4 x 4 tokens.*latents of 8 x 4 in patches of 2"):
        PoseEmbedding(LVSM, 8, IMAGE_LAYOUT).check_grid((8, 4), 2)


def test_rigid_poses_are_rotations_and_translations() -> None:
    """Poses with few digits count as rigid. Scaled and mirrored poses, poses with another last row, and poses with
    numbers that are not finite do not."""
    turned = torch.tensor([[0.6, -0.8, 0, 5], [0.8, 0.6, 0, -3], [0, 0, 1, 1e4], [0, 0, 0, 1]])
    few_digits = torch.tensor([[0.707, -0.707, 0, 0], [0.707, 0.707, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert are_rigid(torch.stack([turned, few_digits])[None]).tolist() == [[True, True]]
    for row, column, value in (
        (0, 0, 0.7),
        (2, 2, -1.0),
        (3, 3, 2.0),
        (3, 0, 0.1),
        (1, 3, torch.inf),
        (1, 1, torch.nan),
    ):
        wrong = turned.clone()
        wrong[row, column] = value
        assert are_rigid(torch.stack([turned, wrong])).tolist() == [True, False], (row, column)


def test_numpy_cameras_become_tensors() -> None:
    c2w, intrinsics = np.eye(4)[None, None], np.array([[64.0, 0, 32], [0, 64, 32], [0, 0, 1]])[None, None]
    for cameras in (CameraBatch.from_pixels(c2w, intrinsics, 64, 64), CameraBatch.from_opengl(c2w, intrinsics)):
        assert cameras.c2w.dtype == cameras.intrinsics.dtype == torch.float32
    assert CameraBatch.from_pixels(c2w, intrinsics, 64, 64).intrinsics[0, 0, 0].tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pose_scale_is_above_zero(scale: float) -> None:
    cameras = CameraBatch(torch.eye(4)[None, None], torch.eye(3)[None, None])
    with pytest.raises(ValueError, match="expected a pose_scale above 0"):
        relative_cameras(cameras, torch.eye(4)[None], scale)
