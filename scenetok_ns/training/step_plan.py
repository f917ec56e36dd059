"""Chooses how training steps run on a machine: with fused blocks, compiled, recorded, with activations recomputed.

`choose` is a pure function of facts, options and sizes; ns-train and `scenetok train-tiny` call it. It chooses every
option that the user leaves out, and refuses options that cannot be met.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace

import torch

from scenetok_ns.models.fused.blocks import fits_kernels
from scenetok_ns.models.fused.float8 import CAPABILITY
from scenetok_ns.models.networks.block_execution import Checkpointing
from scenetok_ns.models.ops.dispatch import triton_available
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.training.step_memory import GIB, Blocks, Memory, TrainingRun, Workload, predicted_memory, workload

COMPILING_PAYS = {"fused": 3000, "plain": 500}
"""Minimum number of steps for which compiling is worth its time. On an H100, the parts outside fused blocks take up to
20 s, and whole plain blocks about 45 s."""

SAVERS: tuple[Checkpointing, ...] = ("none", "selective", "full")
"""Choices of activation checkpointing, fastest first."""

ROOM = 1.05
"""Memory that must be available, relative to the prediction."""


@dataclass(frozen=True)
class Wishes:
    """Options that the user gave; None: to be chosen."""

    fused: bool | None = None
    compile: bool | None = None
    record: bool | None = None
    checkpointing: Checkpointing | None = None
    float8: bool = False
    """Run matrix products of fused blocks in FP8. Never chosen automatically, because it changes the loss."""


@dataclass(frozen=True)
class Facts:
    """Abilities of the machine and the method."""

    cuda: bool
    triton: bool = False
    """Whether Triton works, which fused blocks and compiled code need on a GPU."""
    float8: bool = False
    """Whether the GPU multiplies FP8."""
    cpp_compiler: bool = False
    """Whether there is a C++ compiler, which compiled code needs on a CPU."""
    steps: int | None = None
    """Number of training steps; None: unknown, assumed to be many."""
    available: int | None = None
    """Bytes of GPU memory that this process has or can get; None: unknown."""
    unfusible: str | None = None
    """Why the method's blocks cannot run fused; None: they can."""
    uncompilable: str | None = None
    """Why the method's parts cannot be compiled."""
    unrecordable: str | None = None
    """Why the method's steps cannot be recorded."""


def facts_of(
    device: torch.device,
    *,
    steps: int | None = None,
    unfusible: str | None = None,
    uncompilable: str | None = None,
    unrecordable: str | None = None,
) -> Facts:
    """Collect the facts about a machine. The keyword arguments are the fields of `Facts` that depend on the method."""
    cuda = device.type == "cuda"
    available = None
    if cuda:
        available = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return Facts(
        cuda=cuda,
        triton=cuda and triton_available(),
        float8=cuda and torch.cuda.get_device_capability(device) >= CAPABILITY,
        cpp_compiler=any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")),
        steps=steps,
        available=available,
        unfusible=unfusible,
        uncompilable=uncompilable,
        unrecordable=unrecordable,
    )


@dataclass(frozen=True)
class Flags:
    """How a command spells the options, for messages."""

    fused: str = "--fused True"
    compile: str = "--compile True"
    record: str = "--cuda-graph True"
    float8: str = "--float8"


@dataclass(frozen=True)
class StepPlan:
    """How training steps run."""

    fused: bool = False
    compile: bool = False
    record: bool = False
    checkpointing: Checkpointing = "none"
    float8: bool = False
    memory: Memory | None = None
    """Predicted peak; None: not predicted, as on a CPU."""
    available: int | None = None
    reasons: tuple[str, ...] = ()
    """Why something was not chosen."""

    @property
    def blocks(self) -> Blocks:
        return "fused" if self.fused else "compiled" if self.compile else "plain"

    @property
    def fits(self) -> bool:
        """Whether the memory suffices, as far as it is known."""
        return self.memory is None or self.available is None or ROOM * self.memory.total <= self.available

    def line(self) -> str:
        """Describe the plan in one line."""
        parts = [f"{self.blocks} blocks" + (" with FP8 products" if self.float8 else "")]
        if self.fused and self.compile:
            parts.append("the rest compiled")
        if self.record:
            parts.append("recorded as a CUDA graph")
        if self.checkpointing != "none":
            parts.append(f"{self.checkpointing} checkpointing")
        line = "Training steps: " + ", ".join(parts)
        if self.memory is not None:
            line += f"; about {self.memory.total / GIB:.1f} GiB of GPU memory"
            line += "" if self.available is None else f", {self.available / GIB:.1f} available"
        return line + "".join(f"; {reason}" for reason in self.reasons)


def choose(facts: Facts, wishes: Wishes = Wishes(), load: Workload | None = None, flags: Flags = Flags()) -> StepPlan:
    """Choose the fastest steps that the machine, the method and the user's options allow.

    Args:
        facts: What is possible.
        wishes: Options of the user.
        load: Sizes for the prediction of memory; None: no prediction.
        flags: Spelling of the options in errors.

    Raises:
        UsageError: A given option cannot be met; one line.
    """
    reasons: list[str] = []
    no_gpu = None if facts.cuda else "there is no NVIDIA GPU"
    no_triton = "Triton does not work here" if facts.cuda and not facts.triton else None

    def decide(wish: bool | None, flag: str, *obstacles: str | None, pays: str | None = None) -> bool:
        """Return the wish if there is one, else whether nothing speaks against it. pays: why it is not worth it."""
        obstacle = next((each for each in obstacles if each), None)
        if wish and obstacle:
            raise UsageError(f"{flag} is not possible: {obstacle}; leave it out")
        if wish is None and (obstacle or pays):
            reasons.append(obstacle or pays or "")
        return wish if wish is not None else not (obstacle or pays)

    fused = decide(wishes.fused, flags.fused, facts.unfusible, no_gpu, no_triton)
    enough = COMPILING_PAYS["fused" if fused else "plain"]
    few = f"compiling pays from {enough:,} steps on" if facts.steps is not None and facts.steps < enough else None
    no_compiler = "there is no C++ compiler" if not facts.cuda and not facts.cpp_compiler else None
    slow = no_gpu if wishes.compile is None else None  # on a CPU it is possible, but seldom faster
    compiled = decide(wishes.compile, flags.compile, facts.uncompilable, slow, no_triton, no_compiler, pays=few)
    record = decide(wishes.record, flags.record, facts.unrecordable, no_gpu)
    plain = None if fused else "the blocks are not fused"
    float8 = wishes.float8 and decide(
        True, flags.float8, plain, None if facts.float8 else "this GPU does not multiply FP8"
    )
    plan = StepPlan(fused, compiled, record, wishes.checkpointing or "none", float8)
    plan = replace(plan, available=facts.available, reasons=tuple(dict.fromkeys(reasons)))
    if load is None or not facts.cuda:
        return plan
    return _with_memory(plan, wishes, load)


def plan_steps(
    scenetok: SceneTok,
    run: TrainingRun,
    wishes: Wishes,
    flags: Flags,
    *,
    uncompilable: str | None = None,
    unrecordable: str | None = None,
    averaged: bool = False,
    pictures: bool = False,
) -> StepPlan:
    """Choose how training steps of a model run, and prepare its networks for it.

    Args:
        scenetok: Model, on the device for training.
        run: Sizes of the training run.
        wishes: Options that the user gave.
        flags: Spelling of the options in errors.
        uncompilable: Reason why networks of this training are not compiled; None: they can be.
        unrecordable: Reason why steps of this training are not recorded; None: they can be.
        averaged: Whether averaged weights (EMA) are kept.
        pictures: Whether autoencoders run during training, to encode photographs or to evaluate.

    Raises:
        UsageError: A given option cannot be met.
    """
    facts = facts_of(
        scenetok.device,
        steps=run.steps,
        unfusible=None if any(map(fits_kernels, scenetok.modules())) else "no block trains as a whole",
        uncompilable=uncompilable,
        unrecordable=unrecordable,
    )
    load = workload(scenetok, run, averaged=averaged, pictures=pictures)
    plan = choose(facts, wishes, load if load.networks else None, flags)
    scenetok.prepare_training(
        compiled=plan.compile, checkpointing=plan.checkpointing, fused=plan.fused, in_float8=plan.float8
    )
    return plan


def _with_memory(plan: StepPlan, wishes: Wishes, load: Workload) -> StepPlan:
    """Predict the memory, and recompute activations if it does not suffice and the user has not chosen."""

    def predicted(checkpointing: Checkpointing, of: Workload = load) -> StepPlan:
        memory = predicted_memory(of, plan.blocks, checkpointing)
        return replace(plan, checkpointing=checkpointing, memory=memory)

    choices = SAVERS if wishes.checkpointing is None else (wishes.checkpointing,)
    plans = [predicted(choice) for choice in choices]
    chosen = next((each for each in plans if each.fits), plans[-1])
    if chosen.fits:
        return chosen
    smaller = (size for size in range(load.batch - 1, 0, -1) if predicted(choices[-1], replace(load, batch=size)).fits)
    size = next(smaller, None)
    advice = "no batch fits" if size is None else f"a batch size of {size} fits"
    return replace(chosen, reasons=(*chosen.reasons, f"this may be too little: {advice}"))
