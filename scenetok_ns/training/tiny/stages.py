"""Training of the embedded tokenizer from nothing, stage by stage (`scenetok train-tiny`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.weight_files import load_weights
from scenetok_ns.training.tiny.codec import CodecTask
from scenetok_ns.training.tiny.finish import FinishTask, FinishWeights, Trained, check_finish
from scenetok_ns.training.tiny.options import RunOptions
from scenetok_ns.training.tiny.run import TinyRun
from scenetok_ns.training.tiny.tokenizer import Pools, TokenizerTask


@dataclass
class TinyOptions(RunOptions):
    """Options for training the tokenizer. A stage of 0 steps is left out."""

    preset: str = "scenetok-tiny"
    """Architecture and recipe."""
    codec_steps: int = 4000
    """Number of steps of the codec stage; 0 takes the codec of --resume or --resume-codec."""
    codec_seconds: float = 1e9
    codec_batch_size: int = 256
    codec_learning_rate: float = 2e-3
    token_steps: int = 30000
    """Number of steps of the compressor and the denoiser."""
    regression: float = 0.4
    """Share of these steps, at the start, that train on pure noise only."""
    finish_steps: int = 0
    """Number of steps of the finish, which compares pictures."""
    finish_seconds: float = 1e9
    finish_learning_rate: float = 3e-4
    finish_trains: Trained = "denoiser"
    """Networks that the finish trains: "decoder" alone, "denoiser" and decoder, or "all". Train depth heads again after
    "denoiser", and generators too after "all", because it changes tokens."""
    finish: FinishWeights = field(default_factory=FinishWeights)
    perceptual_weights: Path | None = None
    """The file of ST-LPIPS (AlexNet)."""
    resume: Path | None = None
    """Weights to start from."""
    resume_codec: Path | None = None
    """Weights to take only the codec from."""


def run_training(options: TinyOptions) -> TinyRun:
    """Run all stages, and write weights and log to the output folder. The option `seconds` limits the token stage."""
    preset = load_preset(options.preset)
    if options.finish_steps:
        check_finish(options.finish, options.perceptual_weights, preset.data.image_size)
    run = TinyRun(options, preset)
    if options.resume is not None:
        load_weights({"codec": run.codec}, options.resume)
    if options.resume_codec is not None:
        load_weights({"codec": run.codec}, options.resume_codec)
    if options.codec_steps:
        train_codec(run, options)
    weights = options.resume
    if options.token_steps or options.finish_steps:
        pools = Pools.of(run, keep_images=options.finish_steps > 0)
    if options.token_steps:
        tokens = TokenizerTask(run, options.regression)
        if weights is not None:
            load_parts(tokens.trained, tokens.averaged, weights)
        tokens.start(pools)
        run.train(tokens, options.token_steps, options.seconds)
        weights = options.output / "tokens.safetensors"
    if options.finish_steps:
        run.options = replace(options, learning_rate=options.finish_learning_rate, warmup=100)
        run.barrier()
        finish = FinishTask(run, options.finish, options.perceptual_weights, options.finish_trains)
        assert weights is not None, "the finish needs trained weights"
        load_weights({"compressor": finish.compressor, "denoiser": finish.denoiser}, weights)
        finish.averaged.load_state_dict(finish.trained.state_dict())
        finish.start(pools)
        run.train(finish, options.finish_steps, options.finish_seconds)
    return run


def train_codec(run: TinyRun, options: TinyOptions) -> None:
    run.options = replace(options, learning_rate=options.codec_learning_rate, average=0.998)
    if run.rank == 0:  # it learns in a minute: one rank is enough
        run.alone = True
        task = CodecTask(run, options.codec_batch_size)
        run.train(task, options.codec_steps, options.codec_seconds)
        task.finish()
        task.save(options.output)
        run.alone = run.ranks == 1
    run.share(run.codec)
    run.options = options


def load_parts(trained: nn.ModuleDict, averaged: nn.ModuleDict, path: Path) -> None:
    for modules in (trained, averaged):
        load_weights(dict(modules.items()), path)
