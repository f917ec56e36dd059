"""`scenetok evaluate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from scenetok_ns.cli.evaluation_figures import print_missing, write_figures
from scenetok_ns.cli.evaluation_folder import default_folder
from scenetok_ns.cli.run_options import RunChanges, positive
from scenetok_ns.cli.runs import load_run
from scenetok_ns.cli.scene_jobs import chosen_shard
from scenetok_ns.data.errors import DataError, no_such_scene
from scenetok_ns.evaluation.options import FIGURES, EvaluationOptions, SweepOptions
from scenetok_ns.models.presets import Encoding, Solver, load_preset
from scenetok_ns.tools.devices import chosen_device
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.printing import plain_console

if TYPE_CHECKING:
    from scenetok_ns.bridge.evaluation_scenes import EvaluationScenes
    from scenetok_ns.evaluation.measures import Measures
    from scenetok_ns.evaluation.scene_evaluation import SceneEvaluation
    from scenetok_ns.evaluation.sweeps import Variant
    from scenetok_ns.plugin.run_folder import RunFolderConfig
    from scenetok_ns.rendering.scene_renderer import SceneRenderer


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    output: Path | None = None,
    data: Path | None = None,
    index: Path | None = None,
    scenes: tuple[str, ...] = (),
    num_scenes: int | None = None,
    num_context: int | None = None,
    num_condition: int | None = None,
    seed: int | None = None,
    seeds: int = 1,
    steps: int | None = None,
    guidance: float | None = None,
    solver: Solver | None = None,
    encoding: Encoding | None = None,
    sweep: Annotated[SweepOptions, tyro.conf.arg(name="")] = SweepOptions(),  # noqa: B008  frozen
    measure: Annotated[EvaluationOptions, tyro.conf.arg(name="")] = EvaluationOptions(),  # noqa: B008  frozen
    baselines: bool = False,
    pictures: bool = True,
    pairs: Path | None = None,
    protocol: Literal["default", "published", "notebook"] | None = None,
    shard: str | None = None,
    device: str | None = None,
) -> None:
    """Evaluate a run as ns-eval does, with options: other scenes and settings, several seeds, sweeps.

    Run the same command again to continue after an interruption. Several processes may share the scenes: under SLURM
    job arrays, srun or torchrun, each process takes its part automatically; otherwise give --shard. The last process
    to finish writes the figures.
    `scenetok report` turns the result into a page.

    Args:
        run: Run folder (or its config.yml), or the name of a preset whose weights come with the package.
        output: Folder for figures, tables and pictures. Default: RUN/evaluation.
        data: Another data set, or a capture.
        index: Evaluation index with the scenes and views to use; scenetok eval-index creates one.
        scenes: Names of the scenes to evaluate. Default: all.
        num_scenes: Number of scenes to evaluate, counted from the first. Default: all.
        num_context: Number of context views to encode; for scenegen runs, number of anchor poses. Fewer context views
            mean more target views: to compare numbers of views, give both evaluations one --index, or use
            --sweep-context.
        num_condition: Number of photographs that a scenegen run generates scenes from.
        seed: Random seed for rendering and for generating scenes.
        seeds: Number of seeds to evaluate with, counted from --seed; several seeds show the spread between them.
        steps: Number of denoising steps of a render.
        guidance: Classifier-free guidance scale of a render, 1 is off.
        solver: Solver of a render: euler, or multistep.
        encoding: How photographs become tokens: mean (nothing is sampled), latents (VA-VAE's latents are sampled) or
            published (scene tokens are sampled, too). Default: the run's.
        sweep: See the options.
        measure: See the options.
        baselines: Also measure the mean colour, the nearest context view, and the model with wrong tokens.
        pictures: Save every view as JPEG for the report.
        pairs: Folder for plain PNG files of every view of the first variant, in truth/ and pred/, for other programs.
        protocol: How scenes are evaluated: published (as by the published command) or notebook (as by the published
            notebooks); see docs/reproduce.md. Default: the run's.
        shard: Part of the scenes, e.g. 0/8. Detected automatically under SLURM and torchrun.
        device: Device, such as cuda:1 or cpu. Default: the GPU, or the CPU without one.
    """
    positive("--seeds", seeds)
    changes = RunChanges(
        data=data,
        index=index,
        num_context=num_context,
        num_condition=num_condition,
        seed=seed,
        steps=steps,
        guidance=guidance,
        solver=solver,
        encoding=encoding,
        protocol=protocol,
    )
    from scenetok_ns.evaluation.evaluate import check_photographs
    from scenetok_ns.evaluation.measures import Measures
    from scenetok_ns.evaluation.sweeps import variants
    from scenetok_ns.plugin.run_folder import derive_run

    own_shard = chosen_shard(shard)
    folder = output or default_folder(run)
    derived = derive_run(run, folder)
    config = derived.config
    changes.apply(config)
    check_sweep(config, sweep)
    console = plain_console(stderr=True)
    # Before the model, so that missing weights of a metric are reported at once.
    with console.status("loading the metrics"):
        measures = Measures.load(measure, chosen_device(device))
    measures.check_requested()
    print_missing(measures.not_computed, console)
    renderer = load_run(derived, console, device).model.renderer
    check_photographs(renderer.scenes)
    renderer = replace(renderer, scenes=renderer.scenes.with_keys(chosen_scenes(renderer.scenes, scenes, num_scenes)))
    check_context(renderer.scenes, max([*sweep.sweep_context, num_context or 0]))
    scene_seed = renderer.settings.scene_seed if seed is None else seed
    plan = variants(sweep.axes(), renderer.settings.seed, seeds, scene_seed)
    session = _Session(renderer, measures, folder, baselines, measure.batch_scenes, own_shard, pictures, pairs, console)
    found = [(variant, session.figures(variant)) for variant in plan]
    # Other processes may have finished a variant meanwhile. Without this second look, each process could leave the
    # figures to another one.
    found = [(variant, session.figures(variant) if figures is None else figures) for variant, figures in found]
    if any(figures is None for _, figures in found):
        console.print(f"shard {own_shard.index}/{own_shard.count} is done; the last one to end writes the figures")
        return
    write_figures(folder, run, [(variant, figures) for variant, figures in found if figures is not None], console)


def check_sweep(config: RunFolderConfig, sweep: SweepOptions) -> None:
    """Raise ValueError for a sweep that does not fit the run."""
    from scenetok_ns.cli.change_run import check_encodes

    if sweep.sweep_context or sweep.sweep_order:
        check_encodes(config, "--sweep-context" if sweep.sweep_context else "--sweep-order")
    preset = load_preset(config.pipeline.model.preset)
    if sweep.sweep_order and preset.scene_generator is not None:
        raise UsageError("--sweep-order only works with runs that encode scenes; this run generates them")
    for name, values in sweep.axes().items():
        for value in values:
            if isinstance(value, int):
                positive(f"--sweep-{name}", value)
    most = max(sweep.sweep_tokens, default=0)
    if most > preset.compressor.num_tokens:
        raise UsageError(
            f"--sweep-tokens: {most} tokens were asked for, the scenes have {preset.compressor.num_tokens}"
        )


def chosen_scenes(evaluated: EvaluationScenes, names: tuple[str, ...], count: int | None) -> list[str]:
    """Scenes to evaluate. Raises DataError for a name that the data set does not have."""
    keys = evaluated.keys
    if names:
        known = dict.fromkeys([*keys, *evaluated.source.keys])
        if unknown := [name for name in names if name not in known]:
            raise no_such_scene(unknown[0], list(known), evaluated.split, evaluated.data)
        keys = list(dict.fromkeys(names))
    return keys if count is None else keys[: positive("--num-scenes", count)]


def check_context(evaluated: EvaluationScenes, count: int) -> None:
    """Raise DataError if the evaluation index has fewer context views than were asked for."""
    if evaluated.index is None or evaluated.preset.scene_generator is not None:
        return
    fewest = min(len(views.context) for views in evaluated.index.entries.values())
    if count > fewest:
        raise DataError(
            f"{count} context views were asked for, {evaluated.index.path} has {fewest}; make one with more "
            "(scenetok eval-index), or leave it out"
        )


class _Session:
    """Everything that the variants of one command share."""

    def __init__(
        self,
        renderer: SceneRenderer,
        measures: Measures,
        folder: Path,
        baselines: bool,
        batch_scenes: int | None,
        shard: Any,
        pictures: bool,
        pairs: Path | None,
        console: Console,
    ) -> None:
        self.renderer, self.measures, self.folder = renderer, measures, folder
        self.baselines, self.batch_scenes, self.shard = baselines, batch_scenes, shard
        self.pictures, self.pairs, self.console = pictures, pairs, console
        self._pictured: set[str] = set()

    def figures(self, variant: Variant) -> dict[str, Any] | None:
        """Figures of a variant, for JSON; None while other processes still evaluate some of its scenes."""
        from scenetok_ns.evaluation.evaluate import all_skipped, details, run_with_progress
        from scenetok_ns.evaluation.protocol import settings_of
        from scenetok_ns.tools.atomic_files import write_atomically

        evaluation = self._evaluation(variant)
        settings = settings_of(evaluation)
        summary = run_with_progress(evaluation, settings, variant.name)
        if summary is None:
            return None
        found = {"results": summary.results} | details(summary, self.measures, settings, all_skipped(evaluation))
        write_atomically(evaluation.folder.root / FIGURES, json.dumps(found, indent=1, allow_nan=False).encode())
        return found

    def _evaluation(self, variant: Variant) -> SceneEvaluation:
        from scenetok_ns.evaluation.pictures import all_of, for_report, plain_pairs
        from scenetok_ns.evaluation.records import EvaluationFolder
        from scenetok_ns.evaluation.scene_evaluation import SceneEvaluation

        evaluation = SceneEvaluation(
            variant.apply(self.renderer),
            self.measures,
            EvaluationFolder(self.folder / variant.name),
            conditions=variant.conditions,
            baselines=self.baselines,
            batch_scenes=self.batch_scenes,
            shard=self.shard,
        )
        combination = str(variant.axes)
        writers = []
        if self.pictures and combination not in self._pictured:  # only those of the first seed
            writers.append(for_report(evaluation.folder))
        if self.pairs is not None and not self._pictured:
            writers.append(plain_pairs(self.pairs))
        self._pictured.add(combination)
        evaluation.write_pictures = all_of(*writers)
        return evaluation
