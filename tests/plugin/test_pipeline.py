"""Losses, metrics over all scenes, strict checkpoints, several processes."""

from __future__ import annotations

import copy
import json
import math
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from support.recorded_graphs import stand_in_for_graphs
from support.small_runs import FRAMES, IMAGE_SIZE, NUM_CONTEXT, PRESET, small_config, small_pipeline, write_small_re10k

from scenetok_ns.evaluation.baselines import BASELINES, nearest_view, shuffled
from scenetok_ns.models.networks import block_execution as compilation
from scenetok_ns.models.networks.block_execution import parts_of
from scenetok_ns.plugin.pipeline import SceneTokPipeline, distributed
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.training import step_plan
from scenetok_ns.training.recorded_step import RecordedStep
from scenetok_ns.training.step_plan import Facts, StepPlan


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"))


@pytest.fixture
def pipeline(data: Path) -> SceneTokPipeline:
    return small_pipeline(data)


def test_losses_and_metrics_are_scalars_on_the_device(pipeline: SceneTokPipeline) -> None:
    pipeline.train()
    _, losses, metrics = pipeline.get_train_loss_dict(0)
    assert losses["loss"].requires_grad and losses["loss"].shape == ()
    assert metrics and all(isinstance(value, torch.Tensor) and not value.requires_grad for value in metrics.values())
    _, held_out, _ = pipeline.get_eval_loss_dict(0)
    assert not held_out["loss"].requires_grad
    assert pipeline.training
    assert pipeline.get_eval_loss_dict(9)[1]["loss"] == held_out["loss"]


def test_one_evaluation_image(pipeline: SceneTokPipeline) -> None:
    metrics, images = pipeline.get_eval_image_metrics_and_images(3)
    assert metrics["num_rays"] == 32 * 32
    assert images["img"].shape == (32, 64, 3)


def test_metrics_over_all_scenes(pipeline: SceneTokPipeline, tmp_path: Path) -> None:
    metrics = pipeline.get_average_eval_image_metrics(output_path=tmp_path, get_std=True)
    assert metrics["num_views"] == 3 * (FRAMES - NUM_CONTEXT) and metrics["num_scenes"] == 3
    assert len(list(tmp_path.glob("eval_img_*.png"))) == metrics["num_views"]
    assert 0 < metrics["psnr"] < 60 and -1 <= metrics["ssim"] <= 1
    assert not any(name.endswith("_noise_tokens") for name in metrics)


def test_baselines_on_the_same_views(pipeline: SceneTokPipeline) -> None:
    pipeline.config.baselines = True
    metrics = pipeline.get_average_eval_image_metrics()
    assert {f"{metric}_{baseline}" for metric in ("psnr", "ssim") for baseline in BASELINES} <= set(metrics)
    # The scenes of this data set are the same flat colours in each frame number: the baselines are known.
    datamanager = pipeline.datamanager
    expected = []
    for number in range(3):
        context, target = datamanager.scenes.context_views(number), datamanager.scenes.target_views(number)
        mean = context.images.float().mean(dim=(0, 2, 3), keepdim=True)
        error = ((mean - target.images.float()) / 255).square().mean(dim=(1, 2, 3))
        expected.append(-10 * error.log10())
    assert metrics["psnr_mean_colour"] == pytest.approx(float(torch.cat(expected).mean()), abs=1e-3)
    assert metrics["psnr_nearest_view"] > metrics["psnr_mean_colour"]


def test_a_single_view_gives_valid_json(data: Path) -> None:
    pipeline = small_pipeline(data, eval_scenes=1, eval_targets=1)
    pipeline.config.baselines = True
    metrics = pipeline.get_average_eval_image_metrics(get_std=True)
    json.dumps(metrics, allow_nan=False)
    assert all(math.isfinite(value) for value in metrics.values() if isinstance(value, float))
    assert "psnr_other_tokens" not in metrics  # there is no other scene


def test_nearest_view_and_shuffled_tokens(pipeline: SceneTokPipeline) -> None:
    poses = torch.eye(4).repeat(5, 1, 1)
    poses[:, 0, 3] = torch.tensor([0.0, 1.0, 5.0, 0.9, 4.0])
    assert nearest_view(poses[:3], poses[3:], 1.0).tolist() == [1, 2]
    assert nearest_view(poses[:3], poses[1:3], 1.0).tolist() == [0, 1]  # not itself
    tokens = pipeline.model.renderer.tokens_of(0)
    mixed = shuffled(tokens, seed=0)
    assert torch.equal(mixed.mean.flatten().sort().values, tokens.mean.flatten().sort().values)
    assert not torch.equal(mixed.mean.sort(dim=0).values, tokens.mean.sort(dim=0).values)


# --- Checkpoints ---


def test_checkpoint_round_trip(data: Path, pipeline: SceneTokPipeline) -> None:
    other = small_pipeline(data, seed=1)
    key = next(key for key in other.state_dict() if key.endswith("w12.weight"))
    assert not torch.equal(other.state_dict()[key], pipeline.state_dict()[key])
    other.load_pipeline(pipeline.state_dict(), step=3)
    assert torch.equal(other.state_dict()[key], pipeline.state_dict()[key])


def test_checkpoint_of_several_processes_loads_in_one(data: Path, pipeline: SceneTokPipeline) -> None:
    wrapped = {key.replace("_model.", "_model.module.", 1): value for key, value in pipeline.state_dict().items()}
    small_pipeline(data, seed=1).load_pipeline(wrapped, step=0)


def spoilt(state: dict[str, Any], how: str) -> dict[str, Any]:
    key = next(key for key in state if key.endswith("w12.weight"))
    value = state[key]
    rest = {name: value for name, value in state.items() if name != key}
    return {
        "renamed": {**rest, key + "_old": value},
        "missing": rest,
        "surplus": {**state, "_model.scenetok.extra": torch.zeros(1)},
        "transposed": {**state, key: value.T},
        "preset": {**state, "_model._extra_state": {"preset": "re10k"}},
        "nonsense": {**state, "_model._extra_state": 5},
    }[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("renamed", r"1 missing: .*w12\.weight; 1 surplus: .*w12\.weight_old"),
        ("missing", r"1 missing: .*w12\.weight"),
        ("surplus", r"1 surplus: scenetok\.extra"),
        ("transposed", r"w12\.weight \[.*\] instead of \["),
        ("preset", "preset 're10k'.*--pipeline.model.preset re10k"),
        ("nonsense", "the checkpoint is of preset 5"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(
    data: Path, pipeline: SceneTokPipeline, how: str, message: str
) -> None:
    other = small_pipeline(data, seed=1)
    before = {key: value.clone() for key, value in other.state_dict().items() if isinstance(value, torch.Tensor)}
    with pytest.raises(ValueError, match=message) as caught:
        other.load_pipeline(spoilt(pipeline.state_dict(), how), step=0)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(other.state_dict()[key], value) for key, value in before.items())


def test_checkpoint_names_its_preset_and_holds_no_data_or_autoencoder(pipeline: SceneTokPipeline) -> None:
    state = pipeline.state_dict()
    assert state["_model._extra_state"] == {"preset": PRESET.stem}
    parts = {key.split(".")[2] for key in state if key.startswith("_model.scenetok.")}
    assert parts == {"compressor", "denoiser"}
    assert all(key.startswith("_model.") for key in state)


# --- Several processes ---


FROZEN_AFTER = 3


def gradients(pipeline: SceneTokPipeline, steps: range) -> dict[str, torch.Tensor]:
    """Sum over some steps."""
    pipeline.train()
    pipeline.model.zero_grad()
    for step in steps:
        pipeline.get_train_loss_dict(step)[1]["loss"].backward()
    parameters = pipeline.model.scenetok.named_parameters()
    return {name: p.grad.clone() for name, p in parameters if p.grad is not None}


def distributed_worker(rank: int, world_size: int, port: int, data: Path, folder: Path) -> None:
    """Gradients with the other process and, from the same batches and noise, without it: of a step, of two that are
    accumulated, and of one after the compressor was frozen; and of a step that is recorded as far as a CPU can."""
    address, limit = f"tcp://127.0.0.1:{port}", timedelta(minutes=3)
    dist.init_process_group("gloo", address, timeout=limit, rank=rank, world_size=world_size)
    preset = folder / f"{rank}.yaml"
    preset.write_text(PRESET.read_text() + f"  freeze_compressor_after: {FROZEN_AFTER}\n")
    found: dict[str, list[dict[str, torch.Tensor]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "BACKEND", "eager")
        for name, processes in (("together", world_size), ("alone", 1)):
            torch.manual_seed(0)
            config = small_config(data, folder, preset).pipeline
            config.model.compile = name == "together"
            pipeline = config.setup(device="cpu", test_mode="val", world_size=processes, local_rank=rank)
            pipeline.accumulation_steps = 1
            found[name] = [gradients(pipeline, range(1))]
            pipeline.accumulation_steps = 2
            found[name].append(gradients(pipeline, range(2)))
            pipeline.accumulation_steps = 1
            found[name].append(gradients(pipeline, range(FROZEN_AFTER, FROZEN_AFTER + 1)))
        stand_in_for_graphs(patch)
        patch.setattr(SceneTokPipeline, "_records", True)
        torch.manual_seed(rank)  # the first process's weights are to be everybody's
        config = small_config(data, folder, preset).pipeline
        recording = config.setup(device="cpu", test_mode="val", world_size=world_size, local_rank=rank)
        weights = {name: p.detach().clone() for name, p in recording.model.scenetok.named_parameters()}
        found["recorded"] = [gradients(recording, range(1)), weights]
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def second_worker(_: int, *arguments: Any) -> None:
    distributed_worker(1, *arguments)


def test_gradients_of_two_processes_are_the_mean_of_both(data: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (2, port, data, tmp_path)
    other = mp.start_processes(second_worker, args=arguments, nprocs=1, start_method="spawn", join=False)
    distributed_worker(0, *arguments)  # this process is the first: starting another costs ten seconds
    while not other.join():
        pass
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for part in range(3):
        together = first["together"][part]
        assert any("compressor" in name for name in together) == (part < 2), "only the last part is frozen"
        different = 0
        for name, gradient in together.items():
            torch.testing.assert_close(gradient, second["together"][part][name])
            alone = first["alone"][part][name], second["alone"][part][name]
            torch.testing.assert_close(gradient, sum(alone) / 2, rtol=1e-4, atol=1e-6)
            different += not torch.equal(*alone)
        assert different  # the ranks saw different samples
    assert first["recorded"][0].keys() == first["together"][0].keys()
    for name, gradient in first["recorded"][0].items():
        torch.testing.assert_close(gradient, first["together"][0][name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient, second["recorded"][0][name])
    for name, weight in first["recorded"][1].items():
        assert torch.equal(weight, second["recorded"][1][name])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low_vram": True, "cuda_graph": True}, "cuda-graph True .*low-vram True moves autoencoders"),
        ({"cuda_graph": True}, "cuda-graph True is not possible: there is no NVIDIA GPU; leave it out"),
        ({"fused": True}, "fused True is not possible: there is no NVIDIA GPU; leave it out"),
    ],
)
def test_speed_options_that_cannot_be_met_are_refused(
    data: Path, tmp_path: Path, fields: dict[str, bool], message: str
) -> None:
    """Only training refuses them. Other tools open runs of other machines, whatever their training options were."""
    config = small_config(data, tmp_path).pipeline
    for name, value in fields.items():
        setattr(config.model, name, value)
    with pytest.raises(UsageError, match=rf"--pipeline\.model\.{message}"):
        config.setup(device="cpu", test_mode="val")
    assert config.setup(device="cpu", test_mode="test").model.step_plan == StepPlan()


def test_what_is_chosen_is_printed_and_carried_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given the facts of a GPU, networks run as planned, the plan knows the number of steps, and predicts the peak."""
    asked: list[dict[str, Any]] = []

    def facts(device: torch.device, **given: Any) -> Facts:
        asked.append(given)
        return Facts(cuda=True, triton=True, steps=given["steps"], available=1 << 40)

    monkeypatch.setattr(step_plan, "facts_of", facts)
    config = small_config(data, tmp_path).pipeline
    config.num_steps, config.accumulates = 5, True
    pipeline = config.setup(device="cpu", test_mode="val")
    plan = pipeline.model.step_plan
    assert plan.fused and plan.record and not plan.compile and pipeline._records
    assert plan.memory is not None and asked[0]["steps"] == 5
    runners = [part.runner for part in parts_of(pipeline.model.scenetok)]
    assert any(runner is not None and runner.fused is not None for runner in runners)
    assert "Training steps: fused blocks, recorded as a CUDA graph; about" in capsys.readouterr().out
    config.accumulates = False
    without = config.setup(device="cpu", test_mode="val").model.step_plan.memory
    assert without is not None and without.optimizer == plan.memory.optimizer * 2 // 3


def test_defaults_of_earlier_versions_are_not_wishes(data: Path, tmp_path: Path) -> None:
    """Every earlier config.yml has `fused: true`, also from CPUs, which must not refuse it now."""
    config = small_config(data, tmp_path).pipeline
    state = {name: value for name, value in vars(config).items() if name != "num_steps"}
    model = config.model
    model.fused, model.compile, model.cuda_graph, model.gradient_checkpointing = True, True, False, "none"
    earlier = object.__new__(type(config))
    earlier.__setstate__(copy.deepcopy(state))
    assert (earlier.model.fused, earlier.model.compile, earlier.model.cuda_graph) == (None, True, None)
    assert earlier.model.gradient_checkpointing is None
    assert copy.deepcopy(config).model.fused is True  # given to this version


def test_a_pass_that_cannot_be_recorded_is_taken_without(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = small_pipeline(data)
    expected = gradients(pipeline, range(2))

    def fails(self: RecordedStep, *args: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(RecordedStep, "_record", fails)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(SceneTokPipeline, "_records", True)
    pipeline.accumulation_steps = 2
    found = gradients(pipeline, range(2))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("Steps are not recorded from here on") == 1
    assert "operation not permitted when stream is capturing" in printed and "more" not in printed


def test_what_waits_elsewhere_is_left_out_of_several_processes(pipeline: SceneTokPipeline, tmp_path: Path) -> None:
    """As autoencoders do with low_vram; the meta device stands for main memory here."""
    waiting = torch.nn.Parameter(torch.empty(3, device="meta"), requires_grad=False)
    pipeline.model.scenetok.register_parameter("waiting", waiting)
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = distributed(pipeline.model, torch.device("cpu"), 0)
        batch, _ = pipeline.datamanager.next_train(0)
        wrapped(batch)["loss"].backward()
    finally:
        dist.destroy_process_group()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in pipeline.model.parameters())


@pytest.mark.parametrize("test_mode", ["val", "test", "inference"])
def test_a_pipeline_changes_nothing_in_its_configuration(data: Path, tmp_path: Path, test_mode: str) -> None:
    config = small_config(data, tmp_path).pipeline
    config.model.ema_decay = 0.9
    config.model.steps = 3
    config.datamanager.preset = config.model.preset  # a copy has it, like all that is read
    before = copy.deepcopy(config)
    pipeline = config.setup(device="cpu", test_mode=test_mode)
    assert config == before and pipeline.config is config
    assert (pipeline.model.average is not None) == (test_mode == "val")
    assert pipeline.datamanager.preset == pipeline.model.preset and pipeline.datamanager.get_datapath() == data


def test_a_saved_configuration_tells_its_data_the_preset(data: Path, tmp_path: Path) -> None:
    """ns-train saves what was given, the model's preset; ns-render builds a second data manager from what it reads."""
    config = small_config(data, tmp_path)
    assert config.pipeline.datamanager.preset != config.pipeline.model.preset
    config.save_config()
    loader = yaml.Loader((config.get_base_dir() / "config.yml").read_text())  # as in the tools
    read = loader.get_single_data().pipeline.datamanager
    loader.dispose()
    assert read.preset == copy.deepcopy(config).pipeline.datamanager.preset == str(PRESET)
    assert read.setup(device="cpu", test_mode="test").preset.data.image_size == IMAGE_SIZE
