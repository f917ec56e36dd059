"""scenetok-depth: only the head learns, from depth in the data or from photographs; runs and files can be used."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.scripts.train import train_loop
from support.released_files import random_state
from support.scene_files import example, write_re10k
from support.small_runs import FRAMES, PRESET, final_state, small_config, write_small_re10k

from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.weight_files import CheckpointError
from scenetok_ns.plugin.depth_training import HEAD_FILE, DepthPipeline
from scenetok_ns.plugin.methods import scenetok_depth
from scenetok_ns.tools.run_files import run_state, save_tensors
from scenetok_ns.training import depth as training

STEPS, MILLIMETRES = 6, 1500


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with depth, scenes without, the checkpoint of some networks, and a head that was trained for them."""
    folder = tmp_path_factory.mktemp("depth")
    for split in ("train", "test"):
        scenes = [example(f"{split}{i}", FRAMES, size=(36, 64)) for i in range(2)]
        for scene in scenes:
            scene["depths"] = torch.full((FRAMES, 36, 64), MILLIMETRES, dtype=torch.int16)
            scene["depths"][:, :18] = 0  # not known
        write_re10k(folder / "rooms" / split, [scenes])
    write_small_re10k(folder / "photographs")
    state = {key: 0.1 * value for key, value in random_state(load_preset(str(PRESET))).items()}
    save_tensors(folder / "step-000000000.ckpt", run_state(state, "tiny_preset"))
    train_loop(0, 1, config(folder))
    return folder


def config(folder: Path, data: str = "rooms", **model: Any) -> TrainerConfig:
    made = copy.deepcopy(scenetok_depth.config)
    made.output_dir, made.experiment_name, made.timestamp = folder, "small", "run"
    made.machine.device_type, made.max_num_iterations = "cpu", STEPS
    made.pipeline.datamanager.data, made.pipeline.datamanager.num_workers = folder / data, 0
    made.pipeline.datamanager.batch_size = 2
    for name, value in {"preset": str(PRESET), "tokenizer": folder / "step-000000000.ckpt", **model}.items():
        setattr(made.pipeline.model, name, value)
    return made


def pipeline(folder: Path, data: str = "rooms", **model: Any) -> DepthPipeline:
    found = config(folder, data, **model).pipeline.setup(device="cpu", test_mode="val")
    found.model.initialize_training_state()
    return found


def test_the_head_learns_the_depth_of_the_data_and_nothing_else_changes(workplace: Path) -> None:
    made = pipeline(workplace)
    before = {name: value.clone() for name, value in made.model.scenetok.state_dict().items()}
    optimizer = torch.optim.Adam(made.model.get_param_groups()["depth_head"], lr=1e-2)
    losses = []
    for step in range(18):
        loss = made.get_train_loss_dict(step)[1]["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 1
    after = made.model.scenetok.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    made.eval()
    renderer = made.model.renderer
    _, maps = renderer.render_with_depth(renderer.tokens_of(0), _cameras(renderer, 0))
    # All is 1.5 metres away; the upper half says nothing else.
    assert (maps.depth / (MILLIMETRES / 1000) - 1).abs().median() < 0.15 and maps.confidence.mean() > 0.4


def _cameras(renderer: Any, scene: int) -> Any:
    from scenetok_ns.models.cameras import CameraBatch

    views = renderer.scenes.target_views(scene)
    return CameraBatch(views.c2w[None], views.intrinsics[None])


def test_photographs_alone_give_gradients_to_the_head(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SURE", 0.0)  # the small data set's pictures say little about depth
    made = pipeline(workplace, "photographs")
    batch, _ = made.datamanager.next_train(0)
    assert batch.target.depths is None
    made.model(batch)["loss"].backward()
    gradients = [p.grad for p in made.model.depth_head.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert made.model.depth_head.last.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert all(p.grad is None for p in made.model.scenetok.parameters())


def test_which_supervision_is_used_can_be_said(workplace: Path) -> None:
    with pytest.raises(DataError, match="supervision depth needs depth in the data"):
        made = pipeline(workplace, "photographs", supervision="depth")
        made.model(made.datamanager.next_train(0)[0])
    with_depth, without = (pipeline(workplace, supervision=one) for one in ("auto", "photographs"))
    batch, _ = with_depth.datamanager.next_train(0)
    assert batch.target.depths is not None
    assert float(with_depth.model(batch)["loss"]) != pytest.approx(float(without.model(batch)["loss"]))


def test_a_run_keeps_its_head_and_writes_it_as_a_file_for_the_same_networks(workplace: Path, tmp_path: Path) -> None:
    made = config(workplace)
    state = final_state(made, STEPS - 1)["pipeline"]
    assert any(key.startswith("_model.depth_head.") for key in state)
    found = made.pipeline.setup(device="cpu", test_mode="test")
    found.load_pipeline(state, STEPS - 1)
    head = found.model.scenetok.depth_head()
    assert head is found.model.depth_head
    file = made.get_base_dir() / HEAD_FILE
    other = small_config(workplace / "photographs", tmp_path).pipeline
    other.model.depth_weights = file
    tools = other.setup(device="cpu", test_mode="test")
    with pytest.raises(CheckpointError, match="trained on other weights"):
        tools.model.scenetok.depth_head()
    tools.model.scenetok.load_state_dict(found.model.scenetok.state_dict())
    again = tools.model.scenetok.depth_head()
    torch.testing.assert_close(again.leave.weight, head.leave.weight, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ema_decay": 0.9}, "scenetok-depth takes neither"),
        ({"initial_weights": Path("x")}, "scenetok-depth takes neither"),
        ({"cuda_graph": True}, "cuda-graph True is not possible: scenetok-depth records no steps"),
        ({"compile": True}, "compile True is not possible: scenetok-depth trains only a small head"),
        ({"fused": True}, "fused True is not possible: no block trains as a whole"),
    ],
)
def test_what_has_no_meaning_is_refused(workplace: Path, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(workplace, **wrong)
