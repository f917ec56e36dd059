"""Predicts the peak memory of a training step on a GPU, before the first one.

Weights, gradients and moments are counted. Saved activations follow from the shapes of the fused blocks, tensor by
tensor; blocks that are not fused save a measured multiple of that. The rest was fitted to measured steps
(docs/performance.md); the tests compare the prediction with these steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

from torch import nn

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.networks.block_execution import Checkpointing
from scenetok_ns.models.networks.compressor import CompressorBlock
from scenetok_ns.models.networks.dit import Block
from scenetok_ns.models.networks.layers import FEED_FORWARD_MULTIPLE, SwiGLU
from scenetok_ns.models.presets import CompressorConfig, DenoiserConfig, Preset, SceneGeneratorConfig
from scenetok_ns.models.scenetok import SceneTok

GIB = 2**30
FLOAT, HALF = 4, 2
"""Bytes per number in float32 and in bfloat16."""

Blocks = Literal["fused", "compiled", "plain"]
"""How the blocks of a network run in training."""

SAVED: dict[tuple[Blocks, Checkpointing], float] = {
    ("fused", "none"): 1.0,
    ("fused", "selective"): 1.0,  # casts weights twice; the norms are in memory that nothing else needs
    ("compiled", "none"): 1.44,
    ("compiled", "selective"): 0.91,
    ("plain", "none"): 1.76,
    ("plain", "selective"): 1.1,  # not measured
}
"""Memory that blocks save for the backward pass, relative to fused blocks. `full` is computed from their inputs."""
OUTSIDE = 28
"""Bytes outside the blocks for each number in a network's rows: embeddings, ray maps, the final layer, gradients
between blocks."""
FIXED = 0.9 * GIB
"""Bytes for workspaces of libraries and for gaps between tensors."""

PICTURES = {"pixel": 0.0, "conv": 0.2, "vavae": 1.3, "video_dcae": 8.4, "wan": 2.1}
"""Peak memory of autoencoders in GiB, in the precision of training, weights included (docs/performance.md)."""


@dataclass(frozen=True)
class TrainingRun:
    """Sizes of a training run that do not follow from its networks."""

    batch: int
    """Number of samples per process and step."""
    steps: int | None = None
    """Number of steps; None: unknown, assumed to be many."""
    processes: int = 1
    """Number of processes that train together."""
    accumulates: bool = False
    """Whether gradients of several steps are summed."""
    from_latents: bool = False
    """Whether no step needs an autoencoder."""


@dataclass(frozen=True)
class Rows:
    """Rows of equal width that a block works on."""

    count: int
    """Number of rows per sample."""
    width: int
    heads: int
    feed_forward: int
    """Inner width of the feed-forward layer, padded."""

    @property
    def numbers(self) -> int:
        return self.count * self.width


@dataclass(frozen=True)
class Network:
    """A network that trains: its blocks, and the rows that pass through them."""

    blocks: int
    parameters: int
    """Number of parameters of all blocks, which are cast for the matrix products."""
    rows: Rows
    """Rows that adaLN modulates: latents, generated tokens, or tokens of views."""
    context: int
    """Number of rows per sample that cross-attention attends to; 0 for a compressor."""
    tokens: Rows | None = None
    """Scene tokens of a compressor, which has two streams."""

    @property
    def numbers(self) -> int:
        return self.rows.numbers + (0 if self.tokens is None else self.tokens.numbers)

    @property
    def inputs(self) -> int:
        """Bytes per sample of a block's inputs. The stream of scene tokens is in float32, all others in bfloat16."""
        return HALF * self.rows.numbers + (0 if self.tokens is None else FLOAT * self.tokens.numbers)

    @property
    def saved(self) -> int:
        """Bytes per sample that one fused block saves, including its inputs."""
        rows = self.rows
        modulated = 6 * rows.numbers
        # Queries, keys and values; the attention; its projection, which the gate's gradient needs.
        attention = 5 * rows.numbers
        halves = 2 * rows.count * rows.feed_forward
        scales = FLOAT * rows.count * (3 * rows.heads + 2)
        if self.tokens is None:
            # The sum behind the self-attention, queries, the attention, the source of the queries, the feed-forward.
            rest = 5 * rows.numbers + 2 * self.context * rows.width
            scales += FLOAT * rows.heads * (2 * rows.count + self.context)
            return self.inputs + HALF * (modulated + attention + halves + rest) + scales
        tokens = self.tokens
        views = modulated + attention + halves + 2 * rows.numbers + 2 * rows.numbers  # sum, feed-forward; keys, values
        # Two norms, queries, keys and values, two attentions, queries of views and their source; one sum in float32.
        own = (2 + 3 + 2 + 2) * tokens.numbers + 2 * tokens.count * tokens.feed_forward + 2 * tokens.numbers
        return self.inputs + HALF * (views + own) + scales + FLOAT * tokens.count * tokens.heads * 2


@dataclass(frozen=True)
class Workload:
    """Everything that a step's memory depends on, except how its blocks run."""

    batch: int
    """Number of samples per process and step."""
    trained: int
    """Number of parameters with gradients and moments."""
    frozen: int
    """Number of parameters without gradients and moments."""
    networks: tuple[Network, ...]
    """Networks that train."""
    averaged: bool = False
    """Whether an exponential moving average of the trained weights is kept."""
    holds_gradients: bool = False
    """Whether memory for gradients remains after the optimizer's step: with several processes or accumulation."""
    pictures: int = 0
    """Bytes that autoencoders take, if photographs are encoded or pictures are evaluated."""


@dataclass(frozen=True)
class Memory:
    """Predicted peak of a training process, in bytes."""

    weights: int
    """Parameters, and their moving average if there is one."""
    optimizer: int
    """Moments of AdamW, and gradients that stay."""
    step: int
    """Saved activations or gradients, whichever are larger, and everything else that a pass needs."""
    pictures: int

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + self.step + self.pictures


def predicted_memory(load: Workload, blocks: Blocks, checkpointing: Checkpointing) -> Memory:
    """Predict the peak memory of training."""
    saved = load.batch * sum(_activations(network, blocks, checkpointing) for network in load.networks)
    # The backward pass starts with all activations and no gradients, and ends with all gradients and no activations.
    during = max(saved + _casts(load, blocks, checkpointing), FLOAT * load.trained)
    outside = load.batch * OUTSIDE * sum(network.numbers for network in load.networks)
    return Memory(
        weights=FLOAT * (load.trained + load.frozen + (load.trained if load.averaged else 0)),
        optimizer=FLOAT * load.trained * (3 if load.holds_gradients else 2),
        step=int(during + outside + FIXED),
        pictures=load.pictures,
    )


def _activations(network: Network, blocks: Blocks, checkpointing: Checkpointing) -> float:
    """Bytes of saved activations per sample at the start of the backward pass."""
    if checkpointing == "full":
        return network.inputs * network.blocks + network.saved * SAVED[blocks, "none"]
    return network.saved * network.blocks * SAVED[blocks, checkpointing]


def _casts(load: Workload, blocks: Blocks, checkpointing: Checkpointing) -> int:
    """Bytes of weights in bfloat16. Autocast keeps all of them; fused blocks that recompute cast their own again."""
    if blocks == "fused" and checkpointing != "none":
        return 0
    return HALF * sum(network.parameters for network in load.networks)


def workload(scenetok: SceneTok, run: TrainingRun, *, averaged: bool = False, pictures: bool = False) -> Workload:
    """Describe the training of a model's networks.

    Args:
        scenetok: Model whose trained networks require gradients.
        run: Sizes of the training run.
        averaged: Whether EMA weights are kept.
        pictures: Whether autoencoders run during training, to encode photographs or to evaluate.
    """
    parameters = list(scenetok.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    preset = scenetok.preset
    names = {preset.context_autoencoder.name, preset.target_autoencoder.name}
    return Workload(
        batch=run.batch,
        trained=trained,
        frozen=sum(parameter.numel() for parameter in parameters) - trained,
        networks=tuple(_networks(scenetok)),
        averaged=averaged,
        holds_gradients=run.processes > 1 or run.accumulates,
        pictures=int(sum(PICTURES[name] for name in names) * GIB) if pictures else 0,
    )


def _networks(scenetok: SceneTok) -> Iterator[Network]:
    """Networks that train, with the row counts of the preset's views."""
    preset = scenetok.preset
    views, tokens = preset.data.views, preset.compressor.num_tokens
    if _trains(scenetok.compressor):
        config, blocks = preset.compressor, scenetok.compressor.aggregate
        feed_forward = cast(CompressorBlock, blocks[0]).mlp2  # both are alike, and the last block lacks the other
        count = views.num_context * _positions(preset, "context", config.patch_size)
        rows, own = (_rows(config, feed_forward, number) for number in (count, tokens))
        yield Network(len(blocks), _count(blocks), rows, 0, own)
    if _trains(scenetok.denoiser):
        count = views.num_target_latents * _positions(preset, "target", preset.denoiser.patch_size)
        yield _trunk(scenetok.denoiser.model.blocks, preset.denoiser, count, tokens)
    if preset.scene_generator is not None and _trains(scenetok.scene_generator):
        positions = _positions(preset, "context", preset.scene_generator.patch_size)
        context = views.max_condition_views * positions + views.num_context
        yield _trunk(scenetok.scene_generator.model.blocks, preset.scene_generator, tokens, context)


def _trunk(blocks: nn.ModuleList, config: DenoiserConfig | SceneGeneratorConfig, count: int, context: int) -> Network:
    return Network(len(blocks), _count(blocks), _rows(config, cast(Block, blocks[0]).mlp, count), context)


def _positions(preset: Preset, role: Literal["context", "target"], patch: int) -> int:
    """Number of tokens per latent."""
    autoencoder = preset.context_autoencoder if role == "context" else preset.target_autoencoder
    height, width = latent_space(autoencoder).latent_size((preset.data.image_size,) * 2)
    return (height // patch) * (width // patch)


def _rows(config: CompressorConfig | DenoiserConfig | SceneGeneratorConfig, feed_forward: SwiGLU, count: int) -> Rows:
    inside = feed_forward.w3.in_features
    return Rows(count, config.hidden_size, config.num_heads, inside + -inside % FEED_FORWARD_MULTIPLE)


def _trains(network: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in network.parameters())


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
