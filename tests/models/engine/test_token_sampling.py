"""The engine's generation of scene tokens against the plain loop, in float32 on the CPU."""

from __future__ import annotations

import pytest
import torch
from support.small_networks import generator_inputs, randomized, small_generator

from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.engine.token_sampling import TokenEngine
from scenetok_ns.models.flow.sampling import sample_scene_tokens
from scenetok_ns.models.presets import SceneSamplerConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("solver", ["euler", "multistep"])
@pytest.mark.parametrize("steps", [3, 66])
def test_tokens_are_those_of_the_plain_loop(guidance: float, solver: str, steps: int) -> None:
    generator = randomized(small_generator())
    noise, _, *conditions = generator_inputs()
    config = SceneSamplerConfig(steps=steps, timestep_shift=4.0, guidance=guidance, solver=solver)  # type: ignore[arg-type]
    engine = TokenEngine(generator, CPU, EngineOptions.for_device(CPU))
    reports: list[tuple[int, int]] = []
    kept = noise.clone()
    found = engine.sample_scene_tokens(noise, *conditions, config, on_step=lambda *report: reports.append(report))
    expected = sample_scene_tokens(generator, noise, *conditions, config)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert reports == [(i, steps) for i in range(steps + 1)] and torch.equal(noise, kept)
    again = engine.sample_scene_tokens(noise + 1, *conditions, config)
    assert not torch.allclose(again, found, atol=0.1)
    torch.testing.assert_close(engine.sample_scene_tokens(noise, *conditions, config), found, atol=0, rtol=0)
