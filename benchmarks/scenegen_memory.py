"""Measure peak memory and time of a full-size scene generator: training steps of several batch sizes, one generation.

    python benchmarks/scenegen_memory.py [--preset scenegen-dl3dv] [--batch-size 1 2 4] [--steps 3]
        [--checkpointing selective] [--generation-steps 150] [--output FILE.json]

The networks have random weights. A step is the one that ns-train does from stored tokens
(`--pipeline.datamanager.tokens`): forward and backward pass of the generator in bfloat16 on the fused kernels, gradient
clipping, AdamW. Compressor and denoiser are in memory and frozen. The latents of condition views are random: VA-VAE,
which encodes up to three pictures of a sample before the step, is left out. A generation is all steps of the preset's
sampler, as `scenetok generate` runs them, unless --generation-steps gives another number.

Needs PyTorch and the packages of scenetok_ns.models, but not Nerfstudio. On a CPU, memory is not measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.draws import draw_scenegen
from scenetok_ns.models.flow.losses import LatentViews, token_flow_loss
from scenetok_ns.models.flow.noise import token_noise
from scenetok_ns.models.flow.sampling import sample_scene_tokens
from scenetok_ns.models.networks.block_execution import Checkpointing
from scenetok_ns.models.networks.compressor import TokenDistribution
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.tools.cuda_memory import let_segments_grow

GIB = 2**30


def make_model(preset: str, device: torch.device, checkpointing: Checkpointing) -> SceneTok:
    """Build networks of full size without autoencoders. All but the generator are frozen."""
    torch.manual_seed(0)
    with device:  # weights are initialised on the device, because a CPU takes a minute
        model = SceneTok(load_preset(preset)).to(device)
    for network in (model.compressor, model.denoiser):
        network.requires_grad_(False)
    model.prepare_training(compiled=False, checkpointing=checkpointing, fused=device.type == "cuda")
    return model


def line_of_cameras(batch: int, views: int, device: torch.device) -> CameraBatch:
    c2w = torch.eye(4, device=device).repeat(batch, views, 1, 1)
    c2w[..., 0, 3] = torch.linspace(0, 1, views, device=device)
    intrinsics = torch.tensor([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], device=device)
    return CameraBatch(c2w, intrinsics.repeat(batch, views, 1, 1))


def condition_of(model: SceneTok, batch: int) -> LatentViews:
    views, side = model.preset.data.views.max_condition_views, model.preset.data.image_size
    space = latent_space(model.preset.context_autoencoder)
    latents = torch.randn(batch, views, space.channels, *space.latent_size((side, side)), device=model.device)
    return LatentViews(latents, line_of_cameras(batch, views, model.device))


def training_step(model: SceneTok, batch: int) -> Callable[[], float]:
    """Return a function that does a training step and returns its loss."""
    preset, device = model.preset, model.device
    assert preset.scene_generator is not None
    model.train()
    parameters = list(model.scene_generator.parameters())
    optimizer = torch.optim.AdamW(parameters, preset.training.learning_rate, fused=True)
    shape = batch, preset.compressor.num_tokens, preset.compressor.token_dim
    tokens = TokenDistribution(torch.randn(shape, device=device), torch.full(shape, -4.0, device=device))
    condition, anchors = condition_of(model, batch), line_of_cameras(batch, preset.data.views.num_context, device)
    draws = torch.Generator(device).manual_seed(0)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        drawn = draw_scenegen(
            draws,
            preset.training,
            num_condition=condition.latents.shape[1],
            tokens=shape,
            pose_dropout=preset.scene_generator.camera.dropout,
            device=device,
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = token_flow_loss(tokens, model.scene_generator, condition, anchors, drawn).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, preset.training.gradient_clip or float("inf"))
        optimizer.step()
        return float(loss.detach())

    return step


def generation(model: SceneTok, steps: int | None = None) -> Callable[[], float]:
    """Return a function that generates a scene and returns the standard deviation of its tokens.

    `steps` is the number of sampling steps; None: the preset's.
    """
    preset, device = model.preset, model.device
    assert preset.scene_sampler is not None
    model.eval()
    condition, anchors = condition_of(model, 1), line_of_cameras(1, preset.data.views.num_context, device)
    noise = token_noise(0, preset.compressor.num_tokens, preset.compressor.token_dim).to(device)
    mask = torch.ones(1, condition.latents.shape[1], dtype=torch.bool, device=device)
    sampler = replace(preset.scene_sampler, steps=steps or preset.scene_sampler.steps)
    inputs = noise, condition.latents, condition.cameras, anchors, mask, sampler

    @torch.no_grad()
    def generate() -> float:
        engine = model.engine_for(None)
        sample = sample_scene_tokens if engine is None else engine.sample_scene_tokens
        return float(sample(model.scene_generator, *inputs).std())

    return generate


def measure(run: Callable[[], float], device: torch.device, repeats: int) -> dict[str, Any]:
    """Measure the seconds of the first call, which compiles kernels, the mean of the others, and the peak memory."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        value = run()  # waits for the device
        times.append(time.perf_counter() - begin)
    row = {"first_seconds": times[0], "seconds": sum(times[1:]) / repeats, "value": value}
    if cuda:
        row["peak_gib"] = torch.cuda.max_memory_allocated(device) / GIB
        row["reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB
    return row


def forget(device: torch.device) -> None:
    """Free the memory that the last measurement left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def results(options: argparse.Namespace, device: torch.device) -> dict[str, dict[str, Any]]:
    model = make_model(options.preset, device, options.checkpointing)
    count = {name: sum(p.numel() for p in network.parameters()) for name, network in model.named_children()}
    rows: dict[str, dict[str, Any]] = {"weights": {"parameters": count}}
    if device.type == "cuda":
        rows["weights"]["peak_gib"] = torch.cuda.memory_allocated(device) / GIB
    for batch in options.batch_size:
        name = f"training step, batch {batch}"
        try:
            rows[name] = measure(training_step(model, batch), device, options.steps)
        except torch.cuda.OutOfMemoryError:
            rows[name] = {"failed": "out of memory"}
        model.zero_grad(set_to_none=True)
        forget(device)
    rows["generation"] = measure(generation(model, options.generation_steps), device, 1)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="scenegen-dl3dv", help="a scenegen preset, or a preset file (.yaml)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=3, help="number of timed training steps after the first")
    parser.add_argument("--checkpointing", choices=("none", "selective", "full"), default="none")
    parser.add_argument("--generation-steps", type=int, help="sampling steps of the generation; default: the preset's")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        let_segments_grow()
        torch.set_float32_matmul_precision("high")
    begin = time.perf_counter()
    rows = results(options, device)
    total = time.perf_counter() - begin
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    table = Table(title=f"{options.preset}, checkpointing {options.checkpointing}, {name}, torch {torch.__version__}")
    for column in ("what", "peak GiB", "reserved GiB", "seconds", "first seconds"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, row in rows.items():
        cells = [row.get(key) for key in ("peak_gib", "reserved_gib", "seconds", "first_seconds")]
        table.add_row(what, *(row.get("failed", "") if cell is None else f"{cell:.2f}" for cell in cells))
    Console(width=120).print(table)
    print(f"{total:.0f} seconds in all")
    if options.output is not None:
        figures = {"device": name, "torch": torch.__version__, "preset": options.preset, "seconds": total, "rows": rows}
        options.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
