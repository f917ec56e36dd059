"""Captures forward and backward of training as one CUDA graph, so the host launches a single graph per step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.data.training_batches import TrainingBatch
from scenetok_ns.models.ops.graphs import capture, warm_up
from scenetok_ns.tools.errors import first_line
from scenetok_ns.training.loss import TrainingLoss

WARM_UP = 3
"""Number of passes before one is recorded, in which libraries choose kernels and blocks are compiled."""

MOST_RECORDINGS = 4
"""Maximum number of recordings, each of which takes seconds. After them, batches count as changing their shape."""

ALIGNMENT = 64
"""Alignment, in elements, of gradients that share one tensor. Kernels load several elements from aligned addresses."""


@dataclass(frozen=True)
class Recording:
    """A recorded pass, with the tensors that hold its input and its results."""

    shapes: tuple[torch.Size, ...]
    graph: torch.cuda.CUDAGraph
    batch: TrainingBatch
    outputs: dict[str, Tensor]
    parameters: list[nn.Parameter]
    """Parameters that received a gradient."""
    gradients: list[Tensor]
    joined: Tensor | None
    """With several processes: one tensor that contains all gradients."""


class RecordedStep:
    """Runs training passes of a module by replaying a recorded one; records again when shapes change.

    If a pass cannot be recorded, or shapes keep changing, it runs passes kernel by kernel from then on, and
    `unrecorded` says why. Processes may differ in this, because they exchange the same gradients either way.

    Everything that differs from step to step must be in tensors: the batch, and what `TrainingLoss.prepare` fills.
    Random numbers are those that the same step has without a graph, because its seed is read at each replay.

    With several processes, each records its own pass. They do not use DistributedDataParallel, which exchanges
    gradients during the backward pass. Call `average` after the pass instead: it exchanges all gradients at once.
    """

    def __init__(self, module: nn.Module, loss: TrainingLoss, on_step: Callable[[], None], processes: int = 1) -> None:
        """
        Args:
            module: Maps a batch to its outputs, of which "loss" is differentiated.
            loss: Computes the loss inside `module`; it is prepared for each step, and its generator is recorded.
            on_step: Called before each replay, which changes no Python state by itself.
            processes: Number of processes whose gradients `average` averages.
        """
        self._module, self._loss, self._on_step = module, loss, on_step
        self._processes = processes
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._recording: Recording | None = None
        self._recordings = 0
        self._in_place: Tensor | None = None
        self.unrecorded: str | None = None
        """Why passes are not recorded any more; None: they are."""

    def __call__(self, batch: TrainingBatch, *, accumulates: bool = False) -> dict[str, Tensor]:
        """Compute the module's outputs for a batch, and set the parameters' gradients.

        You may still call `backward` on the returned loss; it does nothing.

        Args:
            batch: Batch of the step.
            accumulates: Add to the gradients that the parameters have, in memory that the next pass does not overwrite.
        """
        shapes = tuple(tensor.shape for tensor in batch.tensors())
        if self.unrecorded is None and (self._recording is None or self._recording.shapes != shapes):
            self._recording = None  # its memory can be used by the next
            self._try_to_record(batch, shapes)
        recording = self._recording
        if recording is None:
            return self._take_unrecorded(batch, accumulates)
        for static, tensor in zip(recording.batch.tensors(), batch.tensors(), strict=True):
            static.copy_(tensor, non_blocking=True)
        self._loss.prepare(batch.step)
        self._on_step()
        recording.graph.replay()
        self._assign_gradients(recording.parameters, recording.gradients, recording.joined, accumulates)
        outputs = {name: value.clone() for name, value in recording.outputs.items()}
        outputs["loss"].requires_grad_()
        return outputs

    def _try_to_record(self, batch: TrainingBatch, shapes: tuple[torch.Size, ...]) -> None:
        """Record a pass, or set `unrecorded`."""
        if self._recordings == MOST_RECORDINGS:
            self.unrecorded = f"batches change their shape: {self._recordings} were recorded"
            return
        self._recordings += 1
        there = [parameter.grad for parameter in self._parameters]
        try:
            self._recording = self._record(batch, shapes)
        except RuntimeError as error:  # an operation cannot be recorded, or memory does not suffice
            self.unrecorded = first_line(error)
            for parameter, gradient in zip(self._parameters, there, strict=True):
                parameter.grad = gradient
            torch.cuda.empty_cache()

    def _take_unrecorded(self, batch: TrainingBatch, accumulates: bool) -> dict[str, Tensor]:
        """Run a pass kernel by kernel, with the same outputs and gradients as a replay."""
        there = [parameter.grad for parameter in self._parameters]
        self._clear_gradients()
        self._on_step()
        outputs = self._module(batch)
        outputs["loss"].backward()
        parameters = [parameter for parameter in self._parameters if parameter.grad is not None]
        gradients, joined = [cast(Tensor, parameter.grad) for parameter in parameters], None
        if self._processes > 1:
            joined = joined_gradients(parameters)
            parts = parts_of(joined, parameters)
            torch._foreach_copy_(parts, gradients)
            gradients = parts
        for parameter, gradient in zip(self._parameters, there, strict=True):
            parameter.grad = gradient
        self._assign_gradients(parameters, gradients, joined, accumulates)
        outputs = {name: value.detach() for name, value in outputs.items()}
        outputs["loss"].requires_grad_()
        return outputs

    def average(self) -> None:
        """Average the current gradients over all processes."""
        assert self._in_place is not None, "only passes of several processes have an average"
        if dist.get_backend() == "nccl":
            dist.all_reduce(self._in_place, op=dist.ReduceOp.AVG)
        else:
            dist.all_reduce(self._in_place)
            self._in_place /= self._processes

    def _record(self, batch: TrainingBatch, shapes: tuple[torch.Size, ...]) -> Recording:
        there = [parameter.grad for parameter in self._parameters]
        batch = batch.map(torch.clone)

        def take_pass() -> dict[str, Tensor]:
            outputs = self._module(batch)
            outputs["loss"].backward()
            return {name: value.detach() for name, value in outputs.items()}

        def take_first_pass() -> None:
            self._clear_gradients()
            take_pass()

        warm_up(take_first_pass, WARM_UP)
        parameters = [parameter for parameter in self._parameters if parameter.grad is not None]
        self._clear_gradients()
        joined = joined_gradients(parameters) if self._processes > 1 else None
        parts = [] if joined is None else parts_of(joined, parameters)
        hooks = []
        if joined is not None:
            pairs = zip(parameters, parts, strict=True)
            hooks = [parameter.register_post_accumulate_grad_hook(_move_to(part)) for parameter, part in pairs]
        graph, outputs = capture(take_pass, generators=[self._loss.generator])
        for hook in hooks:
            hook.remove()
        gradients = parts or [cast(Tensor, parameter.grad) for parameter in parameters]
        for parameter, gradient in zip(self._parameters, there, strict=True):
            parameter.grad = gradient
        return Recording(shapes, graph, batch, outputs, parameters, gradients, joined)

    def _clear_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _assign_gradients(
        self, parameters: list[nn.Parameter], gradients: list[Tensor], joined: Tensor | None, accumulates: bool
    ) -> None:
        there = [parameter.grad for parameter in parameters if parameter.grad is not None]
        adds = accumulates and len(there) == len(parameters)
        if adds and joined is None:
            torch._foreach_add_(there, gradients)
            return
        if adds and joined is not None and self._in_place is not None:
            self._in_place += joined
            return
        if accumulates and joined is None:
            gradients = [gradient.clone() for gradient in gradients]
        elif accumulates and joined is not None:
            joined = joined.clone()
            gradients = parts_of(joined, parameters)
            if adds:  # recorded again during a cycle: earlier gradients are elsewhere
                torch._foreach_add_(gradients, there)
        self._in_place = joined
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def parts_of(joined: Float[Tensor, " n"], parameters: list[nn.Parameter]) -> list[Tensor]:
    """Split `joined` into consecutive parts with the shapes of the parameters, each at a multiple of `ALIGNMENT`."""
    parts = joined.split([_room(parameter) for parameter in parameters])
    return [part[: p.numel()].view(p.shape) for part, p in zip(parts, parameters, strict=True)]


def joined_gradients(parameters: list[nn.Parameter]) -> Float[Tensor, " n"]:
    """Allocate zeros for the gradients of all parameters, which have the same dtype."""
    first = parameters[0]
    return torch.zeros(sum(map(_room, parameters)), dtype=first.dtype, device=first.device)


def _room(parameter: nn.Parameter) -> int:
    return -(-parameter.numel() // ALIGNMENT) * ALIGNMENT


def _move_to(part: Tensor) -> Callable[[Tensor], None]:
    """Create a hook that copies a parameter's new gradient into `part` and frees the gradient's own memory."""

    def move(parameter: Tensor) -> None:
        part.copy_(cast(Tensor, parameter.grad))
        parameter.grad = None

    return move
