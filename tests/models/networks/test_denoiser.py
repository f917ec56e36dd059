from __future__ import annotations

import pytest
import torch
from support.small_networks import CHUNKED, HIDDEN, NUM_TOKENS, denoiser_inputs, randomized, small_denoiser

from scenetok_ns.models.cameras import CameraBatch


@torch.no_grad()
def test_a_step_from_what_was_computed_before_is_the_whole_prediction() -> None:
    network = randomized(small_denoiser())
    latents, cameras, t_net, tokens = denoiser_inputs()
    state = network.project(tokens)
    whole = network(latents, cameras, t_net, state)
    poses, kv = network.embed_poses(cameras), network.cross_attention_kv(state)
    assert len(kv) == 2 and kv[0][0].shape == (2, 3, NUM_TOKENS, HIDDEN // 3)
    assert torch.equal(network.velocity(latents, poses, t_net, kv), whole)
    assert torch.equal(network(latents, cameras, t_net, kv), whole)
    assert whole.shape == latents.shape and whole.ne(0).all()


@torch.no_grad()
def test_tokens_have_no_order_and_matter() -> None:
    network = randomized(small_denoiser())
    latents, cameras, t_net, tokens = denoiser_inputs()
    whole = network(latents, cameras, t_net, network.project(tokens))
    flipped = network(latents, cameras, t_net, network.project(tokens.flip(1)))
    torch.testing.assert_close(flipped, whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network(latents, cameras, t_net, network.project(tokens * 2)), whole, atol=1e-3)


@torch.no_grad()
def test_every_latent_has_its_own_time() -> None:
    network = randomized(small_denoiser())
    latents, cameras, t_net, tokens = denoiser_inputs(batch=1)
    state = network.project(tokens)
    later = t_net + 300 * (torch.arange(4) == 2)
    change = (network(latents, cameras, later, state) - network(latents, cameras, t_net, state)).abs().mean((2, 3, 4))
    assert change.argmax().item() == 2


@torch.no_grad()
def test_clips_of_a_window_can_change_places() -> None:
    """Two splits of a window have equal positions, so exchanging them changes nothing. Within one split, it would."""
    network = randomized(small_denoiser(CHUNKED, num_latents=10, target_splits=2))
    latents, cameras, t_net, tokens = denoiser_inputs(1, 10, CHUNKED)
    state = network.project(tokens)
    velocity = network(latents, cameras, t_net, state)
    swap = CameraBatch(cameras.c2w.roll(17, 1), cameras.intrinsics.roll(17, 1))
    swapped = network(latents.roll(5, 1), swap, t_net.roll(5, 1), state)
    torch.testing.assert_close(swapped.roll(5, 1), velocity, rtol=1e-4, atol=1e-5)
    whole = randomized(small_denoiser(CHUNKED, num_latents=10))
    moved = whole(latents.roll(5, 1), swap, t_net.roll(5, 1), state).roll(5, 1)
    assert not torch.allclose(moved, whole(latents, cameras, t_net, state), atol=1e-3)


@torch.no_grad()
def test_poses_are_rounded_to_bfloat16() -> None:
    network = randomized(small_denoiser())
    poses = network.embed_poses(denoiser_inputs()[1])
    assert poses.dtype == torch.float32 and torch.equal(poses, poses.bfloat16().float())


@torch.no_grad()
def test_the_null_state_is_the_null_token_unprojected() -> None:
    network = randomized(small_denoiser())
    state = network.null_state(3)
    assert state.shape == (3, NUM_TOKENS, HIDDEN)
    assert torch.equal(state, network.null_tokens.expand_as(state))


def test_a_model_without_null_token_says_so() -> None:
    network = small_denoiser(null_token=False)
    assert "null_tokens" not in network.state_dict()
    with pytest.raises(ValueError, match=r"no null token.*set guidance to 1"):
        network.null_state(1)


@torch.no_grad()
def test_velocity_has_the_precision_of_the_latents() -> None:
    network = randomized(small_denoiser()).bfloat16()
    latents, cameras, t_net, tokens = denoiser_inputs()
    assert network(latents, cameras, t_net, network.project(tokens)).dtype == torch.float32
    assert network(latents.bfloat16(), cameras, t_net, network.project(tokens)).dtype == torch.bfloat16


def test_wrong_input_is_named() -> None:
    network = small_denoiser()
    latents, cameras, t_net, tokens = denoiser_inputs()
    state = network.project(tokens)
    with pytest.raises(ValueError, match=r"t_net: expected shape \[2, 4\], got \[2, 1\]"):
        network(latents, cameras, t_net[:, :1], state)
    with pytest.raises(ValueError, match=r"poses: expected shape \[2, 4, 16, 48\], got \[2, 2, 16, 48\]"):
        network(latents, cameras.select(slice(0, 8)), t_net, state)
    with pytest.raises(ValueError, match=r"tokens: expected shape \[any, any, 5\]"):
        network.project(torch.zeros(2, 6, 4))
    longer = [x.repeat_interleave(2, 1) for x in (latents, cameras.c2w, cameras.intrinsics, t_net)]
    with pytest.raises(ValueError, match="at most 4 latents in 1 equal parts, got 8; denoise in windows"):
        network(longer[0], CameraBatch(longer[1], longer[2]), longer[3], state)
    halves = small_denoiser(CHUNKED, num_latents=10, target_splits=2)
    with pytest.raises(ValueError, match="in 2 equal parts, got 5"):
        halves.rotary(5)
