"""The engine's compressor against the plain one, in float32 on the CPU."""

from __future__ import annotations

import torch
from support.small_networks import CHANNELS, normal, random_cameras, randomized, small_compressor

from scenetok_ns.models.engine.compressing import CompressingEngine
from scenetok_ns.models.engine.options import EngineOptions

CPU = torch.device("cpu")


@torch.no_grad()
def test_parameters_are_those_of_the_plain_compressor() -> None:
    compressor = randomized(small_compressor())
    engine = CompressingEngine(compressor, CPU, EngineOptions.for_device(CPU))
    for batch, views, seed in ((2, 3, 1), (1, 5, 2), (1, 5, 3)):
        latents, cameras = normal(batch, views, CHANNELS, 8, 8, seed=seed), random_cameras(batch, views, seed)
        expected = compressor.gaussian_parameters(latents, cameras)
        found = engine.gaussian_parameters(latents, cameras)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
