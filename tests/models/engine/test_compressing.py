"""The engine's compressor against the plain one, in float32 on the CPU."""

from __future__ import annotations

from dataclasses import replace

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


@torch.no_grad()
def test_the_exact_engine_keeps_the_stream_of_tokens_in_float32() -> None:
    """In bfloat16 layers, results are closer to float32 than with a stream in bfloat16, too."""
    compressor = randomized(small_compressor())
    latents, cameras = normal(1, 5, CHANNELS, 8, 8), random_cameras(1, 5)
    exact = compressor.gaussian_parameters(latents, cameras)
    errors = {}
    for autoencoders in (True, False):
        options = replace(EngineOptions.for_device(CPU, autoencoders=autoencoders), dtype=torch.bfloat16)
        assert options.exact_tokens is not autoencoders
        engine = CompressingEngine(compressor, CPU, options)
        assert engine._scene_tokens.dtype == (torch.bfloat16 if autoencoders else torch.float32)
        found = engine.gaussian_parameters(latents, cameras)
        errors[options.exact_tokens] = float((found - exact).norm() / exact.norm())
    assert errors[True] < errors[False] < 0.05
