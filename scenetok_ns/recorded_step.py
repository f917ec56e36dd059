"""Forward and backward pass of training as one CUDA graph: the host launches it at once, not thousands of kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scenetok_ns.data.training_batches import TrainingBatch

if TYPE_CHECKING:
    from scenetok_ns.scenetok_model import SceneTokModel

WARM_UP = 3
"""Passes before one is recorded, in which libraries choose kernels and blocks are compiled."""


@dataclass(frozen=True)
class Recording:
    """A recorded pass, where its input has to be put, and where its results are."""

    shapes: tuple[torch.Size, ...]
    graph: torch.cuda.CUDAGraph
    batch: TrainingBatch
    outputs: dict[str, Tensor]
    gradients: list[tuple[nn.Parameter, Tensor]]


class RecordedStep:
    """Takes training passes of a model by replaying a recorded one; it is recorded anew when shapes change.

    All that differs from step to step must be in tensors: the batch, and what `TrainingLoss.prepare` fills.
    Random numbers are those that the same step has without a graph, because its seed is read at each replay.
    """

    def __init__(self, model: SceneTokModel) -> None:
        self._model = model
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._recording: Recording | None = None

    def __call__(self, batch: TrainingBatch, *, accumulates: bool = False) -> dict[str, Tensor]:
        """Outputs of the model for a batch; the gradients of its loss are in place afterwards.

        `backward` can still be called on the loss, and then does nothing. accumulates: gradients are added to those
        that are there, and outlast the next pass.
        """
        shapes = tuple(tensor.shape for tensor in batch.tensors())
        if self._recording is None or self._recording.shapes != shapes:
            self._recording = None  # its memory can be used by the next
            self._recording = self._record(batch, shapes)
        recording = self._recording
        for static, tensor in zip(recording.batch.tensors(), batch.tensors(), strict=True):
            static.copy_(tensor, non_blocking=True)
        self._model.training_loss.prepare(batch.step)
        self._model.forget()
        recording.graph.replay()
        self._hand_out(recording.gradients, accumulates)
        outputs = {name: value.clone() for name, value in recording.outputs.items()}
        outputs["loss"].requires_grad_()
        return outputs

    def _record(self, batch: TrainingBatch, shapes: tuple[torch.Size, ...]) -> Recording:
        there = [parameter.grad for parameter in self._parameters]
        batch = batch.map(torch.clone)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._clear_gradients()
                self._model(batch)["loss"].backward()
        torch.cuda.current_stream().wait_stream(stream)
        self._clear_gradients()
        # Nerfstudio's trainer has an autocast around each step, which keeps the weights that the passes above cast: the
        # recorded pass must cast them itself, or it goes on with those of this step. Nor may others use its copies.
        torch.clear_autocast_cache()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._model.training_loss.generator)
        # thread_local: threads that load data may use CUDA meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = self._model(batch)
            outputs["loss"].backward()
        torch.clear_autocast_cache()
        outputs = {name: value.detach() for name, value in outputs.items()}
        gradients = [(p, p.grad) for p in self._parameters if p.grad is not None]
        for parameter, gradient in zip(self._parameters, there, strict=True):
            parameter.grad = gradient
        return Recording(shapes, graph, batch, outputs, gradients)

    def _clear_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    @staticmethod
    def _hand_out(gradients: list[tuple[nn.Parameter, Tensor]], accumulates: bool) -> None:
        if not accumulates:
            for parameter, gradient in gradients:
                parameter.grad = gradient
        elif any(parameter.grad is None for parameter, _ in gradients):
            for parameter, gradient in gradients:
                parameter.grad = gradient.clone()
        else:
            torch._foreach_add_([parameter.grad for parameter, _ in gradients], [gradient for _, gradient in gradients])
