"""Depth from a model's head: the same in both renderers, in units of the capture, and from a file that fits only its
denoiser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.oracle import LAYOUTS, path
from support.small_models import small_model, views

from scenetok_ns.models.depth_weights import DepthSource, load_depth_head, new_depth_head, save_depth_head
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.flow.windows import RenderedFrames
from scenetok_ns.models.networks.depth_head import DepthHead, as_depth
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.weight_files import CheckpointError, save_weights


def random_head(model: SceneTok) -> DepthHead:
    torch.manual_seed(1)
    head = new_depth_head(model.preset, model.denoiser).eval().requires_grad_(False)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return head


def joined(windows: list[RenderedFrames], name: str) -> torch.Tensor:
    return torch.cat([getattr(window.maps, name) for window in windows], dim=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("length", [1, 18, 52])
def test_the_engine_gives_the_depth_of_the_plain_twin_beside_the_same_frames(layout: str, length: int) -> None:
    plain, fast = small_model(layout), small_model(layout)
    fast.engine_options = EngineOptions.for_device(torch.device("cpu"), autoencoders=True)
    tokens = plain.encode(*views(3))
    without = list(plain.render_windows(tokens, path(length), seed=3))
    for model in (plain, fast):
        model.depth = DepthSource(random_head(plain))
    expected, found = (list(model.render_windows(tokens, path(length), seed=3, depth=True)) for model in (plain, fast))
    assert all(window.maps is None for window in without)
    for ours, theirs, bare in zip(found, expected, without, strict=True):
        torch.testing.assert_close(ours.frames, bare.frames, atol=1e-4, rtol=0)
        assert torch.equal(theirs.frames, bare.frames)
        assert ours.maps is not None and ours.maps.depth.shape == (1, bare.frames.shape[1], 1, 16, 16)
        assert all(part.last is None for part in ours.denoised)
    for name in ("depth", "confidence"):
        torch.testing.assert_close(joined(found, name), joined(expected, name), atol=1e-3, rtol=1e-3)
    assert joined(found, "depth").shape[1] == length and joined(found, "depth").std() > 1e-3


def test_depth_of_a_frame_is_what_the_head_says_at_its_last_step() -> None:
    """The head gets the features of the last denoising step, computed with the scene, at the frame's own latent."""
    model = small_model("4:1")
    model.depth = DepthSource(random_head(model))
    tokens = model.encode(*views(3))
    seen = []
    inner = model.denoiser.velocity_and_features

    def spy(latents, poses, t_net, context):  # type: ignore[no-untyped-def]
        velocity, features = inner(latents, poses, t_net, context)
        seen.append((t_net, features, poses))
        return velocity, features

    model.denoiser.velocity_and_features = spy  # type: ignore[method-assign]
    sampler = replace(model.preset.sampler, guidance=2.0)
    (window,) = model.render_windows(tokens, path(20), seed=1, depth=True, sampler=sampler)
    ((t_net, features, poses),) = seen
    assert 0 < t_net.max() < 999  # the last of two steps
    expected = (-model.depth.given(features, poses)[0]).exp()[:, :20]  # type: ignore[operator,misc]
    assert window.maps is not None
    small = torch.nn.functional.interpolate(expected.flatten(0, 1).log(), (16, 16), mode="bilinear").exp()
    torch.testing.assert_close(window.maps.depth[0], small, rtol=1e-3, atol=1e-3)


def test_depth_is_in_units_of_the_capture() -> None:
    model = small_model("1:1")
    model.depth = DepthSource(random_head(model))
    tokens = model.encode(*views(3))
    large = path(4)
    large.c2w[..., :3, 3] *= 10
    scaled = replace(tokens, pose_scale=0.1)
    (here,), (there,) = (
        list(model.render_windows(one, cameras, depth=True)) for one, cameras in ((tokens, path(4)), (scaled, large))
    )
    assert here.maps is not None and there.maps is not None
    # Scaled positions round differently, and poses are rounded to bfloat16.
    torch.testing.assert_close(there.maps.depth, 10 * here.maps.depth, rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(there.maps.confidence, here.maps.confidence, rtol=2e-2, atol=1e-3)


def test_a_file_fits_the_weights_it_was_trained_on_alone(tmp_path: Path) -> None:
    model, file = small_model(), tmp_path / "head.safetensors"
    head = random_head(model)
    save_depth_head(head, file, model.preset, model.denoiser)
    again = load_depth_head(file, model.preset, model.denoiser)
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)
    model.depth = DepthSource(file)
    assert isinstance(model.depth_head(), DepthHead) and model.depth_head() is model.depth_head()
    with torch.no_grad():
        model.denoiser.cnd_proj.weight.mul_(1.001)
    with pytest.raises(CheckpointError, match="trained on other weights"):
        model.depth_head()
    model.depth = DepthSource(file, required=False)  # as for the bundled head
    assert model.depth_head() is None


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    model, file = small_model(), tmp_path / "head.safetensors"
    with pytest.raises(CheckpointError, match="not a readable depth head"):
        load_depth_head(file, model.preset, model.denoiser)
    save_weights({"denoiser": model.denoiser}, file)
    with pytest.raises(CheckpointError, match="expected the weights of a depth head"):
        load_depth_head(file, model.preset, model.denoiser)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_frame_of_a_long_path_has_the_depth_of_its_own_latent(layout: str) -> None:
    """With a head that depends only on the cameras of each latent, depth must not change with the division of the path
    into windows."""
    model = small_model(layout)
    head = random_head(model)
    head.blocks = torch.nn.ModuleList()
    with torch.no_grad():
        head.enter.weight[:, : head.config.features] = 0
        head.enter.weight[:, head.config.features :] *= 10
    model.depth = DepthSource(head)
    tokens = model.encode(*views(3))
    length = 3 * LAYOUTS[layout].num_frames(model.preset.sampler.window)
    found = joined(list(model.render_windows(tokens, path(length), depth=True)), "depth")
    poses = model.denoiser.embed_poses(model._target_cameras([tokens], [path(length)], model.device))
    expected, _ = as_depth(*head(torch.zeros_like(poses), poses), (16, 16))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    changes = (expected[:, 1:] - expected[:, :-1]).abs().flatten(2).amax(2)
    assert (changes > 1e-4).float().mean() > 0.5  # the frames differ, so mixing them up would be noticed
