"""Measure how accurate renders in fewer steps are, with the bundled model, on rooms that it has not seen.

    python benchmarks/rendering_steps.py --rooms 2 --output steps.json

Renders a walk through each room in fewer steps, by both solvers, and prints the PSNR to the frames of 40 Euler steps
from the same noise, and to the room itself. "another seed" shows how much two equally good renders differ; "bfloat16"
(on CUDA only) shows the rounding error of the engine's precision.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.data.view_sampling import default_views
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.metrics import psnr
from scenetok_ns.models.presets import SamplerConfig, load_preset
from scenetok_ns.models.scenetok import SceneTok

PRESET = "scenetok-tiny"
REFERENCE_STEPS = 40
FRAMES = 12


def cases(sampler: SamplerConfig) -> dict[str, tuple[SamplerConfig, int, bool]]:
    """Label of a case -> its sampler, seed and autocast."""
    made: dict[str, tuple[SamplerConfig, int, bool]] = {}
    if torch.cuda.is_available():  # a CPU only emulates bfloat16
        made["bfloat16"] = (replace(sampler, steps=REFERENCE_STEPS), 0, True)
    for steps in (10, 6, 5, 4, 3):
        for solver in ("euler", "multistep"):
            made[f"{solver}, {steps} steps"] = (replace(sampler, steps=steps, solver=solver), 0, False)
    made["another seed"] = (replace(sampler, steps=REFERENCE_STEPS), 1, False)
    return made


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=4)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = SceneTok.from_preset(load_preset(PRESET)).eval().requires_grad_(False)
    model.load_embedded()
    model.to(device)
    rooms = sample_rooms([scene_seed(7, "test", index) for index in range(args.rooms)], device)
    c2w = sample_walks(rooms, FRAMES + 12)
    images = render_rooms(rooms, c2w, rooms.intrinsics, size=model.preset.data.image_size)
    sampler = model.preset.sampler
    reference = replace(sampler, steps=REFERENCE_STEPS)
    found: dict[str, list[tuple[float, float]]] = {}
    for room in range(args.rooms):
        views = default_views(c2w[room].cpu(), 12)

        def cameras(index: torch.Tensor, room: int = room) -> CameraBatch:
            poses = c2w[room, index.to(device)]
            return CameraBatch(poses[None], rooms.intrinsics[room].expand(1, len(poses), 3, 3))

        tokens = model.encode(images[room, views.context.to(device)], cameras(views.context), autocast=False)
        target = cameras(views.target)
        truth = images[room, views.target.to(device)]
        exact = model.render(tokens, target, sampler=reference, autocast=False)
        rows = {f"euler, {REFERENCE_STEPS} steps": exact}
        for label, (own, seed, autocast) in cases(sampler).items():
            rows[label] = model.render(tokens, target, sampler=own, seed=seed, autocast=autocast)
        for label, frames in rows.items():
            alike = float(psnr(pred=frames, target=exact).mean()) if frames is not exact else float("inf")
            found.setdefault(label, []).append((alike, float(psnr(pred=frames, target=truth).mean())))
    table = Table(title=f"{args.rooms} rooms, {PRESET}, {device.type}, torch {torch.__version__}")
    for column in ("setting", f"PSNR to {REFERENCE_STEPS} steps (dB)", "PSNR to the room (dB)"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    means = {label: torch.tensor(values).mean(0).tolist() for label, values in found.items()}
    for label, (alike, right) in means.items():
        table.add_row(label, f"{alike:.2f}", f"{right:.2f}")
    Console().print(table)
    if args.output is not None:
        args.output.write_text(json.dumps(means, indent=1))


if __name__ == "__main__":
    main()
