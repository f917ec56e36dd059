"""Flow, schedules, samplers and losses against recorded runs (c06 to c10), and proof that the comparison can fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support import sampling_parity
from support.parity_cases import Case, load_case
from support.sampling_parity import COMPARE

from scenetok_ns.models.autoencoders.base import LatentSpace
from scenetok_ns.models.flow import draws, losses, sampling, schedules
from scenetok_ns.models.flow import rectified_flow as flow
from scenetok_ns.models.temporal import TemporalLayout

LOSSES = [name for name in COMPARE if name.startswith("c10")]
CASES_WITH_NETWORKS = [name for name in COMPARE if name[:3] not in ("c06", "c07")]


@pytest.mark.parametrize("name", COMPARE)
def test_every_recorded_output_is_met(name: str) -> None:
    assert COMPARE[name](load_case(name)) == []


# --- the comparison notices what is wrong


def shifted_more(t: Any, shift: float) -> Any:
    return SHIFT_TIME(t, 1.02 * shift)


def first_becomes_last(name: str, levels: tuple[int, ...], end: int, ceiling: int) -> tuple[int, ...]:
    """Autoregressive from right to left."""
    if name != "autoregressive":
        return SWEEP(name, levels, end, ceiling)
    inside, outside = levels[:end], levels[end:]
    return SWEEP(name, inside[::-1], len(inside), ceiling)[::-1] + outside


NETWORK_CASE = sampling_parity.network_case
SHIFT_TIME, SWEEP, GUIDED, MASK = flow.shift_time, schedules._sweep, sampling.guided, draws.condition_mask
PERTURBATIONS: dict[str, tuple[object, str, Any, list[str]]] = {
    "shift of times": (schedules, "shift_time", shifted_more, ["c06_samplers", "c08_sample_vdc", "c08_sample_wan"]),
    "shift of the grid": (flow, "shift_time", shifted_more, ["c07_scheduler", "c09_sample_scene"]),
    "shift in training": (draws, "shift_time", shifted_more, ["c10_loss_scenetok_wan", "c10_loss_scenegen"]),
    "order of the window": (schedules, "_sweep", first_becomes_last, ["c06_samplers", "c08_sample_vdc"]),
    "scale of times": (flow, "TRAINING_TIMES", 990, ["c07_scheduler", *CASES_WITH_NETWORKS]),
    "scale of a sampler's times": (sampling, "network_time", lambda t: 990 * t, ["c08_sample_vdc"]),
    "guidance": (sampling, "guided", lambda v, g: GUIDED(v, 1.02 * g), ["c08_sample_vdc", "c09_sample_scene"]),
    "sign of the velocity": (losses, "velocity_target", lambda x, e: x - e, LOSSES),
    "direction of the interpolation": (losses, "interpolate", lambda x, e, t: flow.interpolate(e, x, t), LOSSES),
    "frames of a window": (
        TemporalLayout,
        "frame_slice",
        lambda self, start, stop: slice(0, self.first_frame(stop) - self.first_frame(start)),
        ["c08_sample_wan"],
    ),
    "KL weight": (losses, "kl_weight", lambda step, config: 10 * max(config.kl_weights), ["c10_loss_scenetok"]),
    "KL ramp": (losses, "kl_weight", lambda step, config: config.kl_weights[1], ["c10_loss_scenetok_klmid"]),
    "frozen compressor": (losses, "compressor_frozen", lambda config, step: False, ["c10_loss_scenetok_wan"]),
    "trained compressor": (losses, "compressor_frozen", lambda config, step: True, ["c10_loss_scenetok"]),
    "null token": (losses, "_drop_tokens", lambda denoiser, state, draws, config: state, ["c10_loss_scenetok_uncond"]),
    "condition views": (draws, "condition_mask", lambda u, off: MASK(1 - u, off), ["c10_loss_scenegen"]),
    "normalisation": (LatentSpace, "normalize", lambda self, raw: raw, ["c09_sample_scene", *LOSSES]),
}


@pytest.mark.parametrize(
    ("what", "name"), [(what, name) for what, (*_, names) in PERTURBATIONS.items() for name in names]
)
def test_a_wrong_constant_or_step_shows(what: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, wrong, _ = PERTURBATIONS[what]
    monkeypatch.setattr(owner, attribute, wrong)
    assert COMPARE[name](load_case(name)) != []


WEIGHTS = {
    "compressor.": ["scene_tokens", "out_proj.0.weight", "aggregate.0.attn3.to_v.weight"],
    "denoiser.": [
        "model.blocks.0.attn.proj.weight",
        "model.final_layer.linear.bias",
        "pose_embed.model.model.1.weight",
    ],
    "scene_generator.": ["model.pos_embed", "model.blocks.1.mlp.w12.weight", "anchor_pose_embed.model.model.proj.bias"],
}


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        (name, prefix)
        for name in CASES_WITH_NETWORKS
        for prefix in load_case(name).info.get("state_files", [load_case(name).info.get("state_prefix")])
        # Without tokens the compressor changes nothing.
        if (name, prefix) != ("c10_loss_scenetok_uncond", "compressor.")
    ],
)
def test_one_changed_weight_shows(name: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = load_case(name)

    def changed(case: Case, wanted: str | None = None) -> Case:
        found = NETWORK_CASE(case, wanted)
        if wanted not in (None, prefix):
            return found
        weight = found.tensors[f"state.{prefix}{key}"].clone()
        weight.view(-1)[0] += 1.0
        return replace(found, tensors={**found.tensors, f"state.{prefix}{key}": weight})

    monkeypatch.setattr(sampling_parity, "network_case", changed)
    for key in WEIGHTS[prefix]:
        assert COMPARE[name](case) != [], key
