from __future__ import annotations

import pytest
import torch
from support.small_networks import HIDDEN, generator_inputs, randomized, small_generator


@torch.no_grad()
def test_a_step_from_what_was_computed_before_is_the_whole_prediction() -> None:
    network = randomized(small_generator())
    tokens, t_net, latents, cameras, anchors, mask = generator_inputs()
    whole = network(tokens, t_net, latents, cameras, anchors, mask)
    context = network.embed_condition(latents, cameras, anchors, mask)
    assert context.shape == (2, 2 * 16 + 3, HIDDEN)
    assert torch.equal(network.velocity(tokens, t_net, context), whole)
    assert torch.equal(network.velocity(tokens, t_net, network.cross_attention_kv(context)), whole)


@torch.no_grad()
def test_views_that_do_not_count_leave_no_trace_and_anchors_always_count() -> None:
    network = randomized(small_generator())
    _, _, latents, cameras, anchors, mask = generator_inputs()
    context = network.embed_condition(latents, cameras, anchors, mask)
    other = latents.clone()
    other[:, 1] += 1
    assert torch.equal(network.embed_condition(other, cameras, anchors, mask), context)
    assert torch.equal(context[:, 16:32], network.model.null_tokens.expand(2, 16, HIDDEN))
    nothing = network.embed_condition(latents, cameras, anchors, mask & False)
    assert torch.equal(nothing[:, 32:], context[:, 32:]) and context[:, 32:].ne(0).all()
    moved = network.embed_condition(latents, cameras, anchors.select([1, 0, 2]), mask)
    assert torch.equal(moved[:, 32:], context[:, [33, 32, 34]])


@torch.no_grad()
def test_poses_are_dropped_apart_from_anchors() -> None:
    network = randomized(small_generator())
    _, _, latents, cameras, anchors, mask = generator_inputs()
    first = torch.tensor([True, False])
    whole = network.embed_condition(latents, cameras, anchors, mask)
    dropped = network.embed_condition(latents, cameras, anchors, mask, pose_drop=first, anchor_drop=~first)
    assert torch.equal(dropped[0, 32:], whole[0, 32:]) and dropped[1, 32:].eq(0).all()
    assert torch.equal(dropped[1, :16], whole[1, :16])
    torch.testing.assert_close(dropped[0, :16], network.model.c_embedder(latents)[0, 0])


def test_dropping_is_drawn_in_training_alone() -> None:
    network = randomized(small_generator())
    inputs = generator_inputs()
    torch.manual_seed(0)
    drawn = [network.train()(*inputs) for _ in range(8)]
    assert len({round(v.abs().sum().item(), 3) for v in drawn}) > 2
    assert torch.equal(network.eval()(*inputs), network(*inputs))


@torch.no_grad()
def test_every_token_has_its_own_place_and_time() -> None:
    network = randomized(small_generator())
    tokens, t_net, *condition = generator_inputs()
    velocity = network(tokens, t_net, *condition)
    assert velocity.shape == tokens.shape
    flipped = network(tokens.flip(1), t_net.flip(1), *condition).flip(1)
    assert not torch.allclose(flipped, velocity, atol=1e-3)
    network.model.pos_embed.zero_()
    velocity = network(tokens, t_net, *condition)
    flipped = network(tokens.flip(1), t_net.flip(1), *condition).flip(1)
    torch.testing.assert_close(flipped, velocity, rtol=1e-4, atol=1e-5)


def test_wrong_input_is_named() -> None:
    network = small_generator()
    tokens, t_net, latents, cameras, anchors, mask = generator_inputs()
    with pytest.raises(ValueError, match=r"mask: expected shape \[2, 2\], got \[2, 1\]"):
        network(tokens, t_net, latents, cameras, anchors, mask[:, :1])
    with pytest.raises(ValueError, match=r"tokens: expected shape \[any, 6, 5\], got \[2, 3, 5\]"):
        network(tokens[:, :3], t_net, latents, cameras, anchors, mask)
    with pytest.raises(ValueError, match=r"t_net: expected shape \[2, 6\], got \[2, 1\]"):
        network(tokens, t_net[:, :1], latents, cameras, anchors, mask)
