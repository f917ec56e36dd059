"""The networks reproduce recorded runs of the published code (c01 to c05). Other tests show that this can fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from einops import rearrange
from support.parity_cases import (
    FLOAT32_LIMIT,
    VIDEO_DCAE,
    WAN,
    Case,
    Limits,
    build_compressor,
    build_denoiser,
    build_pose_embedding,
    build_scene_generator,
    difference,
    differences,
    load_case,
)
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch, ray_map
from scenetok_ns.models.networks.compressor import TokenDistribution
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.dit import timestep_sinusoid
from scenetok_ns.models.networks.layers import CrossAttention, SwiGLU
from scenetok_ns.models.networks.pose_embedding import PoseEmbedding
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.ops.rope import RotaryTable, angles_2d, angles_3d, apply_rotary
from scenetok_ns.models.temporal import IMAGE_LAYOUT, TemporalLayout

Outputs = Iterator[tuple[str, Tensor]]


def maps(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Reshape tokens [b, l, n, d] to recorded maps [b, l, d, h, w]."""
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
    for name, normalize in (("normTrue", True), ("normFalse", False)):
        image = ray_map(cameras, size, rays=rays, normalize=normalize)
        video = ray_map(wan, size, rays=rays, normalize=normalize)
        yield f"{name}.td1", IMAGE_LAYOUT.pack(image)
        yield f"{name}.td4", VIDEO_DCAE.pack(image)
        yield f"{name}.wan{group}_td4", WAN.pack(video[:, :group])
        yield f"{name}.wan{2 * group}_td4", WAN.pack(video[:, : 2 * group])


def lvsm_outputs(case: Case) -> Outputs:
    cameras, wan = case.cameras(), case.cameras("wan_")

    def embed(cameras: CameraBatch, weights: str, layout: TemporalLayout, channels_last: bool = False) -> Tensor:
        embedding = build_pose_embedding(case, case.state(weights), layout, channels_last=channels_last)
        return maps(embedding(cameras), embedding.grid)

    yield "td1", embed(cameras, "td1.", IMAGE_LAYOUT)
    yield "td4", embed(cameras, "td4.", VIDEO_DCAE)
    yield "force_incorrect", embed(cameras, "td4.", VIDEO_DCAE, channels_last=True)
    yield "wan.td4", embed(wan, "td4.", WAN)
    yield "wan.force_incorrect", embed(wan, "td4.", WAN, channels_last=True)


def patch_outputs(case: Case) -> Outputs:
    embedding = build_pose_embedding(case, case.state())
    yield "pose_embed", maps(embedding(case.cameras()), embedding.grid)


def compressor_outputs(case: Case) -> Outputs:
    network, inputs = build_compressor(case), case.inputs
    yield "parameters", network.gaussian_parameters(inputs["latents"], case.cameras())
    yield "pose_embed", maps(network.pose_embed(case.cameras()), network.pose_embed.grid)
    tokens = network(inputs["latents"], case.cameras())
    yield "sample", tokens.sample(inputs["noise"])
    wide = TokenDistribution.from_parameters(inputs["wide_parameters"])
    for prefix, distribution in (("", tokens), ("wide_", wide)):
        yield f"{prefix}mean", distribution.mean
        yield f"{prefix}logvar", distribution.logvar
        yield f"{prefix}std", distribution.std
        yield f"{prefix}kl", distribution.kl()


def video_outputs(case: Case) -> Outputs:
    network, inputs = build_denoiser(case), case.inputs
    latents, cameras, t_net = inputs["latents"], case.cameras(), inputs["timestep"]
    recorded_positions = case.outputs["pose_embed"].shape[-1]
    yield "pose_embed", network.pose_embed(cameras)[:, :, :recorded_positions].transpose(2, 3)
    yield "rope_freqs", angles_3d(network.model.head_dim, 2, network.grid)
    yield "te_sinusoid", timestep_sinusoid(inputs["te_timestep"])
    yield "te_mlp", network.model.t_embedder(inputs["te_timestep"])
    state = network.project(inputs["tokens"])
    yield "state", state
    with unrounded(network):
        yield "velocity_nocast", network(latents, cameras, t_net, state)
    yield "velocity", network(latents, cameras, t_net, state)
    yield "velocity_null", network(latents, cameras, t_net, network.null_state(len(latents)))
    half = latents.shape[1] // 2
    frames = cameras.select(slice(0, VIDEO_DCAE.num_frames(half)))
    yield "velocity_fewer", network(latents[:, :half], frames, t_net[:, :half], state)


def wan_outputs(case: Case) -> Outputs:
    published, correct, inputs = build_denoiser(case, channels_last=True), build_denoiser(case), case.inputs
    state = published.project(inputs["tokens"])
    given = (inputs["latents"], case.cameras(), inputs["timestep"])
    yield "state", state
    with unrounded(published):
        yield "velocity_force_incorrect_nocast", published(*given, state)
    yield "velocity_force_incorrect", published(*given, state)
    yield "velocity_null_force_incorrect", published(*given, published.null_state(len(state)))
    yield "velocity_correct", correct(*given, state)


def generator_outputs(case: Case) -> Outputs:
    network, inputs = build_scene_generator(case), case.inputs
    cameras, anchors = case.cameras("cond_"), case.cameras("anchor_")
    every = torch.ones_like(inputs["cond_mask_mixed"])
    first = every & (torch.arange(every.shape[1]) == 0)

    def velocity(mask: Tensor, t_net: Tensor = inputs["timestep"]) -> Tensor:
        return network(inputs["tokens"], t_net, inputs["cond_latents"], cameras, anchors, mask)

    yield "pose_embed", maps(network.pose_embed(cameras), network.pose_embed.grid)
    yield "anchor_embed_mean", network.anchor_pose_embed(anchors).mean(dim=2)
    with unrounded(network):
        yield "velocity_all_nocast", velocity(every)
    yield "velocity_all", velocity(every)
    yield "velocity_none", velocity(~every)
    yield "velocity_mixed", velocity(inputs["cond_mask_mixed"])
    yield "velocity_first", velocity(first)
    yield "velocity_per_token_t", velocity(every, inputs["timestep_per_token"])


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


def limits(case: Case, name: str) -> Limits:
    """Limits of the difference: the recording's for velocities after a bfloat16 rounding, else the float32 limit."""
    rounded = name.startswith("velocity") and not name.endswith("nocast")
    return case.limits if rounded or "mean_abs" not in case.info["tolerance"] else Limits(FLOAT32_LIMIT)


@pytest.mark.parametrize("name", COMPUTE)
@torch.no_grad()
def test_every_recorded_output_is_met(name: str) -> None:
    case = load_case(name)
    assert differences(dict(COMPUTE[name](case)), case, {output: limits(case, output) for output in case.outputs}) == []


@torch.no_grad()
def is_seen(case: Case) -> bool:
    """Whether any output differs from the recording. Stops at the first difference."""
    recorded = case.outputs
    try:
        return any(difference(value, recorded[n], limits(case, n)) for n, value in COMPUTE[case.name](case))
    except AssertionError:
        return True  # a constant table that is not the one the network computes


@pytest.mark.parametrize("name", [name for name in COMPUTE if name not in ("c01_ray", "c01_plucker")])
def test_no_weight_can_change_unseen(name: str) -> None:
    """Make each tensor of the state in turn a tenth larger. If no output changed, a network could ignore this tensor
    and still pass."""
    case = load_case(name)
    unseen = [key for key in case.tensors if key.startswith("state.") and not is_seen(scaled(case, key, 1.1))]
    assert unseen == []


@pytest.mark.parametrize("name", COMPUTE)
def test_no_camera_can_change_unseen(name: str) -> None:
    """Move, turn and zoom the cameras of one input at a time a little. Each change must be noticed."""
    case = load_case(name)
    keys = [key for key in case.inputs if "trinsics" in key]
    assert keys
    # The last row of the intrinsics is not scaled: a multiple of the whole matrix is the same camera.
    zoom = torch.tensor([1.01, 1.01, 1.0])[:, None]
    factors = {key: zoom if key.endswith("intrinsics") else 1.01 for key in keys}
    assert [key for key in keys if not is_seen(scaled(case, f"in.{key}", factors[key]))] == []


def scaled(case: Case, key: str, factor: float | Tensor) -> Case:
    return dataclasses.replace(case, tensors={**case.tensors, key: case.tensors[key] * factor})


def rotate_halves(x: Tensor, table: RotaryTable) -> Tensor:
    """Rotate with the other common pairing: dimension i with i + d/2."""
    cos, sin = table
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def sine_first(t_net: Tensor) -> Tensor:
    return timestep_sinusoid(t_net).roll(128, dims=-1)


def origin_first(*args, **kwargs) -> Tensor:
    return ray_map(*args, **kwargs).roll(3, dims=2)


def unnormed_keys(self: CrossAttention, context: Tensor, rotary: RotaryTable | None = None):
    k, v = self._heads(self.to_k(context)), self._heads(self.to_v(context))
    return (k if rotary is None else apply_rotary(k, rotary)), v


def scale_before_shift(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + shift) + scale


def swapped_swiglu(self: SwiGLU, x: Tensor) -> Tensor:
    u, w = self.w12(x).chunk(2, dim=-1)
    return self.w3(u * torch.nn.functional.silu(w))


def columns_first(head_dim: int, grid: tuple[int, int], device=None) -> Tensor:
    return angles_2d(head_dim, grid, device).roll(head_dim // 2, dims=-1)


def always_rounded(self: PoseEmbedding, *args) -> Tensor:
    return embed(self, *args).bfloat16().float()


def one_part(angles: Tensor, repeats: int = 1) -> RotaryTable:
    """Rotary table whose positions continue over all splits of a window."""
    angles = torch.cat([angles, angles + (angles[-1] + 1)] if repeats == 2 else [angles] * repeats)
    return angles.cos(), angles.sin()


embed = PoseEmbedding.forward

CAMERAS = {"c01_lvsm", "c01_plucker_patch", "c02_compressor", "c03_denoiser_vdc", "c04_denoiser_wan"}
TRUNKS = {"c03_denoiser_vdc", "c04_denoiser_wan", "c05_scene_generator"}
ROTATED = {"c02_compressor", "c03_denoiser_vdc", "c04_denoiser_wan"}

MISTAKES: dict[str, tuple[str, object, set[str]]] = {
    "rotary pairs are halves": ("networks.layers.apply_rotary", rotate_halves, ROTATED),
    "no rotation": ("networks.layers.apply_rotary", lambda x, table: x, ROTATED),
    "columns before rows": ("ops.rope.angles_2d", columns_first, {"c02_compressor"}),
    "rotation runs over all splits": ("networks.denoiser.rotary_table", one_part, {"c04_denoiser_wan"}),
    "norms of 1e-5": ("networks.dit.NORM_EPS", 1e-5, TRUNKS),
    "compressor norms of 1e-5": ("networks.compressor.NORM_EPS", 1e-5, {"c02_compressor"}),
    "keys without norm": ("networks.layers.CrossAttention.keys_values", unnormed_keys, TRUNKS),
    "shift and scale swapped": ("networks.dit.modulate", scale_before_shift, TRUNKS),
    "shift and scale swapped in the compressor": (
        "networks.compressor.modulate",
        scale_before_shift,
        {"c02_compressor"},
    ),
    "SwiGLU halves swapped": ("networks.layers.SwiGLU.forward", swapped_swiglu, TRUNKS | {"c02_compressor"}),
    "sines before cosines": ("networks.dit.timestep_sinusoid", sine_first, TRUNKS),
    "times in [0, 1]": ("networks.dit.timestep_sinusoid", lambda t: timestep_sinusoid(t / 1000), TRUNKS),
    "origin before direction": ("networks.pose_embedding.ray_map", origin_first, CAMERAS | {"c05_scene_generator"}),
    "compressor poses rounded": ("networks.pose_embedding.PoseEmbedding.forward", always_rounded, {"c02_compressor"}),
    "log-variance not clamped": ("networks.compressor.LOGVAR_RANGE", (-1e9, 1e9), {"c02_compressor"}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_typical_mistakes_are_seen(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, wrong, cases = MISTAKES[mistake]
    monkeypatch.setattr(f"scenetok_ns.models.{target}", wrong)
    assert [name for name in sorted(cases) if not is_seen(load_case(name))] == []


@pytest.mark.parametrize("name", sorted(TRUNKS))
def test_poses_left_unrounded_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for network in (Denoiser, SceneGenerator):
        monkeypatch.setattr(network, "rounded_poses", lambda self, poses: poses)
    assert is_seen(load_case(name))
