"""Training on a CUDA device: no step waits for it, recorded steps equal plain ones, aligned feed-forwards are exact,
picture losses can be recorded."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_runs import PRESET, small_config, write_small_re10k
from torch import Tensor

from scenetok_ns.models.networks import layers
from scenetok_ns.models.networks.layers import SwiGLU
from scenetok_ns.models.ops.graphs import capture
from scenetok_ns.plugin.trainer import SceneTokTrainer
from scenetok_ns.training.picture_losses import codec_loss, contrast_loss, pixel_loss, stripe_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"))


@contextmanager
def no_waiting() -> Iterator[None]:
    """Any operation that makes the host wait for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def trainer_of(data: Path, output: Path, preset: Path = PRESET, **fields: Any) -> SceneTokTrainer:
    config = small_config(data, output, preset, vis="tensorboard")
    config.machine.device_type = "cuda"
    config.gradient_accumulation_steps = {"networks": fields.pop("accumulation", 1)}
    for name, value in fields.items():
        setattr(config.pipeline.model, name, value)
    torch.manual_seed(0)
    trainer = config.setup()
    trainer.setup()
    trainer.pipeline.train()
    return trainer


@pytest.mark.parametrize(
    "fields",
    [
        {},  # what is chosen
        {"cuda_graph": False},
        {"fused": False, "cuda_graph": False},
        {"ema_decay": 0.9},
        {"fused": False, "cuda_graph": True},
        {"fused": False, "compile": True, "cuda_graph": False},
        {"cuda_graph": True, "gradient_checkpointing": "selective"},
    ],
)
def test_no_step_waits_for_the_device(data: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    trainer = trainer_of(data, tmp_path, **fields)
    for step in range(2):
        trainer.train_iteration(step)
    with no_waiting():
        for step in range(2, 5):
            trainer.train_iteration(step)


@pytest.mark.parametrize(("accumulation", "fused"), [(1, False), (3, False), (1, True)])
def test_recorded_steps_are_the_same_steps(data: Path, tmp_path: Path, accumulation: int, fused: bool) -> None:
    """Over a schedule of the KL weight, and past the step at which the compressor freezes. fused: recorded on fused
    blocks, against plain ones."""
    preset = tmp_path / "preset.yaml"
    recipe = PRESET.read_text().replace("kl_weights: [0.0, 0.0]", "kl_weights: [0.1, 0.5]\n  kl_schedule: [1, 4]")
    preset.write_text(recipe + "  freeze_compressor_after: 6\n")
    ends = []
    for recorded in (False, True):
        fields = {"cuda_graph": recorded, "fused": fused and recorded, "accumulation": accumulation}
        trainer = trainer_of(data, tmp_path / str(recorded), preset, **fields)
        losses = []
        for step in range(9):
            loss, _, metrics = trainer.train_iteration(step)
            losses.append(torch.stack([loss.detach(), metrics["flow"], metrics["kl"]]))
        ends.append((torch.stack(losses), copy.deepcopy(trainer.pipeline.model.scenetok.state_dict())))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=2e-2, atol=1e-4)
    for name, weight in ends[0][1].items():
        plain, other = without_key_biases(name, weight), without_key_biases(name, ends[1][1][name])
        # AdamW moves all by some 4e-3 in these steps; where gradients are small, rounding decides the direction.
        assert (plain - other).norm() <= 1e-3 * plain.numel() ** 0.5, name


def without_key_biases(name: str, weight: Tensor) -> Tensor:
    """They shift all scores of a query alike, so their gradient is rounding alone, which AdamW makes steps of."""
    if name.endswith("qkv.bias"):
        queries, _, values = weight.chunk(3)
        return torch.cat([queries, values])
    return weight[:0] if name.endswith("to_k.bias") else weight


def test_a_batch_of_another_size_is_recorded_anew(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path, cuda_graph=True)
    pipeline = trainer.pipeline
    batch, _ = pipeline.datamanager.next_train(0)
    small = replace(batch.map(lambda tensor: tensor[:1].clone()), scenes=batch.scenes[:1])
    for given in (batch, small, batch):
        loss = pipeline._training_pass(given)["loss"]
        torch.testing.assert_close(loss, pipeline.model(given)["loss"], rtol=1e-2, atol=1e-4)


def test_aligned_feed_forward_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = SwiGLU(1024, 4.0).cuda()
    x = torch.randn(2, 8, 1024, device="cuda")
    with torch.no_grad():
        aligned = layer(x)
        monkeypatch.setattr(layers, "FEED_FORWARD_MULTIPLE", 1)
        torch.testing.assert_close(aligned, layer(x), rtol=1e-5, atol=1e-5)


def take_steps(rank: int, port: int, data: Path, folder: Path) -> None:
    """Losses of some steps with the other process, of which gradients of every two are accumulated; recorded or not."""
    torch.cuda.set_device(rank)
    device = torch.device("cuda", rank)
    url = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("nccl", url, rank=rank, world_size=2, device_id=device)
    found = []
    for recorded in (False, True):
        config = small_config(data, folder, PRESET).pipeline
        config.model.cuda_graph, config.model.compile = recorded, False
        torch.manual_seed(rank if recorded else 0)  # the first process's weights are everybody's
        pipeline = config.setup(device=str(device), test_mode="val", world_size=2, local_rank=rank)
        pipeline.accumulation_steps = 2
        pipeline.train()
        parameters = [parameter for parameter in pipeline.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, 0.1)
        losses = []
        for step in range(6):
            loss = pipeline.get_train_loss_dict(step)[1]["loss"]
            loss.backward()
            losses.append(loss.detach())
            if step % 2:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        found.append([torch.stack(losses).cpu(), *(parameter.detach().cpu() for parameter in parameters)])
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_recorded_steps_of_two_devices_are_those_of_distributed_data_parallel(data: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(take_steps, args=(port, data, tmp_path), nprocs=2, start_method="spawn")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for plain, recorded in ranks:
        for one, other in zip(plain, recorded, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)
    assert all(torch.equal(one, other) for one, other in zip(ranks[0][1][1:], ranks[1][1][1:], strict=True))
    assert not torch.equal(ranks[0][1][0], ranks[1][1][0])  # they saw different samples


@pytest.mark.parametrize("loss", [stripe_loss, contrast_loss, pixel_loss, codec_loss])
def test_picture_losses_can_be_recorded(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """A recorded step cannot copy a table from the host: the graph's gradient equals the plain one, on new pictures."""
    generator = torch.Generator().manual_seed(0)
    made, true, other = torch.rand(3, 2, 3, 64, 64, generator=generator).cuda()
    shown = made.clone().requires_grad_()

    def gradient(pictures: Tensor) -> Tensor:
        return torch.autograd.grad(loss(pictures, true), pictures)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        gradient(shown)
    torch.cuda.current_stream().wait_stream(side)
    graph, found = capture(lambda: gradient(shown))
    for pictures in (made, other):
        shown.data.copy_(pictures)
        graph.replay()
        torch.testing.assert_close(found, gradient(pictures.clone().requires_grad_()), rtol=1e-3, atol=1e-6)
