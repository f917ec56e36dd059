"""The networks against recorded runs of the published code (c01 to c05), and proof that the comparison can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from einops import rearrange
from parity_cases import (
    FLOAT32_LIMIT,
    VIDEO_DCAE,
    WAN,
    Case,
    Limits,
    build_compressor,
    build_denoiser,
    build_pose_embedding,
    build_scene_generator,
    differences,
    load_case,
)
from torch import Tensor

from scenetok_ns.models.cameras import ray_map
from scenetok_ns.models.compressor import TokenDistribution
from scenetok_ns.models.denoiser import Denoiser
from scenetok_ns.models.dit import timestep_sinusoid
from scenetok_ns.models.rope import angles_3d
from scenetok_ns.models.scene_generator import SceneGenerator
from scenetok_ns.models.temporal import IMAGE_LAYOUT

Outputs = dict[str, Tensor]

FLOAT32 = Limits(FLOAT32_LIMIT)


def maps(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """[b, l, n, d] -> the recorded [b, l, d, h, w]."""
    return rearrange(tokens, "b l (h w) d -> b l d h w", h=grid[0], w=grid[1])


@contextmanager
def unrounded(network: Denoiser | SceneGenerator) -> Iterator[None]:
    network._round_poses = False
    yield
    network._round_poses = True


def ray_outputs(case: Case) -> Outputs:
    size = tuple(case.config["input_shape"])
    rays = "plucker" if "plucker" in case.name else "ray"
    cameras, wan = case.cameras(), case.cameras("wan_")
    group = WAN.frames_per_chunk
    computed = {}
    for name, normalize in (("normTrue", True), ("normFalse", False)):
        image = ray_map(cameras, size, rays=rays, normalize=normalize)
        video = ray_map(wan, size, rays=rays, normalize=normalize)
        computed[f"{name}.td1"] = IMAGE_LAYOUT.pack(image)
        computed[f"{name}.td4"] = VIDEO_DCAE.pack(image)
        computed[f"{name}.wan{group}_td4"] = WAN.pack(video[:, :group])
        computed[f"{name}.wan{2 * group}_td4"] = WAN.pack(video[:, : 2 * group])
    return computed


def lvsm_outputs(case: Case) -> Outputs:
    cameras, wan = case.cameras(), case.cameras("wan_")

    def embed(cameras, weights, layout, channels_last=False) -> Tensor:
        embedding = build_pose_embedding(case, case.state(weights), layout, channels_last=channels_last)
        return maps(embedding(cameras), embedding.grid)

    return {
        "td1": embed(cameras, "td1.", IMAGE_LAYOUT),
        "td4": embed(cameras, "td4.", VIDEO_DCAE),
        "force_incorrect": embed(cameras, "td4.", VIDEO_DCAE, channels_last=True),
        "wan.td4": embed(wan, "td4.", WAN),
        "wan.force_incorrect": embed(wan, "td4.", WAN, channels_last=True),
    }


def patch_outputs(case: Case) -> Outputs:
    embedding = build_pose_embedding(case, case.state())
    return {"pose_embed": maps(embedding(case.cameras()), embedding.grid)}


def compressor_outputs(case: Case) -> Outputs:
    network, inputs = build_compressor(case), case.inputs
    parameters = network.gaussian_parameters(inputs["latents"], case.cameras())
    tokens = network(inputs["latents"], case.cameras())
    wide = TokenDistribution.from_parameters(inputs["wide_parameters"])
    return {
        "parameters": parameters,
        "mean": tokens.mean,
        "logvar": tokens.logvar,
        "std": tokens.std,
        "sample": tokens.sample(inputs["noise"]),
        "kl": tokens.kl(),
        "pose_embed": maps(network.pose_embed(case.cameras()), network.pose_embed.grid),
        "wide_mean": wide.mean,
        "wide_logvar": wide.logvar,
        "wide_std": wide.std,
        "wide_kl": wide.kl(),
    }


def video_outputs(case: Case) -> Outputs:
    network, inputs = build_denoiser(case), case.inputs
    latents, cameras, t_net = inputs["latents"], case.cameras(), inputs["timestep"]
    state = network.project(inputs["tokens"])
    half = latents.shape[1] // 2
    frames = cameras.select(slice(0, VIDEO_DCAE.num_frames(half)))
    recorded_positions = case.outputs["pose_embed"].shape[-1]
    computed = {
        "state": state,
        "velocity": network(latents, cameras, t_net, state),
        "velocity_null": network(latents, cameras, t_net, network.null_state(len(latents))),
        "velocity_fewer": network(latents[:, :half], frames, t_net[:, :half], state),
        "pose_embed": network.pose_embed(cameras)[:, :, :recorded_positions].transpose(2, 3),
        "rope_freqs": angles_3d(network.model.head_dim, 2, network.grid),
        "te_sinusoid": timestep_sinusoid(inputs["te_timestep"]),
        "te_mlp": network.model.t_embedder(inputs["te_timestep"]),
    }
    with unrounded(network):
        computed["velocity_nocast"] = network(latents, cameras, t_net, state)
    return computed


def wan_outputs(case: Case) -> Outputs:
    published, correct, inputs = build_denoiser(case, channels_last=True), build_denoiser(case), case.inputs
    state = published.project(inputs["tokens"])
    given = (inputs["latents"], case.cameras(), inputs["timestep"])
    computed = {
        "state": state,
        "velocity_correct": correct(*given, state),
        "velocity_force_incorrect": published(*given, state),
        "velocity_null_force_incorrect": published(*given, published.null_state(len(state))),
    }
    with unrounded(published):
        computed["velocity_force_incorrect_nocast"] = published(*given, state)
    return computed


def generator_outputs(case: Case) -> Outputs:
    network, inputs = build_scene_generator(case), case.inputs
    cameras, anchors = case.cameras("cond_"), case.cameras("anchor_")
    every = torch.ones_like(inputs["cond_mask_mixed"])
    first = every & (torch.arange(every.shape[1]) == 0)

    def velocity(mask: Tensor, t_net: Tensor = inputs["timestep"]) -> Tensor:
        return network(inputs["tokens"], t_net, inputs["cond_latents"], cameras, anchors, mask)

    computed = {
        "velocity_all": velocity(every),
        "velocity_first": velocity(first),
        "velocity_none": velocity(~every),
        "velocity_mixed": velocity(inputs["cond_mask_mixed"]),
        "velocity_per_token_t": velocity(every, inputs["timestep_per_token"]),
        "pose_embed": maps(network.pose_embed(cameras), network.pose_embed.grid),
        "anchor_embed_mean": network.anchor_pose_embed(anchors).mean(dim=2),
    }
    with unrounded(network):
        computed["velocity_all_nocast"] = velocity(every)
    return computed


COMPUTE: dict[str, Callable[[Case], Outputs]] = {
    "c01_ray": ray_outputs,
    "c01_plucker": ray_outputs,
    "c01_lvsm": lvsm_outputs,
    "c01_plucker_patch": patch_outputs,
    "c02_compressor": compressor_outputs,
    "c03_denoiser_vdc": video_outputs,
    "c04_denoiser_wan": wan_outputs,
    "c05_scene_generator": generator_outputs,
}


def compare(case: Case) -> list[str]:
    """Differences from the recording; tensors before or without a bfloat16 rounding have the tight limit."""
    with torch.no_grad():
        computed = COMPUTE[case.name](case)
    rounded = {name for name in computed if name.startswith("velocity") and not name.endswith("nocast")}
    exact = {} if "mean_abs" not in case.info["tolerance"] else {n: FLOAT32 for n in computed.keys() - rounded}
    return differences(computed, case, exact)


@pytest.mark.parametrize("name", COMPUTE)
def test_every_recorded_output_is_met(name: str) -> None:
    assert compare(load_case(name)) == []
