"""Measure the generation of scenes in fewer steps: seconds, and error of both solvers relative to 150 Euler steps.

    python benchmarks/scenegen_solver.py [--run RUN] [--num-scenes 8] [--steps 5 10 20 30 50] [--reference-steps 150]
                                         [--output FILE.json]

Generates the evaluation scenes of a run (default: the bundled model, on rooms created for this) with the same seed, by
each solver in each number of steps. Prints the root mean square difference of the tokens from those of 150 Euler steps,
divided by the standard deviation of the latter, and the PSNR between the pictures rendered from both at the anchors.
"another seed" is the score of an unrelated scene that fits the same photographs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from scenetok_ns.cli.run_options import EMBEDDED_GENERATOR, RunChanges
from scenetok_ns.cli.runs import load_run
from scenetok_ns.data.demo.writer import write_demo_data
from scenetok_ns.data.sources.photograph import GenerationInputs
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.metrics import psnr
from scenetok_ns.models.presets import SceneSamplerConfig
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.plugin.run_folder import derive_run
from scenetok_ns.rendering.scene_renderer import SceneRenderer

SOLVERS = ("euler", "multistep")


def solver_errors(
    renderer: SceneRenderer, scenes: Sequence[GenerationInputs], steps: Sequence[int], reference_steps: int
) -> list[dict[str, Any]]:
    """Compute a row for each solver and number of steps; see the module's docstring."""
    preset = renderer.settings.scene_sampler
    assert preset is not None, "the model generates no scenes"
    references = [made(renderer, scene, replace(preset, solver="euler", steps=reference_steps)) for scene in scenes]
    pictures = [rendered(renderer, tokens, scene) for tokens, scene in zip(references, scenes, strict=True)]

    def row(label: str, number: int, sampler: SceneSamplerConfig, seed: int = 0) -> dict[str, Any]:
        begin = time.perf_counter()
        tokens = [made(renderer, scene, sampler, seed) for scene in scenes]
        seconds = (time.perf_counter() - begin) / len(scenes)
        apart = [
            float((own.mean - other.mean).square().mean().sqrt() / other.mean.std())
            for own, other in zip(tokens, references, strict=True)
        ]
        alike = [
            float(psnr(pred=rendered(renderer, own, scene), target=picture).mean())
            for own, scene, picture in zip(tokens, scenes, pictures, strict=True)
        ]
        means = {"token_error": sum(apart) / len(apart), "psnr": sum(alike) / len(alike)}
        return {"solver": label, "steps": number, **means, "seconds": seconds}

    cases = [(solver, number) for solver in SOLVERS for number in steps]
    rows = [row(s, n, replace(preset, solver=s, steps=n)) for s, n in track(cases, "generating", transient=True)]
    return [*rows, row("another seed", reference_steps, replace(preset, solver="euler", steps=reference_steps), seed=1)]


def made(renderer: SceneRenderer, scene: GenerationInputs, sampler: SceneSamplerConfig, seed: int = 0) -> SceneTokens:
    settings = replace(renderer.settings, scene_sampler=sampler, scene_seed=seed)
    tokens = replace(renderer, settings=settings).generate(scene, scene="")
    return tokens.to("cpu")  # waits for the device, so that the time includes all work


def rendered(renderer: SceneRenderer, tokens: SceneTokens, scene: GenerationInputs) -> torch.Tensor:
    intrinsics = scene.views.intrinsics[:1].expand(len(scene.anchors), -1, -1)
    return renderer.render(tokens.to(renderer.device), CameraBatch(scene.anchors[None], intrinsics[None])).cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help=f"run folder of a scenegen method; default: {EMBEDDED_GENERATOR}")
    parser.add_argument("--num-scenes", type=int, default=8)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 30, 50])
    parser.add_argument("--reference-steps", type=int, default=150, help="Euler steps that all are compared with")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        run = derive_run(options.run or Path(EMBEDDED_GENERATOR), Path(folder) / "unused")
        if options.run is None:
            write_demo_data(Path(folder) / "rooms", "re10k", {"train": 1, "test": options.num_scenes})
            RunChanges(data=Path(folder) / "rooms").apply(run.config)
        renderer = load_run(run, console).model.renderer
        usable = islice(renderer.scenes.usable(), options.num_scenes)
        scenes = [renderer.scenes.conditions(scene.number) for scene in usable]
        given = [scene for scene in scenes if scene is not None]
        rows = solver_errors(renderer, given, options.steps, options.reference_steps)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    table = Table(title=f"{len(scenes)} scenes, preset {renderer.preset.name}, {device}, torch {torch.__version__}")
    for column in ("solver", "steps", "token error", "PSNR (dB)", "seconds a scene"):
        table.add_column(column, justify="left" if column == "solver" else "right")
    for row in rows:
        values = f"{row['token_error']:.4f}", f"{row['psnr']:.2f}", f"{row['seconds']:.2f}"
        table.add_row(row["solver"], str(row["steps"]), *values)
    console.print(table)
    if options.output is not None:
        options.output.write_text(json.dumps({"device": device, "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
