"""scenetok-refine: what is trained and what is not, checkpoints, rendering, figures before and after, tokens out."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.scripts.train import train_loop
from support.capture_files import write_demo_capture
from support.released_files import random_state
from support.small_runs import GENERATOR, PRESET, final_state, write_small_re10k

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.cli.main import entrypoint
from scenetok_ns.data.scenes import DataError
from scenetok_ns.dataparsers.re10k_dataparser import Re10kDataParserConfig
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_weights import DepthSource, new_depth_head
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.plugin.methods import scenetok_refine
from scenetok_ns.plugin.refinement import RefineModel, RefinePipeline
from scenetok_ns.rendering import ray_outputs
from scenetok_ns.tools.run_files import run_state, save_tensors
from scenetok_ns.viewer.shown_scene import ShownScene

STEPS = 6


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture, the checkpoint of some networks, and a run that refined the one with the other."""
    folder = tmp_path_factory.mktemp("refinement")
    write_demo_capture(folder / "attic", size=36)
    state = {key: 0.1 * value for key, value in random_state(load_preset(str(PRESET))).items()}
    save_tensors(folder / "step-000000000.ckpt", run_state(state, "tiny_preset"))
    train_loop(0, 1, config(folder))
    return folder


def config(folder: Path, **model: Any) -> TrainerConfig:
    made = copy.deepcopy(scenetok_refine.config)
    made.output_dir, made.experiment_name, made.timestamp = folder, "small", "run"
    made.machine.device_type, made.max_num_iterations = "cpu", STEPS
    made.pipeline.datamanager.data = folder / "attic"
    for name, value in {"preset": str(PRESET), "tokenizer": folder / "step-000000000.ckpt", **model}.items():
        setattr(made.pipeline.model, name, value)
    return made


def pipeline(folder: Path, trained: bool = True) -> RefinePipeline:
    made = config(folder)
    found = made.pipeline.setup(device="cpu", test_mode="test")
    if trained:
        found.load_pipeline(final_state(made, STEPS - 1)["pipeline"], STEPS - 1)
    return found.eval()


def test_only_tokens_and_adapters_are_trained(workplace: Path) -> None:
    state = final_state(config(workplace), STEPS - 1)["pipeline"]
    frozen = torch.load(workplace / "step-000000000.ckpt", weights_only=True)["pipeline"]
    networks = [key for key in frozen if key.startswith("_model.scenetok.")]
    assert networks and all(torch.equal(state[key], frozen[key]) for key in networks)
    assert (state["_model.tokens"] - state["_model.start_tokens"]).abs().mean() > 1e-3
    ups = [value for key, value in state.items() if ".adapters.up." in key]
    assert len(ups) > 8 and all(value.abs().max() > 0 for value in ups)


def test_a_refinement_reports_its_start_and_its_evaluations(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = config(workplace)
    made.output_dir, made.max_num_iterations, made.steps_per_eval_all_images = tmp_path, 3, 2
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        train_loop(0, 1, made)
    said = " ".join(capsys.readouterr().out.split())
    assert "Starting a new refinement" in said and "No checkpoint" not in said and "Training steps:" not in said
    assert re.search(r"Step 2: PSNR on \d+ photographs?: \d+\.\d\d dB; before refining \d+\.\d\d dB", said)
    assert not [one for one in found if "requires_grad" in str(one.message) or "GradScaler" in str(one.message)]


def test_training_lowers_the_loss_and_begins_at_the_encoding(workplace: Path) -> None:
    before, after = (pipeline(workplace, trained=trained) for trained in (False, True))
    before.model.initialize_training_state()
    assert torch.equal(before.model.start_tokens, after.model.start_tokens)
    views, scale = after.datamanager.scenes.context_views(0), after.datamanager.scenes.pose_scale(0)
    encoded = after.model.renderer.encode_views(views, "attic", scale)
    torch.testing.assert_close(encoded.mean, after.model.start_tokens)
    torch.testing.assert_close(encoded.reference_c2w, after.model.renderer.tokens_of(0).reference_c2w)
    assert float(after.model.scene_scale) == pytest.approx(scale)
    losses = [found.get_eval_loss_dict(0)[1]["loss"] for found in (before, after)]
    assert losses[1] < losses[0]


def test_clips_follow_from_seed_and_step_and_hold_no_view_of_the_evaluation(workplace: Path) -> None:
    first, second = (pipeline(workplace, trained=False).datamanager for _ in range(2))
    batches = [first.next_train(step)[0] for step in range(3)]
    assert torch.equal(batches[2].target.images, second.next_train(2)[0].target.images)
    assert not torch.equal(batches[1].target.images, batches[2].target.images)
    held_out = first.scenes.target_views(0).c2w
    held_out[:, :3, 3] *= first.scenes.pose_scale(0)
    for batch in batches:
        assert batch.target.images.shape == (4, 8, 3, 32, 32)
        poses = batch.target.c2w.flatten(0, 1)
        assert (poses[:, None] - held_out).abs().amax(dim=(2, 3)).min() > 1e-3


def test_exporters_get_the_refined_scene(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pipeline(workplace)
    manager, networks = found.datamanager, found.model.scenetok
    monkeypatch.setattr(networks, "depth", DepthSource(new_depth_head(networks.preset, networks.denoiser).eval()))
    monkeypatch.setattr(ray_outputs, "LEAST", 0.0)
    monkeypatch.setattr(manager.train_pixel_sampler, "num_rays_per_batch", 40)
    outputs = found.model(manager.next_train(0)[0])
    assert outputs["rgb"].shape == (40, 3) and outputs["depth"].shape == (40, 1)


def test_pictures_are_those_of_tokens_and_merged_adapters(workplace: Path) -> None:
    found = pipeline(workplace)
    model = found.model
    assert isinstance(model, RefineModel)
    target = found.datamanager.scenes.target_views(0)
    cameras = CameraBatch(target.c2w[None], target.intrinsics[None])
    seen = model.renderer.render(model.renderer.tokens_of(0), cameras)
    model.adapters.enabled = True
    with torch.no_grad():
        added = model.scenetok.render(
            model.renderer.tokens_of(0), cameras, seed=0, sampler=model.renderer.settings.sampler
        )
    torch.testing.assert_close(seen, added, atol=1e-4, rtol=1e-4)
    before = model.renderer.render_unrefined(0, cameras)
    encoded = model.renderer.encode_views(
        found.datamanager.scenes.context_views(0), "attic", found.datamanager.scenes.pose_scale(0)
    )
    plain = model.scenetok.render(encoded, cameras, seed=0, sampler=model.renderer.settings.sampler)
    torch.testing.assert_close(before, plain, atol=1e-5, rtol=1e-5)
    assert (seen - before).abs().max() > 1e-3
    metrics = found.get_average_eval_image_metrics()
    error = (before.clamp(0, 1) - target.images.float() / 255).square().mean(dim=(1, 2, 3))
    assert metrics["psnr_before"] == pytest.approx(float(-10 * error.log10().mean()), abs=0.05)
    assert metrics["psnr"] != metrics["psnr_before"] and metrics["num_views"] == 2
    gain = re.fullmatch(r"PSNR on 2 held-out photographs: (.*) dB before refining, (.*) dB after", model.gain())
    expected = metrics["psnr_before"], metrics["psnr"]
    assert gain is not None and tuple(map(float, gain.groups())) == pytest.approx(expected, abs=0.06)


def test_training_drops_the_merged_networks_and_their_engine(workplace: Path) -> None:
    model = pipeline(workplace).model
    assert isinstance(model, RefineModel)
    merged = model.renderer.networks
    options = EngineOptions.for_device(torch.device("cpu"))
    model.scenetok.engine_options = merged.engine_options = options
    assert not model.scenetok.low_vram and merged.eval().engine_for(None) is not None
    model.begin_training()
    assert model._merged is None and model.eval().renderer.networks.engine_for(None) is None


def test_the_viewer_shows_the_refined_scene_with_its_adapters(workplace: Path) -> None:
    found = pipeline(workplace)
    scene = ShownScene(found.model.renderer)
    shown = scene.current()
    with pytest.raises(DataError, match="this run has refined tokens"):
        scene.give(torch.tensor([0, 1]))
    assert torch.equal(shown.tokens.mean, found.model.tokens)
    assert shown.networks is found.model.renderer.networks and shown.networks is not found.model.scenetok
    before = found.model.renderer.fingerprint
    with torch.no_grad():
        found.model.tokens += 1
    assert found.model.renderer.fingerprint != before  # what an evaluation must not mix


def test_tokens_that_need_adapters_say_which_run_renders_them(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = config(workplace)
    made.save_config()
    run, tokens = made.get_base_dir(), tmp_path / "refined.safetensors"
    entrypoint(["encode", "--run", str(run), "--output", str(tokens), "--no-run-folder"])
    told = capsys.readouterr().err
    assert "adapters that these tokens were refined with are in the run" in told
    command = f"scenetok render --run {run} --tokens {tokens} --output RENDERS"
    assert command in told
    words = command.replace("RENDERS", str(tmp_path / "out")).split()[1:]
    entrypoint([*words, "--frames", "2", "--formats", "png", "--steps", "1"])
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2


def test_tokens_alone_can_be_refined_and_any_run_renders_them(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = config(workplace, adapter_rank=0)
    made.output_dir = tmp_path
    made.save_config()  # as ns-train does
    train_loop(0, 1, made)
    assert "PSNR on 2 held-out photographs" in capsys.readouterr().out
    run = made.get_base_dir()
    entrypoint(["encode", "--run", str(run), "--output", str(tmp_path / "refined.safetensors")])
    assert "adapters" not in capsys.readouterr().err
    tokens = SceneTokens.load(tmp_path / "refined.safetensors")
    state = final_state(made, STEPS - 1)["pipeline"]
    assert torch.equal(tokens.mean, state["_model.tokens"]) and len(tokens.sources) == 3
    assert not any("adapters" in key for key in state)
    shown = read_run(tmp_path / "refined")
    assert shown.data == tmp_path / "refined.safetensors"
    words = ["--path", "dolly", "--frames", "4", "--formats", "png", "--steps", "1"]
    entrypoint(["render", "--run", str(tmp_path / "refined"), "--output", str(tmp_path / "out"), *words])
    assert len(list((tmp_path / "out" / "attic").glob("*.png"))) == 4
    with pytest.raises(SystemExit, match=r"this run holds the refined tokens of .*attic: leave out --data, "):
        entrypoint(["new-run", str(run), "--data", str(workplace / "attic"), "--output", str(tmp_path / "new")])
    expected = rf"--run: expected a run that encodes captures, .*; {run} holds the refined tokens of .*attic, which "
    with pytest.raises(SystemExit, match=expected):
        entrypoint(["capture", str(tmp_path), "--output", str(tmp_path / "new"), "--open", "--run", str(run)])


def test_what_is_refused(workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keeps no EMA weights"):
        config(workplace, ema_decay=0.9).pipeline.setup(device="cpu", test_mode="val")
    with pytest.raises(
        ValueError,
        match=r"cuda-graph True is not possible: scenetok-refine records no steps; leave it",
    ):
        config(workplace, cuda_graph=True).pipeline.setup(device="cpu", test_mode="val")
    with pytest.raises(ValueError, match=r"compile True is not possible: adapters are not compiled"):
        config(workplace, compile=True).pipeline.setup(device="cpu", test_mode="val")
    with pytest.raises(ValueError, match="preset tiny_scenegen generates scenes"):
        config(workplace, preset=str(GENERATOR)).pipeline.setup(device="cpu", test_mode="val")
    many = config(workplace)
    many.pipeline.datamanager.data = write_small_re10k(tmp_path)
    many.pipeline.datamanager.dataparser = Re10kDataParserConfig()
    found = many.pipeline.setup(device="cpu", test_mode="val")
    with pytest.raises(DataError, match="refines the tokens of one capture: name its dataparser"):
        found.datamanager.next_train(0)
