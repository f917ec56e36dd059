"""`scenetok evaluate`, `scenetok report` and `scenetok eval-index` from the command line."""

from __future__ import annotations

import csv
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.forks import forked, one_thread
from support.small_runs import FRAMES, GENERATOR, NUM_CONTEXT, small_config, small_pipeline, write_small_re10k

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.cli.evaluate import _Session, evaluate
from scenetok_ns.cli.main import entrypoint
from scenetok_ns.cli.new_run import new_run
from scenetok_ns.data.scenes import DataError
from scenetok_ns.evaluation.options import EvaluationOptions, SweepOptions
from scenetok_ns.evaluation.sweeps import Variant
from scenetok_ns.tools.digests import sha256_of
from scenetok_ns.tools.run_files import save_tensors

TARGETS = FRAMES - NUM_CONTEXT
QUICK = EvaluationOptions(metrics=())
TIMES = ("seconds", "fps", "num_rays_per_sec")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder like those of ns-train, with random weights."""
    config = small_config(data, tmp_path_factory.mktemp("runs"))
    config.get_checkpoint_dir().mkdir(parents=True)
    config.save_config()
    save_tensors(config.get_checkpoint_dir() / "step-000000000.ckpt", small_pipeline(data).state_dict())
    return config.get_base_dir()


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())


def test_one_evaluation(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(run, tmp_path / "out", num_scenes=2, steps=1, seed=3, measure=QUICK)
    found = read(tmp_path / "out")
    assert found["results"]["num_views"] == 2 * TARGETS
    assert found["protocol"]["sampler"]["steps"] == 1 and found["protocol"]["sampler"]["seed"] == 3
    assert found["protocol"]["data"]["scenes"] == ["test0", "test1"]
    assert "psnr" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "seed=3" / "pictures" / "test1").glob("pred_*.jpg"))) == TARGETS
    assert not (tmp_path / "out" / "sweep.csv").exists()
    # The same command again ends at once, with the same figures.
    evaluate(run, tmp_path / "out", num_scenes=2, steps=1, seed=3, measure=QUICK)
    assert read(tmp_path / "out") == found


def test_a_distance_of_few_samples_is_noted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = EvaluationOptions(metrics=("stlpips",))
    evaluate(run, tmp_path / "out", num_scenes=1, steps=1, measure=options, pictures=False)
    assert read(tmp_path / "out")["few_samples"]["frechet_stlpips_alex"] == 256
    said = "".join(capsys.readouterr())
    assert f"frechet_stlpips_alex is unreliable: {TARGETS} samples are fewer than its 256 features" in said


def test_a_sweep_with_seeds_gives_table_and_plot(run: Path, tmp_path: Path) -> None:
    sweep = SweepOptions(sweep_steps=(1, 2), sweep_solver=("euler", "multistep"))
    evaluate(run, tmp_path / "out", scenes=("test2",), seeds=2, sweep=sweep, measure=QUICK, pictures=False)
    rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").open()))
    assert [(row["steps"], row["solver"]) for row in rows] == [
        ("1", "euler"), ("1", "multistep"), ("2", "euler"), ("2", "multistep"),
    ]  # fmt: skip
    assert all(row["seeds"] == "2" and float(row["psnr_over_seeds"]) > 0 for row in rows)
    found = read(tmp_path / "out")
    both = [v["results"]["psnr"] for v in found["variants"] if v["axes"] == {"steps": 2, "solver": "euler"}]
    assert float(rows[2]["psnr"]) == pytest.approx(sum(both) / 2) and both[0] != both[1]
    image = Image.open(tmp_path / "out" / "sweep.png")
    assert image.width > 800 and len(image.convert("RGB").getcolors(1 << 20)) > 20
    assert not list((tmp_path / "out").rglob("*.jpg"))


def test_context_and_token_sweeps_reach_the_scenes(run: Path, tmp_path: Path) -> None:
    sweep = SweepOptions(sweep_context=(1, 3), sweep_tokens=(2, 8), sweep_order=("reversed",))
    evaluate(run, tmp_path / "out", num_scenes=1, sweep=sweep, measure=QUICK, pictures=False)
    found = {v["folder"]: read(tmp_path / "out" / v["folder"]) for v in read(tmp_path / "out")["variants"]}
    assert len(found) == 4
    one = found["context=1-order=reversed-tokens=2-seed=0"]
    assert len(one["per_scene"]["test0"]["context"]) == 1 and one["protocol"]["tokens"]["number"] == 2
    context = found["context=3-order=reversed-tokens=8-seed=0"]["per_scene"]["test0"]["context"]
    assert len(context) == 3 and context == sorted(context, reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scenes", "tset1"], r"no scene 'tset1' \(did you mean test1\?\) in the test split of .*; it has test0, "),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--sweep-steps", "0"], "--sweep-steps must be at least 1"),
        (["--sweep-tokens", "99"], "99 tokens were asked for, the scenes have 8"),
        (["--num-condition", "1"], "--num-condition"),
        (["--fvd-frames", "1"], "--fvd-frames must be at least 2, got 1"),
        (["--batch-scenes", "0"], "--batch-scenes must be at least 1"),
        (["--index", "{tmp}/none.json"], "there is no evaluation index"),
        (["--data", "{tmp}/none"], "no data at"),
    ],
)
def test_bad_input_is_one_line(options: list[str], message: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message) as stop:
        words = [option.format(tmp=tmp_path) for option in options]
        entrypoint(["evaluate", str(run), "--output", str(tmp_path / "out"), "--metrics", "stlpips", *words])
    assert "\n" not in str(stop.value)
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_an_index_says_which_scenes_and_views(run: Path, data: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"test1": {"context": [0, 4, 8], "target": [2, 3, 4, 5, 6]}}))
    evaluate(run, tmp_path / "out", index=index, measure=QUICK, pictures=False)
    found = read(tmp_path / "out")
    assert found["per_scene"]["test1"]["frames"] == [2, 3, 4, 5, 6] and len(found["per_scene"]) == 1
    assert found["protocol"]["data"]["index"] == {"file": "index.json", "sha256": sha256_of(index)}
    with pytest.raises(DataError, match=r"4 context views were asked for, .*index\.json has 3"):
        evaluate(run, tmp_path / "more", index=index, sweep=SweepOptions(sweep_context=(2, 4)), measure=QUICK)
    # The stock ns-eval gets the index from a run folder.
    new_run(run, tmp_path / "opened", index=index, engine="off")
    assert read_run(tmp_path / "opened").pipeline.datamanager.dataparser.eval_index == index.absolute()
    assert read_run(tmp_path / "opened").pipeline.model.engine == "off"
    entries = {"test1": {"context": [0, 4, 8], "target": [2]}, "test2": {"context": [0, 4, 8], "target": [200]}}
    index.write_text(json.dumps(entries | {f"other{i}": entries["test1"] for i in range(136)}))
    evaluate(run, tmp_path / "part", index=index, measure=QUICK, pictures=False)
    found = read(tmp_path / "part")  # the index also names scenes and frames that do not exist
    assert list(found["per_scene"]) == ["test1"] and len(found["skipped"]) == 137
    assert found["skipped"]["test2"] == f"index.json asks for frame 200, but it has {FRAMES} frames (0 to {FRAMES - 1})"
    assert found["skipped"]["other135"] == "not in the data set, though index.json names it"
    index.write_text(json.dumps({"other": {"context": [0], "target": [2]}}))
    with pytest.raises(DataError, match="names 1 scenes, none of which the data set has"):
        new_run(run, tmp_path / "wrong", index=index)
    assert not (tmp_path / "wrong").exists()


def test_a_generator_has_no_order_of_views_to_sweep(data: Path, tmp_path: Path) -> None:
    config = small_config(data, tmp_path, GENERATOR)
    config.pipeline.model.scene_seed = 7
    config.get_checkpoint_dir().mkdir(parents=True)
    config.save_config()
    state = small_pipeline(data, preset=GENERATOR).state_dict()
    save_tensors(config.get_checkpoint_dir() / "step-000000000.ckpt", state)
    sweep = SweepOptions(sweep_order=("reversed",))
    with pytest.raises(ValueError, match="--sweep-order only works with runs that encode scenes"):
        evaluate(config.get_base_dir(), tmp_path / "out", sweep=sweep, measure=QUICK)
    evaluate(config.get_base_dir(), tmp_path / "out", num_scenes=1, seeds=2, measure=QUICK, pictures=False)
    first, second = read(tmp_path / "out")["variants"]
    assert first["results"]["psnr"] != second["results"]["psnr"]
    folders = [read(tmp_path / "out" / variant["folder"]) for variant in (first, second)]
    assert [folder["protocol"]["scene_sampler"]["seed"] for folder in folders] == [7, 8]  # counted from the run's seed


def test_requests_that_cannot_be_met_are_refused_before_any_work(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("scenetok_ns.plugin.run_folder.DerivedRun.load", lambda self: pytest.fail("the run was loaded"))
    with pytest.raises(ValueError, match="--sweep-tokens: 9 tokens were asked for, the scenes have 8"):
        evaluate(run, tmp_path / "out", sweep=SweepOptions(sweep_tokens=(2, 9)), measure=QUICK)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="cannot compute fid: needs weights-inception-"):
        evaluate(run, tmp_path / "out", measure=EvaluationOptions(metrics=("fid",)))


def test_the_figures_are_written_whichever_shard_ends_first(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other shard finishes all of its part after the first variant of this one, so at first neither of them sees a
    complete variant. One of them must still write the figures."""
    options: dict[str, Any] = {"num_scenes": 2, "seeds": 2, "steps": 1, "measure": QUICK, "pictures": False}
    original, calls = _Session.figures, []

    def figures(self: _Session, variant: Variant) -> Any:
        found = original(self, variant)
        calls.append(found is not None)
        if len(calls) == 1:
            evaluate(run, tmp_path / "out", shard="1/2", **options)
            assert not (tmp_path / "out" / "evaluation.json").exists()
        return found

    monkeypatch.setattr(_Session, "figures", figures)
    evaluate(run, tmp_path / "out", shard="0/2", **options)
    assert len(read(tmp_path / "out")["variants"]) == 2 and calls[-1]


@pytest.mark.slow
def test_a_killed_evaluation_continues_with_the_same_numbers(run: Path, tmp_path: Path) -> None:
    options = ["evaluate", str(run), "--baselines", "--metrics", "stlpips"]
    words = [*options, "--output", str(tmp_path / "killed"), "--steps", "30"]
    with forked(entrypoint, words) as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "killed").rglob("*.safetensors")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("*.safetensors")}
    assert not (tmp_path / "killed" / "evaluation.json").exists()
    with one_thread():
        entrypoint(words)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("*.safetensors")}
    assert len(after) == 3 and all(after[name] == before[name] for name in before)
    with one_thread():
        entrypoint([*options, "--output", str(tmp_path / "whole"), "--steps", "30"])
    killed, whole = (read(tmp_path / name)["results"] for name in ("killed", "whole"))
    assert {k: v for k, v in killed.items() if k not in TIMES} == {k: v for k, v in whole.items() if k not in TIMES}
