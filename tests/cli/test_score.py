"""`scenetok score` gives pictures of other programs the same figures as our own evaluation gives these pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.small_runs import FRAMES, IMAGE_SIZE, small_pipeline, write_small_dl3dv, write_small_re10k

from scenetok_ns.cli.main import entrypoint
from scenetok_ns.evaluation.evaluate import evaluate_resumable
from scenetok_ns.evaluation.measures import Measures
from scenetok_ns.evaluation.options import EvaluationOptions
from scenetok_ns.evaluation.pictures import all_of, plain_pairs
from scenetok_ns.evaluation.records import EvaluationFolder
from scenetok_ns.evaluation.scene_evaluation import SceneEvaluation
from scenetok_ns.evaluation.summary import summarise

TIMES = ("seconds", "fps", "num_rays_per_sec")
METRICS = ("--metrics", "stlpips", "--fvd-frames", "2")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a data set and the output of ns-eval: figures, and a picture of every view."""
    folder = tmp_path_factory.mktemp("workplace")
    write_small_re10k(folder / "data")
    pipeline = small_pipeline(folder / "data").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipeline.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    options = EvaluationOptions(metrics=("stlpips",), fvd_frames=2)
    (folder / "ours").mkdir()
    results = evaluate_resumable(pipeline.model.renderer, options, baselines=True, pictures=folder / "ours")
    (folder / "eval.json").write_text(json.dumps({"method_name": "small", "results": results}))
    return folder


def ours(workplace: Path) -> dict[str, Any]:
    return json.loads((workplace / "eval.json").read_text())["results"]


def score(workplace: Path, output: Path, *words: str, predictions: tuple[Path, ...] = ()) -> dict[str, Any]:
    folders = map(str, predictions or (workplace / "ours",))
    given = ["score", "--data", str(workplace / "data"), "--index", str(workplace / "eval.json"), "--predictions"]
    entrypoint([*given, *folders, "--output", str(output), *METRICS, *words])
    return json.loads((output / "evaluation.json").read_text())


def failure(workplace: Path, output: Path, *words: str, predictions: tuple[Path, ...] = ()) -> str:
    with pytest.raises(SystemExit) as stop:
        score(workplace, output, *words, predictions=predictions)
    assert "\n" not in str(stop.value)
    return str(stop.value)


def write_pictures(workplace: Path, folder: Path, layout: str, offset: int = 0) -> Path:
    """Write the predictions of ns-eval in the layout of another program, brighter by `offset`."""
    for path in sorted((workplace / "ours").glob("*.png")):
        match = re.fullmatch(r"eval_img_(.*)_(\d+)", path.stem)
        assert match is not None
        target = folder / layout.format(scene=match[1], frame=int(match[2]))
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.open(path))[:, IMAGE_SIZE:].astype(int) + offset
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target)
    return folder


def test_the_pictures_of_ns_eval_get_its_figures_to_the_last_digit(workplace: Path, tmp_path: Path) -> None:
    found, expected = score(workplace, tmp_path, "--baselines"), ours(workplace)
    same = [name for name, value in expected.items() if isinstance(value, float) and name not in TIMES]
    same = [name for name in same if not name.endswith(("_tokens", "_tokens_std"))]  # need the model
    assert {"psnr", "ssim", "ssim_skimage", "stlpips_alex", "frechet_stlpips_alex", "psnr_nearest_view"} <= set(same)
    assert {name: found["results"][name] for name in same} == {name: expected[name] for name in same}
    assert found["per_scene"]["test0"]["views"]["psnr"] == expected["per_scene"]["test0"]["views"]["psnr"]
    assert not set(TIMES) & set(found["results"])
    assert found["protocol"]["method"] == "ours" and found["protocol"]["task"] == "reconstruction"


@pytest.mark.parametrize("layout", ["{scene}/{frame}.png", "{scene}/view_{frame:05d}.png", "{scene}_{frame:06d}.png"])
def test_layouts_of_other_programs(workplace: Path, tmp_path: Path, layout: str) -> None:
    folder = write_pictures(workplace, tmp_path / "theirs", layout)
    assert score(workplace, tmp_path / "score", predictions=(folder,))["results"]["psnr"] == ours(workplace)["psnr"]


def test_plain_pairs_for_other_programs_are_scored_alike(workplace: Path, tmp_path: Path) -> None:
    """`scenetok evaluate --pairs` writes two folders with the same file names, which score reads."""
    pipeline = small_pipeline(workplace / "data").eval()
    measures = Measures.load(EvaluationOptions(metrics=()), "cpu")
    run = SceneEvaluation(pipeline.model.renderer, measures, EvaluationFolder(tmp_path / "records"))
    run.write_pictures = all_of(plain_pairs(tmp_path / "pairs"))
    run.run()
    names = [sorted(path.name for path in (tmp_path / "pairs" / side).iterdir()) for side in ("truth", "pred")]
    assert names[0] == names[1] and len(names[0]) == 3 * len(ours(workplace)["per_scene"]["test0"]["frames"])
    expected = summarise(run.folder, run.keys, generation=False, wanted=(), image_size=IMAGE_SIZE).results
    pred, truth = (
        score(workplace, tmp_path / side, predictions=(tmp_path / "pairs" / side,)) for side in ("pred", "truth")
    )
    assert pred["results"]["psnr"] == expected["psnr"] and truth["results"]["psnr"] == 100.0


def test_pictures_in_order_need_no_numbers(workplace: Path, tmp_path: Path) -> None:
    folder = write_pictures(workplace, tmp_path / "theirs", "{scene}/{frame}x.png")
    for scene in folder.iterdir():
        for place, path in enumerate(sorted(scene.iterdir(), key=lambda path: int(path.stem[:-1]))):
            path.rename(scene / f"{'abcdefghijkl'[place]}.png")
    assert "has no picture of frame" in failure(workplace, tmp_path / "a", predictions=(folder,))
    found = score(workplace, tmp_path / "b", "--in-order", predictions=(folder,))
    assert found["results"]["psnr"] == ours(workplace)["psnr"]
    next((folder / "test1").iterdir()).unlink()
    said = failure(workplace, tmp_path / "c", "--in-order", predictions=(folder,))
    assert "--in-order needs a picture for each of its" in said


def test_methods_stand_side_by_side_and_in_the_report(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    brighter = write_pictures(workplace, tmp_path / "brighter", "{scene}/{frame}.png", offset=40)
    found = score(workplace, tmp_path / "score", predictions=(workplace / "ours", brighter))
    rows = {row["axes"]["method"]: row["means"] for row in found["table"]}
    assert rows["ours"]["psnr"] == ours(workplace)["psnr"] != rows["brighter"]["psnr"]
    assert re.search(r"metric +┃ +ours +┃ +brighter", capsys.readouterr().out)
    assert "ours" in (tmp_path / "score/sweep.csv").read_text()
    entrypoint(["report", str(tmp_path / "score"), "--no-videos", "--variant", "brighter"])
    assert "reconstruction by brighter" in (tmp_path / "score/report.html").read_text()

    third = score(workplace, tmp_path / "third", "--compare", str(tmp_path / "score"), "--names", "mine")
    assert [row["axes"]["method"] for row in third["table"]] == ["mine", "score"]


def test_a_second_call_measures_what_is_missing_and_changed_pictures_are_noticed(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(workplace, tmp_path / "theirs", "{scene}/{frame}.png")
    first = score(workplace, tmp_path / "score", predictions=(folder,))
    (tmp_path / "score/theirs/scenes/test1.safetensors").unlink()
    loaded: list[str] = []
    from scenetok_ns.evaluation.method_pictures import PictureFolder

    load = PictureFolder.load
    monkeypatch.setattr(PictureFolder, "load", lambda self, key, frames: loaded.append(key) or load(self, key, frames))
    assert score(workplace, tmp_path / "score", predictions=(folder,))["results"] == first["results"]
    assert loaded[1:] == ["test1"]  # the first picture is loaded for its size
    write_pictures(workplace, tmp_path / "theirs", "{scene}/{frame}.png", offset=3)
    said = failure(workplace, tmp_path / "score", predictions=(folder,))
    assert "holds an evaluation with other settings: pictures.digest" in said


def test_missing_pictures_are_named_or_their_scenes_left_out(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = write_pictures(workplace, tmp_path / "theirs", "{scene}/{frame}.png")
    lost = sorted((folder / "test1").iterdir())[0]
    lost.unlink()
    said = failure(workplace, tmp_path / "a", predictions=(folder,))
    assert f"theirs has no picture of frame {lost.stem} of scene test1 (1 of " in said and "1 of 3 scenes" in said
    found = score(workplace, tmp_path / "b", "--skip-missing", predictions=(workplace / "ours", folder))
    assert list(found["per_scene"]) == ["test0", "test2"]
    assert "1 of 3 scenes are left out, pictures are missing: test1" in capsys.readouterr().err
    said = failure(workplace, tmp_path / "c", "--compare", str(tmp_path / "b"))
    assert "measured other views than --index names, first in scene test1" in said
    for scene in ("test0", "test2"):
        next((folder / scene).iterdir()).unlink()
    assert "no scene is complete: theirs has" in failure(
        workplace, tmp_path / "d", "--skip-missing", predictions=(folder,)
    )


def test_pictures_that_cannot_be_right_are_named(workplace: Path, tmp_path: Path) -> None:
    assert "there is no folder" in failure(workplace, tmp_path / "a", predictions=(tmp_path / "nowhere",))
    (tmp_path / "empty").mkdir()
    assert "has no pictures of the scenes to compare with; expected SCENE/FRAME.png" in failure(
        workplace, tmp_path / "a", predictions=(tmp_path / "empty",)
    )
    assert "two methods are called ours: name them with --names" in failure(
        workplace, tmp_path / "a", predictions=(workplace / "ours",) * 2
    )
    assert "expected 1 names, one for each folder, got 2" in failure(workplace, tmp_path / "a", "--names", "a", "b")
    assert "cannot be the name of a folder" in failure(workplace, tmp_path / "a", "--names", "../up")

    folder = write_pictures(workplace, tmp_path / "theirs", "{scene}/{frame}.png")
    victim = sorted((folder / "test0").iterdir())[0]
    whole = victim.read_bytes()

    def broken(content: bytes) -> str:
        victim.write_bytes(content)
        return failure(workplace, tmp_path / "a", predictions=(folder,))

    assert f"{victim} cannot be decoded" in broken(whole[: len(whole) // 2])
    Image.new("RGBA", (IMAGE_SIZE, IMAGE_SIZE), (1, 2, 3, 100)).save(victim)
    assert "is partly transparent" in broken(victim.read_bytes())
    Image.new("I;16", (IMAGE_SIZE, IMAGE_SIZE)).save(victim)
    assert "pixels of mode I;16; expected 8 bits" in broken(victim.read_bytes())
    Image.new("RGB", (IMAGE_SIZE + 1, IMAGE_SIZE)).save(victim)
    assert "pictures of scene test0 have different sizes" in broken(victim.read_bytes())
    (folder / "test0" / f"copy_{victim.stem}.png").write_bytes(whole)
    assert f"both have the number {victim.stem}" in broken(whole)


def test_pictures_of_another_aspect_are_compared_with_crops_of_it(workplace: Path, tmp_path: Path) -> None:
    """The photographs themselves, scaled and cropped by the protocol, have no error."""
    from scenetok_ns.bridge.capture_kinds import find_dataparser

    source = find_dataparser(workplace / "data").setup().scene_source("test")
    frames = ours(workplace)["per_scene"]["test0"]["frames"]
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"test0": {"context": [0], "target": frames}}))
    images = source.scene("test0").load_views(frames, (32, 48)).images
    for frame, image in zip(frames, images, strict=True):
        (tmp_path / "theirs/test0").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"theirs/test0/{frame}.png")
    words = ["--data", str(workplace / "data"), "--index", str(index), "--output", str(tmp_path / "score"), *METRICS]
    entrypoint(["score", "--predictions", str(tmp_path / "theirs"), *words])
    assert json.loads((tmp_path / "score/evaluation.json").read_text())["results"]["psnr"] == 100.0


def test_a_data_set_in_another_layout(tmp_path: Path) -> None:
    write_small_dl3dv(tmp_path / "data")
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"test1": {"context": [0], "target": list(range(1, FRAMES))}}))
    for frame in range(FRAMES):
        (tmp_path / "grey/test1").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (128,) * 3).save(tmp_path / f"grey/test1/{frame}.png")
    words = ["--data", str(tmp_path / "data"), "--index", str(index), "--output", str(tmp_path / "score"), *METRICS]
    entrypoint(["score", "--predictions", str(tmp_path / "grey"), "--task", "generation", *words])
    found = json.loads((tmp_path / "score/evaluation.json").read_text())
    assert found["results"]["num_views"] == FRAMES - 1 and 0 < found["results"]["psnr"] < 20
