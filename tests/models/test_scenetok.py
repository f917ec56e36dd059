"""Render frames from tokens with an oracle and with a small random model: counts, order, padding and seeds."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracle import LAYOUTS, SAMPLERS, SIZE, OracleDenoiser, autoencoder, grey, path
from support.small_models import small_model, small_preset, views

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.windows import CleanViews, RenderedFrames, pad_path, render_windows
from scenetok_ns.models.ops.finite import NotFiniteError
from scenetok_ns.models.presets import SceneGeneratorConfig, SceneSamplerConfig
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.temporal import TemporalLayout
from scenetok_ns.models.tokens import SceneTokens

LENGTHS = (1, 2, 3, 16, 17, 30, 33, 52)


def oracle_render(layout: TemporalLayout, cameras: CameraBatch, sampler, **options) -> list[RenderedFrames]:
    tokens = torch.zeros(cameras.batch_size, 2, 3)
    return list(
        render_windows(OracleDenoiser(layout), autoencoder(layout), tokens, cameras, (SIZE, SIZE), sampler, **options)
    )


def check_frames(windows: list[RenderedFrames], cameras: CameraBatch) -> None:
    """Check that each frame comes exactly once, in order, and belongs to its own camera."""
    expected = 0
    for window in windows:
        assert window.first_frame == expected and window.frames.shape[1] > 0
        expected += window.frames.shape[1]
    frames = torch.cat([window.frames for window in windows], dim=1)
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames, grey(cameras).clamp(0, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("length", LENGTHS)
def test_any_number_of_frames_comes_back_in_order(layout: str, length: int) -> None:
    windows = oracle_render(LAYOUTS[layout], path(length, scenes=2), SAMPLERS[layout])
    check_frames(windows, path(length, scenes=2))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_window_and_schedule(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(list(LAYOUTS.values())))
    chunk = layout.latents_per_chunk
    window = data.draw(st.integers(1, 4))
    clean = data.draw(st.integers(0, window - 1))
    schedules = ["full_sequence", "autoregressive"] + (["pyramid"] if chunk == 1 else [])
    sampler = replace(
        SAMPLERS["1:1"],
        steps=2,
        window=window * chunk,
        clean_targets=clean * chunk,
        schedule=data.draw(st.sampled_from(schedules)),
        pyramid_uncertainty=2,
    )
    cameras = path(data.draw(st.integers(1, 60)))
    check_frames(oracle_render(layout, cameras, sampler), cameras)


def test_a_lone_camera_is_a_whole_window_of_it() -> None:
    layout = LAYOUTS["4:1"]
    padded = pad_path(path(1), layout, window=8)
    assert padded.num_views == 32 and (padded.c2w == path(1).c2w).all()
    denoiser = OracleDenoiser(layout)
    list(render_windows(denoiser, autoencoder(layout), torch.zeros(1, 2, 3), path(1), (SIZE, SIZE), SAMPLERS["4:1"]))
    assert {tuple(t.shape) for t in denoiser.network_times} == {(1, 8)}


def test_frames_come_before_the_path_is_done() -> None:
    layout, denoiser = LAYOUTS["4:1"], OracleDenoiser(LAYOUTS["4:1"])
    windows = render_windows(
        denoiser, autoencoder(layout), torch.zeros(1, 2, 3), path(64), (SIZE, SIZE), SAMPLERS["4:1"]
    )
    assert denoiser.forwards == 0
    assert next(windows).frames.shape[1] == 32 and denoiser.forwards == SAMPLERS["4:1"].steps


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("length", [1, 3, 40])
def test_a_path_goes_on_from_clean_views(layout: str, length: int) -> None:
    """Clean views are the beginning of the first window, at time 0. Only new frames and latents are returned."""
    form, sampler = LAYOUTS[layout], SAMPLERS[layout]
    denoiser, coder = OracleDenoiser(form), autoencoder(form)
    chunks = sampler.clean_targets // form.latents_per_chunk
    before = path(form.frames_per_chunk * chunks)
    clean = CleanViews(coder.encode(torch.rand(1, before.num_views, 3, SIZE, SIZE)), before)
    untouched = clean.latents.clone()
    cameras = path(length)
    windows = list(render_windows(denoiser, coder, torch.zeros(1, 2, 3), cameras, (SIZE, SIZE), sampler, clean=clean))
    check_frames(windows, cameras)
    for t_net in denoiser.network_times[: sampler.steps]:
        assert (t_net[:, : sampler.clean_targets] == 0).all() and (t_net[:, sampler.clean_targets :] > 0).all()
    assert torch.equal(clean.latents, untouched)
    latents = [part for window in windows for part in window.denoised]
    assert latents[0].first == 0 and latents[0].window_first == -sampler.clean_targets
    assert latents[0].first + latents[0].latents.shape[1] == sampler.window - sampler.clean_targets


def test_noise_is_the_same_whatever_a_path_goes_on_from() -> None:
    """Otherwise a view would look different depending on the number of clean views before it."""
    layout, sampler = LAYOUTS["1:1"], SAMPLERS["1:1"]

    class Recording(OracleDenoiser):
        def velocity(self, latents: torch.Tensor, *arguments: Any) -> torch.Tensor:
            starts.append(latents)
            return super().velocity(latents, *arguments)

    new = []
    for count in (0, 1, 3):
        starts: list[torch.Tensor] = []
        clean = CleanViews(torch.zeros(1, count, 48, 1, 1), path(count)) if count else None
        given = (autoencoder(layout), torch.zeros(1, 2, 3), path(1), (SIZE, SIZE), sampler)
        list(render_windows(Recording(layout), *given, seed=4, clean=clean))
        new.append(starts[0][:, count])
    assert torch.equal(new[0], new[1]) and torch.equal(new[0], new[2])


def test_more_clean_views_than_room_are_refused() -> None:
    layout, sampler = LAYOUTS["1:1"], SAMPLERS["1:1"]
    clean = CleanViews(torch.zeros(1, 5, 48, 1, 1), path(5))
    with pytest.raises(ValueError, match="can begin with 0 to 4 clean ones, got 5"):
        render_windows(
            *(OracleDenoiser(layout), autoencoder(layout), torch.zeros(1, 2, 3), path(1), (SIZE, SIZE), sampler),
            clean=clean,
        )


@pytest.mark.parametrize(
    ("cameras", "options", "message"),
    [
        (path(0), {}, "the camera path is empty; give it at least one camera"),
        (path(3, scenes=2), {}, "1 scenes need as many camera paths"),
        (
            path(3),
            {"seed": [1, 2]},
            "1 scenes need as many camera paths, and one seed or one for each; got 1 .* 2 seeds",
        ),
    ],
)
def test_what_cannot_be_rendered_is_refused_at_once(cameras: CameraBatch, options: dict, message: str) -> None:
    layout = LAYOUTS["1:1"]
    with pytest.raises(ValueError, match=message):
        render_windows(
            OracleDenoiser(layout),
            autoencoder(layout),
            torch.zeros(1, 2, 3),
            cameras,
            (SIZE, SIZE),
            SAMPLERS["1:1"],
            **options,
        )


# --- a whole small model


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("length", [1, 18, 52])
def test_a_model_renders_any_number_of_frames(layout: str, length: int) -> None:
    model = small_model(layout)
    frames = model.render(model.encode(*views(3)), path(length))
    assert frames.shape == (length, 3, 16, 16) and (frames >= 0).all() and (frames <= 1).all()
    assert not frames.requires_grad


def test_frames_follow_seed_tokens_and_sampler_and_nothing_else() -> None:
    model, (images, cameras) = small_model(), views(3)
    tokens = model.encode(images, cameras)
    frames = model.render(tokens, path(9), seed=5)
    torch.manual_seed(123)
    assert torch.equal(model.render(tokens, path(9), seed=5), frames)
    others = [
        model.render(tokens, path(9), seed=6),
        model.render(replace(tokens, mean=tokens.mean + 1), path(9), seed=5),
        model.render(tokens, path(9), seed=5, sampler=replace(model.preset.sampler, steps=5)),
        model.render(tokens, CameraBatch(path(9).c2w, torch.tensor([2.0, 2.0, 1.0]) * path(9).intrinsics), seed=5),
    ]
    assert not any(torch.allclose(other, frames, atol=1e-3) for other in others)
    # A longer path starts from the same noise, so windows with the same cameras give the same frames.
    assert torch.equal(model.render(tokens, path(40), seed=5)[:32], model.render(tokens, path(32), seed=5))


def test_estimates_begin_with_the_picture_of_one_step_and_change_nothing() -> None:
    """After the last step there is none: that is the picture itself. Also behind clean views."""
    model, (images, cameras) = small_model(), views(3)
    tokens, sampler = model.encode(images, cameras), replace(model.preset.sampler, steps=4)
    latents = next(model.render_windows(tokens, path(1), seed=2)).denoised[0].latents
    layout = model.target_autoencoder.space.layout
    for clean in (None, CleanViews(latents[:, : layout.latents_per_chunk], path(layout.frames_per_chunk))):
        options = {"seed": 5, "clean": clean}
        given: list[Any] = []
        windows = model.render_windows(
            tokens, path(2), sampler=sampler, on_frame=lambda frame, given=given: given.append(frame()), **options
        )
        picture, frames = next(windows).frames, given
        assert torch.equal(picture, next(model.render_windows(tokens, path(2), sampler=sampler, **options)).frames)
        single = model.render_windows(tokens, path(2), sampler=replace(sampler, steps=1), **options)
        assert len(frames) == sampler.steps - 1 and frames[0].shape == (1, 3, *model.image_size)
        torch.testing.assert_close(frames[0], next(single).frames[:, 0], atol=1e-5, rtol=0)
        assert not torch.allclose(frames[-1], frames[0], atol=1e-3)


def test_scenes_rendered_together_are_as_alone() -> None:
    model, (images, cameras) = small_model(), views(3)
    first = model.encode(images, cameras)
    second = replace(model.encode(images.flip(0), cameras), pose_scale=2.0)
    paths = [path(9), path(12, scenes=2).select(slice(3, 12))]
    paths[1] = CameraBatch(paths[1].c2w[1:], paths[1].intrinsics[1:])
    windows = list(model.render_many([first, second], paths, seeds=[5, 6]))
    together = torch.cat([window.frames for window in windows], dim=1)
    for frames, tokens, cameras, seed in zip(together, (first, second), paths, (5, 6), strict=True):
        torch.testing.assert_close(frames, model.render(tokens, cameras, seed=seed), atol=1e-5, rtol=0)


@pytest.mark.parametrize("lengths", [(), (3,), (3, 4)])
def test_scenes_need_a_path_each_of_one_length(lengths: tuple[int, ...]) -> None:
    model = small_model()
    tokens = model.encode(*views(3))
    with pytest.raises(ValueError, match="render: expected at least one scene and as many equally long paths"):
        model.render_many([tokens] * (2 if lengths else 0), [path(length) for length in lengths])


def test_the_middle_view_is_the_reference_and_the_world_may_move() -> None:
    model, (images, cameras) = small_model(), views(4)
    tokens = model.encode(images, cameras, scene="room", sources=("ab",))
    assert torch.equal(tokens.reference_c2w, cameras.c2w[0, 2])
    assert (tokens.preset, tokens.scene, tokens.sources) == (model.preset.name, "room", ("ab",))
    turn = torch.tensor([[0.0, -1, 0, 2], [1, 0, 0, 3], [0, 0, 1, 4], [0, 0, 0, 1]])

    def moved(batch: CameraBatch) -> CameraBatch:
        return CameraBatch(turn @ batch.c2w, batch.intrinsics)

    again = model.encode(images, moved(cameras))
    torch.testing.assert_close(again.mean, tokens.mean, atol=1e-4, rtol=0)
    frames, moved_frames = model.render(tokens, path(5)), model.render(again, moved(path(5)))
    torch.testing.assert_close(moved_frames, frames, atol=2e-2, rtol=0)


def test_pose_scale_is_part_of_the_tokens() -> None:
    model, (images, cameras) = small_model(), views(3)

    def enlarged(batch: CameraBatch) -> CameraBatch:
        c2w = batch.c2w.clone()
        c2w[..., :3, 3] *= 4
        return CameraBatch(c2w, batch.intrinsics)

    tokens = model.encode(images, cameras)
    large = model.encode(images, enlarged(cameras), pose_scale=0.25)
    torch.testing.assert_close(large.mean, tokens.mean)
    torch.testing.assert_close(model.render(large, enlarged(path(5))), model.render(tokens, path(5)), atol=1e-4, rtol=0)
    assert not torch.allclose(model.encode(images, enlarged(cameras)).mean, tokens.mean)


def test_latents_behind_the_path_are_not_decoded() -> None:
    layout, sampler = LAYOUTS["4:1"], SAMPLERS["4:1"]
    coder = autoencoder(layout)
    seen: list[int] = []
    decode = coder.decode
    coder.decode = lambda latents: (seen.append(latents.shape[1]), decode(latents))[1]  # type: ignore[method-assign]
    for frames, expected in ((1, 1), (9, 3), (4 * sampler.window + 1, sampler.window + 1)):
        seen.clear()
        parts = list(
            render_windows(OracleDenoiser(layout), coder, torch.zeros(1, 2, 3), path(frames), (SIZE, SIZE), sampler)
        )
        assert sum(seen) == expected and sum(part.frames.shape[1] for part in parts) == frames
        # All latents are returned, because later paths continue from them.
        padded = max(layout.num_latents(frames), sampler.window)
        assert sum(latents.latents.shape[1] for part in parts for latents in part.denoised) == padded


def test_only_networks_are_saved_and_autoencoders_move_along() -> None:
    model = small_model()
    assert {key.split(".")[0] for key in model.state_dict()} == {"compressor", "denoiser"}
    for ours in (model.context_autoencoder, model.target_autoencoder):
        assert ours not in list(model.modules())
        ours.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))
    model.to(torch.bfloat16)
    assert model.device.type == "cpu" and model.target_autoencoder.weight.dtype == torch.float32
    twin = copy.deepcopy(model).to("meta")
    assert twin.target_autoencoder.weight.device.type == "meta"
    assert model.target_autoencoder.weight.device.type == "cpu"


def test_a_generator_is_there_where_the_preset_has_one() -> None:
    preset = small_preset()
    camera = replace(preset.denoiser.camera, rays="plucker", embedding="patch_embed", dropout=0.1)
    config = SceneGeneratorConfig(24, 1, 2, 1, camera=camera)
    sampler = SceneSamplerConfig(steps=2, timestep_shift=4.0)
    data = replace(preset.data, views=replace(preset.data.views, max_condition_views=3))
    keys = SceneTok(replace(preset, data=data, scene_generator=config, scene_sampler=sampler)).state_dict().keys()
    assert {key.split(".")[0] for key in keys} == {"compressor", "denoiser", "scene_generator"}
    assert not hasattr(SceneTok(preset), "scene_generator")


def test_bfloat16_inference_is_close() -> None:
    model = small_model()
    tokens = model.encode(*views(3))
    rough = model.encode(*views(3), autocast=True)
    assert 0 < (rough.mean - tokens.mean).abs().max() < 0.1 * tokens.mean.std()
    frames, rough_frames = model.render(tokens, path(3)), model.render(tokens, path(3), autocast=True)
    assert 0 < (rough_frames - frames).abs().max() < 0.1


def test_wrong_input_is_one_clear_line() -> None:
    model, (images, cameras) = small_model(), views(3)
    tokens = model.encode(images, cameras)
    without = SceneTok(small_preset())
    cases = [
        (lambda: model.encode(images, path(2)), "got 3 images and 2 cameras"),
        (lambda: model.encode(images[..., :8], cameras), r"expected images \[v, 3, 16, 16\]"),
        (
            lambda: model.render(replace(tokens, mean=tokens.mean.repeat(2, 1), logvar=None), path(1)),
            "has 6 tokens of 4 numbers",
        ),
        (lambda: model.render(replace(tokens, mean=tokens.mean[:, :2], logvar=None), path(1)), "has 6 tokens of 4"),
        (lambda: model.render(tokens, path(0)), "the camera path is empty"),
        (lambda: without.encode(images, cameras), "without its context autoencoder"),
        (lambda: without.render(tokens, path(1)), "without its target autoencoder"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_clean_views_are_in_the_units_of_the_capture() -> None:
    """Moving the whole capture, including the clean views, changes nothing."""
    model, (images, cameras) = small_model("1:1"), views(3)
    tokens = model.encode(images, cameras, pose_scale=3.0)
    move = torch.tensor([[0.0, -1, 0, 2], [1, 0, 0, 3], [0, 0, 1, 4], [0, 0, 0, 1]])
    latents = torch.randn(1, 2, *model.denoiser.latent_shape)

    def frames(tokens: SceneTokens, cameras: CameraBatch, before: CameraBatch) -> torch.Tensor:
        (window,) = model.render_windows(tokens, cameras, clean=CleanViews(latents, before))
        return window.frames

    def moved(cameras: CameraBatch) -> CameraBatch:
        return CameraBatch(move @ cameras.c2w, cameras.intrinsics)

    found = frames(tokens, path(5).select([3, 4]), path(2))
    elsewhere = replace(tokens, reference_c2w=move @ tokens.reference_c2w)
    torch.testing.assert_close(
        frames(elsewhere, moved(path(5).select([3, 4])), moved(path(2))), found, atol=1e-4, rtol=0
    )
    assert (frames(elsewhere, moved(path(5).select([3, 4])), path(2)) - found).abs().max() > 1e-3


def test_fewer_tokens_render_and_their_order_means_nothing() -> None:
    model = small_model()
    tokens = model.encode(*views(3))
    whole, part = model.render(tokens, path(1)), model.render(tokens.subset(2), path(1))
    assert (whole - part).abs().max() > 1e-3
    turned = replace(tokens, mean=tokens.mean.flip(0), logvar=None)
    torch.testing.assert_close(model.render(turned, path(1)), whole, atol=1e-5, rtol=0)


def test_tokens_of_another_preset_are_refused_whatever_their_shape() -> None:
    model = small_model()
    with pytest.raises(ValueError, match="made by preset other, and mean nothing to preset"):
        model.render(replace(model.encode(*views(3)), preset="other"), path(1))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_end_a_rendering(number: float) -> None:
    model = small_model()
    tokens = model.encode(*views(3))
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.fill_(number)
    with pytest.raises(NotFiniteError, match="stopped at frame 0: pictures with numbers that are not finite"):
        model.render(tokens, path(1))
    with torch.no_grad():
        for parameter in model.compressor.parameters():
            parameter.fill_(number)
    with pytest.raises(NotFiniteError, match="came out as numbers that are not finite"):
        model.encode(*views(3))


@pytest.mark.parametrize("method", ["render", "predict"])
def test_cameras_that_no_photograph_can_have_are_not_rendered(method: str) -> None:
    model = small_model("1:1")
    pictures, cameras = views(2)
    tokens = model.encode(pictures, cameras)
    pixels = CameraBatch(cameras.c2w, cameras.intrinsics * torch.tensor([[640.0], [480.0], [1.0]]))
    with pytest.raises(ValueError, match=f"{method}: camera 0 of 2 has intrinsics in pixels"):
        getattr(model, method)(tokens, pixels)
    scaled = CameraBatch(cameras.c2w * 2, cameras.intrinsics)
    with pytest.raises(ValueError, match=f"{method}: camera 0 of 2 has a pose that is not a rotation"):
        getattr(model, method)(tokens, scaled)
