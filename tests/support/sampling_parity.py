"""Run flow, schedules, samplers and losses as in the recordings c06 to c10, and compare the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.parity_cases import (
    FLOAT32_LIMIT,
    VIDEO_DCAE,
    WAN,
    Case,
    Limits,
    build_compressor,
    build_denoiser,
    build_scene_generator,
    difference,
    differences,
    load_case,
)
from torch import Tensor, nn

from scenetok_ns.models.autoencoders.base import LatentSpace
from scenetok_ns.models.flow import draws, sampling
from scenetok_ns.models.flow import rectified_flow as flow
from scenetok_ns.models.flow.draws import SceneGenDraws, SceneTokDraws, noise_levels, spread_levels
from scenetok_ns.models.flow.losses import LatentViews, scenegen_loss, scenetok_loss
from scenetok_ns.models.flow.schedules import schedule_matrix
from scenetok_ns.models.presets import SamplerConfig, SceneSamplerConfig
from scenetok_ns.models.recipes import TrainingConfig
from scenetok_ns.models.temporal import IMAGE_LAYOUT

Outputs = dict[str, Tensor]

NO_TRAINING = TrainingConfig(
    batch_size=1,
    learning_rate=0.0,
    warmup_steps=0,
    warmup_start=0.0,
    milestones=(),
    gamma=1.0,
    weighting="uniform",
    timestep_shift=None,
    kl_weights=(0.0, 0.0),
)


# --- c06, c07


def schedule_problems(case: Case) -> list[str]:
    wrong = []
    for row in case.info["rows"]:
        arguments = {
            "horizon": row["horizon"],
            "steps": row["steps"],
            "window": row["concurrency"],
            "clean_targets": row["clean_targets"],
            **({} if row["uncertainty_scale"] is None else {"uncertainty": row["uncertainty_scale"]}),
        }
        recorded = case.part(f"out.{row['row']}.")
        if row["status"] == "does_not_terminate":
            assert not recorded
            with pytest.raises(ValueError, match="never ends"):
                schedule_matrix(row["sampler"], **arguments)
            continue
        plain, shifted = (schedule_matrix(row["sampler"], shift=shift, **arguments) for shift in (None, 4.0))
        computed = {"schedule": plain.times, "schedule_shift4": shifted.times, "mask": plain.mask.to(torch.uint8)}
        assert computed.keys() == recorded.keys() and plain.steps == row["global_steps"]
        for name, expected in recorded.items():
            limit = Limits(0.0) if name == "mask" else case.limits
            wrong += [f"row {row['row']} {name}: {p}" for p in difference(computed[name], expected, limit)]
    return wrong


def flow_problems(case: Case) -> list[str]:
    given = case.inputs
    sample, noise, t, t_next = (given[name] for name in ("sample", "noise", "t", "t_next"))
    velocity = given["model_output"]

    def own_step(steps: int) -> Tensor:
        grid = flow.time_grid(steps).expand(len(sample), -1)
        return flow.euler_step(sample, velocity, grid[:, 1:2], grid[:, 2:3])

    computed = {
        "add_noise": flow.interpolate(sample, noise, t),
        "tok_add_noise": flow.interpolate(given["tok"], given["tok_noise"], given["tok_t"]),
        "flow": flow.velocity_target(sample, noise),
        "step_prev": flow.euler_step(sample, velocity, t, t_next),
        "step_x0": flow.euler_step(sample, velocity, t, torch.zeros_like(t)),
        "rescaled": flow.network_time(given["shift_t"]),
        "timesteps_init": flow.time_grid(flow.TRAINING_TIMES)[: len(case.outputs["timesteps_init"])],
        "timesteps_init_shift4": flow.time_grid(flow.TRAINING_TIMES, 4.0)[: len(case.outputs["timesteps_init_shift4"])],
    }
    grids = []
    for name in case.outputs.keys() - computed.keys():
        what, _, number = name.rpartition("_")
        if what == "shift":
            computed[name] = flow.shift_time(given["shift_t"], float(number))
        elif what == "timesteps":
            grids.append(int(number))
            computed[name] = flow.time_grid(grids[-1])
    # The recording does not state the grid of its own step.
    fitting = [n for n in grids if not difference(own_step(n), case.outputs["step_own"], case.limits)]
    computed["step_own"] = own_step(fitting[0] if fitting else grids[0])
    # A number that is a thousand times larger has a rounding error that is a thousand times larger.
    return differences(computed, case, {"rescaled": Limits(1000 * case.limits.max_abs)})


# --- c08, c09


def sampler_config(case: Case, **changes: Any) -> SamplerConfig:
    p = case.info["params"]
    config = SamplerConfig(
        steps=p["steps"], timestep_shift=None, window=p["concurrency"], clean_targets=p["clean_targets"]
    )
    return replace(config, **changes)


def video_sampling_problems(case: Case) -> list[str]:
    denoiser = build_denoiser(network_case(case))
    runs = {
        "full_cfg1": {},
        "full_cfg3": {"guidance": 3.0},
        "full_cfg1_shift4": {"timestep_shift": 4.0},
        "autoregressive_cfg1": {"schedule": "autoregressive"},
        "pyramid_cfg1": {"schedule": "pyramid", "pyramid_uncertainty": 2},
    }
    computed: Outputs = {}
    for run, changes in runs.items():
        config = sampler_config(case, **changes)
        noise = case.inputs["noise"]
        latents, uncertainty = sampling.sample_latents(
            denoiser, case.inputs["tokens"], case.cameras(), noise, VIDEO_DCAE, config
        )
        schedule = sampling.path_schedule(config, noise.shape[1])
        computed |= {f"{run}.latents": latents, f"{run}.uncertainty": uncertainty}
        computed |= {f"{run}.schedule": schedule.times, f"{run}.mask": schedule.mask.to(torch.uint8)}
    exact = {name: Limits(1e-6) for name in computed if name.endswith(("schedule", "mask"))}
    return differences(computed, case, exact)


def wan_sampling_problems(case: Case) -> list[str]:
    config = sampler_config(case, timestep_shift=4.0)
    noise = case.inputs["noise"]
    schedule = sampling.path_schedule(config, noise.shape[1])
    computed = {"schedule": schedule.times, "mask": schedule.mask.to(torch.uint8)}
    views = torch.zeros(schedule.steps, case.cameras().num_views, dtype=torch.uint8)
    for row, start in enumerate(schedule.window_starts[:-1]):
        views[row, WAN.frame_slice(start, start + schedule.window)] = 1
    computed["view_mask"] = views
    for run, quirk in (("force_incorrect_shift4", True), ("correct_shift4", False)):
        denoiser = build_denoiser(network_case(case), channels_last=quirk)
        computed[f"{run}.latents"], computed[f"{run}.uncertainty"] = sampling.sample_latents(
            denoiser, case.inputs["tokens"], case.cameras(), noise, WAN, config
        )
    return differences(computed, case, {name: Limits(1e-6) for name in ("schedule", "mask", "view_mask")})


def scene_sampling_problems(case: Case) -> list[str]:
    generator, given, p = build_scene_generator(network_case(case)), case.inputs, case.info["params"]
    assert generator.config.scale == p["scale_factor"]
    problems = difference(va_space().normalize(given["cond_latents_raw"]), given["cond_latents"], Limits(1e-5))
    views = given["cond_latents"].shape[1]
    computed: Outputs = {"schedule": flow.time_grid(p["steps"], p["shift"])}
    limits = {"schedule": Limits(1e-6)}
    for run in sorted({name.split(".")[0] for name in case.outputs if "." in name}):
        shown = views if run.endswith("all") else int(run.rpartition("numcond")[2])
        config = SceneSamplerConfig(p["steps"], p["shift"], 1.0 if run.startswith("nocfg") else p["scene_cfg"])
        mask = (torch.arange(views) < shown).expand(len(given["noise"]), -1)
        tokens = sampling.sample_scene_tokens(
            generator,
            given["noise"],
            given["cond_latents"],
            case.cameras("cond_"),
            case.cameras("anchor_"),
            mask,
            config,
        )
        computed |= {f"{run}.tokens": tokens, f"{run}.tokens_raw": tokens * p["scale_factor"]}
        limits[f"{run}.tokens"] = Limits(
            *(limit / p["scale_factor"] for limit in (case.limits.max_abs, case.limits.mean_abs))
        )
    return problems + differences(computed, case, limits)


# --- c10


def va_space() -> LatentSpace:
    recorded = load_case("c11_latent_norm").outputs
    mean, std = (tuple(recorded[f"latent_{name}"].tolist()) for name in ("mean", "std"))
    return LatentSpace(IMAGE_LAYOUT, 16, len(mean), mean, std)


class Spy:
    """Records the inputs and outputs of a network."""

    def __init__(self, network: nn.Module) -> None:
        network.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, module: nn.Module, given: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        self.given, self.result = given, result


def scenetok_problems(case: Case) -> list[str]:
    compressor, denoiser = build_compressor(network_case(case, "compressor.")), scenetok_denoiser(case)
    given, p = case.inputs, case.info["params"]
    conditional = "token_noise" in given
    names = case.info["grad_names"]
    # The file does not state that the compressor is frozen, but it has no gradients of the compressor.
    frozen = conditional and not any(
        norm > 0 for name, norm in zip(names, case.outputs["grad_norm"], strict=True) if name.startswith("compressor.")
    )
    config = replace(
        NO_TRAINING,
        weighting=p["weighting"],
        timestep_shift=p["timestep_shift"],
        kl_weights=tuple(p["kl_weights"]),
        kl_schedule=tuple(p["kl_schedule"]),
        freeze_compressor=frozen,
        unconditional_prob=0.0 if conditional else 0.1,
    )
    raw = given["raw_time_draw"]
    levels = noise_levels(raw if raw.ndim == 2 else raw[:, None], config.weighting, config.timestep_shift)
    time = spread_levels(levels, given["noise"].shape[1])
    problems = [f"time: {p}" for p in difference(time, given["time"], Limits(1e-6))]
    batch, token_shape = len(time), (compressor.scene_tokens.shape[1], denoiser.cnd_proj.in_features)
    drawn = SceneTokDraws(
        reference=given["ref_index"][:, 0],
        token_noise=given.get("token_noise", torch.zeros(batch, *token_shape)),
        time=time,
        noise=given["noise"],
        unconditional=torch.full((batch,), not conditional),
    )
    context = LatentViews(va_space().normalize(given["context_latents"]), case.cameras("context_"))
    scale = LatentSpace(VIDEO_DCAE, 1, 1, std=(1 / p["target_scaling_factor"],))
    target = LatentViews(scale.normalize(given["target_latents"]), case.cameras("target_"))
    seen, encoded = Spy(denoiser), Spy(compressor)
    output = scenetok_loss(compressor, denoiser, context, target, drawn, config, p["global_step"])
    output.loss.backward()
    noisy, cameras, t_net, state = seen.given
    computed = {
        "target_extrinsics_rel": cameras.c2w,
        "noisy_latents": noisy,
        "timestep": t_net,
        "state": state,
        "pred": seen.result,
        "loss": output.loss,
        "grad_norm": gradient_norms(names, {"compressor": compressor, "denoiser": denoiser}),
    }
    if conditional:  # the published branch without tokens never runs the compressor
        computed |= {
            "context_extrinsics_rel": encoded.given[1].c2w,
            "context_normalised": encoded.given[0],
            "kl": encoded.result.kl(),
        }
    return problems + loss_differences(computed, case)


def scenegen_problems(case: Case) -> list[str]:
    compressor, generator = (
        build_compressor(network_case(case, "compressor.")),
        build_scene_generator(network_case(case, "scene_generator.")),
    )
    given, p = case.inputs, case.info["params"]
    time = noise_levels(given["raw_time_draw"], p["weighting"], p["timestep_shift"])
    problems = [f"time: {q}" for q in difference(time[:, None].expand_as(given["time"]), given["time"], Limits(1e-6))]
    batch = len(time)
    nobody, everybody = torch.zeros(batch, dtype=torch.bool), torch.ones(batch, dtype=torch.bool)
    dropout = load_case("c05_scene_generator").config["camera"]["embedding"]["dropout_prob"]
    drawn = SceneGenDraws(
        token_noise=given["token_noise"],
        time=time,
        noise=given["noise"],
        condition_mask=draws.condition_mask(given["mask_draw"], ~given.get("conditional", everybody).bool()),
        drop_poses=given["drop_pose"] < dropout if p["train_mode"] else nobody,
        drop_anchors=given["drop_anchor"] < dropout if p["train_mode"] else nobody,
    )
    condition = LatentViews(va_space().normalize(given["cond_latents"]), case.cameras("cond_"))
    context = LatentViews(va_space().normalize(given["context_latents"]), case.cameras("context_"))
    generator.train(p["train_mode"])
    seen = Spy(generator)
    output = scenegen_loss(compressor, generator, condition, context, drawn)
    output.loss.backward()
    noisy, t_net, latents, cameras, anchors, mask = seen.given
    computed = {
        "noisy_tokens": noisy,
        "timestep": t_net,
        "cond_normalised": latents,
        "cond_extrinsics_rel": cameras.c2w,
        "context_extrinsics_rel": anchors.c2w,
        "cond_mask": mask.to(torch.uint8),
        "pred": seen.result,
        "loss": output.loss,
        "grad_norm": gradient_norms(case.info["grad_names"], {"scene_generator": generator}),
    }
    assert all(p.grad is None for p in compressor.parameters())
    return problems + loss_differences(computed, case)


def gradient_norms(names: list[str], networks: dict[str, nn.Module]) -> Tensor:
    """Norms of the gradients in the recorded order, -1 for none. Parameters that are not recorded must have none."""
    parameters = {f"{prefix}.{n}": p for prefix, network in networks.items() for n, p in network.named_parameters()}
    assert set(names) <= parameters.keys()
    for name in parameters.keys() - set(names):  # the null token, where no element drops its tokens
        assert (g := parameters[name].grad) is None or not g.any(), f"{name} has a gradient"
    return torch.stack([torch.tensor(-1.0) if (g := parameters[name].grad) is None else g.norm() for name in names])


def loss_differences(computed: Outputs, case: Case) -> list[str]:
    """Differences by the case's own tolerances for each kind of output; gradient norms are compared one by one."""
    tolerance = case.info["tolerance"]
    norms = zip(case.info["grad_names"], computed.pop("grad_norm"), case.outputs["grad_norm"], strict=True)
    problems = []
    for name, ours, theirs in norms:
        # -1 stands for no gradient. Ours must then be absent or exactly zero (dropped by a mask).
        allowed = 0.0 if theirs < 0 else max(tolerance["grad_norm_rel"] * theirs, tolerance.get("grad_norm_abs", 1e-6))
        if not (ours.clamp(min=0) - theirs.clamp(min=0)).abs() <= allowed:
            problems.append(f"gradient of {name}: norm {ours:.4g}, recorded {theirs:.4g}")
    exact = {"timestep": Limits(1000 * FLOAT32_LIMIT)}
    exact["pred"] = Limits(tolerance["max_abs_pred"], tolerance["mean_abs_pred"])
    exact["loss"] = Limits(tolerance["loss_rel"] * case.outputs["loss"].abs().item())
    if "kl" in case.outputs:
        exact["kl"] = Limits(FLOAT32_LIMIT * case.outputs["kl"].abs().max().item())
    others = replace(
        case,
        info={**case.info, "tolerance": {"max_abs": FLOAT32_LIMIT}},
        tensors={name: tensor for name, tensor in case.tensors.items() if name != "out.grad_norm"},
    )
    return problems + differences(computed, others, exact)


def network_case(case: Case, prefix: str | None = None) -> Case:
    """The case that holds the weights."""
    file = case.info["state_files"][prefix] if prefix else case.info["state_file"]
    return load_case(file.removesuffix(".safetensors"))


def scenetok_denoiser(case: Case):
    return build_denoiser(network_case(case, "denoiser."), channels_last="force_incorrect" in case.info["description"])


COMPARE: dict[str, Callable[[Case], list[str]]] = {
    "c06_samplers": schedule_problems,
    "c07_scheduler": flow_problems,
    "c08_sample_vdc": video_sampling_problems,
    "c08_sample_wan": wan_sampling_problems,
    "c09_sample_scene": scene_sampling_problems,
    "c10_loss_scenetok": scenetok_problems,
    "c10_loss_scenetok_klmid": scenetok_problems,
    "c10_loss_scenetok_uncond": scenetok_problems,
    "c10_loss_scenetok_wan": scenetok_problems,
    "c10_loss_scenegen": scenegen_problems,
    "c10_loss_scenegen_train": scenegen_problems,
}
