"""The report page of an evaluation has all contents, needs no other file, and works in a browser."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scenetok_ns.cli.main import entrypoint
from scenetok_ns.cli.report import short_names
from scenetok_ns.data.scenes import DataError
from scenetok_ns.evaluation.options import ReportOptions
from scenetok_ns.evaluation.report import chosen_views, page

SCENES = {
    "good": [30.0, 31.0, 29.0, 32.0],
    "bad</script><b>": [10.0, 12.0, 9.0, 11.0],
    "fair": [20.0, 21.0, 19.0, 22.0],
}
FRAMES, CONTEXT = [4, 5, 6, 7], [0, 9]


def figures() -> dict[str, Any]:
    protocol = {
        "task": "reconstruction",
        "preset": "tiny",
        "views": {"image_size": 32},
        "sampler": {"steps": 2, "solver": "euler"},
        "machine": {"device": "CPU", "versions": {"scenetok-ns": "0"}},
    }
    results = {"psnr": 20.0, "psnr_std": 1.0, "psnr_mean_colour": 9.0, "fps": 3.0, "frechet_stlpips_alex": 0.001}
    counts = {"num_scenes": 3.0, "num_views": 12.0, "num_skipped_scenes": 1.0}
    return {
        "results": results | counts,
        "samples": {"frechet_stlpips_alex": 12},
        "few_samples": {"frechet_stlpips_alex": 256},
        "not_computed": {"fid": "needs a file", "kid": "needs a file"},
        "skipped": {"broken": "no light"},
        "protocol": protocol,
        "per_scene": {
            key: {"context": CONTEXT, "frames": FRAMES, "seconds": 1.0, "views": {
                "psnr": values, "ssim": [1 - value / 100 for value in values], "psnr_mean_colour": [9.0] * 4}}
            for key, values in SCENES.items()
        },
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as `scenetok evaluate` writes it, in which each scene's pictures have their own colour."""
    from scenetok_ns.evaluation.records import EvaluationFolder

    variant = tmp_path / "seed=0"
    variant.mkdir()
    (variant / "evaluation.json").write_text(json.dumps(figures()))
    row = {"axes": {"steps": 2}, "seeds": 2, "means": {"psnr": 20.0}, "spreads": {"psnr": 0.5}}
    whole = {"run": "my-run", **figures(), "variants": [{"folder": "seed=0"}], "table": [row]}
    (tmp_path / "evaluation.json").write_text(json.dumps(whole))
    Image.new("RGB", (40, 20)).save(tmp_path / "sweep.png")
    for number, key in enumerate(SCENES):
        pictures = EvaluationFolder(variant).pictures(key)
        pictures.mkdir(parents=True)
        names = [f"context_{frame:05d}" for frame in CONTEXT]
        names += [f"{kind}_{frame:05d}" for frame in FRAMES for kind in ("truth", "pred")]
        for name in names:
            Image.new("RGB", (32, 32), (60 * number, 100, 200 if "truth" in name else 20)).save(
                pictures / f"{name}.jpg"
            )
    return tmp_path


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_everything_and_needs_nothing(folder: Path) -> None:
    text = page(folder, None, ReportOptions(max_scenes=2, max_views=3, videos=False))
    data = data_of(text)
    assert [scene["key"] for scene in data["scenes"]] == ["bad</script><b>", "fair"]  # the worst two
    assert len(data["scenes"][0]["views"]) == 3 and len(data["scenes"][0]["context"]) == 2
    view = data["scenes"][0]["views"][0]
    assert view["frame"] == 4 and view["values"] == {"psnr": 10.0, "ssim": 0.9}
    pixels = [
        Image.open(BytesIO(base64.b64decode(view[kind].split(",")[1]))).getpixel((5, 5)) for kind in ("truth", "pred")
    ]
    assert pixels[0][2] > 150 > pixels[1][2]
    assert data["sweep"]["rows"] == [["2", "2", "20 ± 0.5"]] and data["sweep"]["plot"].startswith("data:image/png")
    assert data["missing"] == [["fid, kid", "needs a file"]] and data["skipped"] == {"broken": "no light"}
    assert len(data["notes"]) == 1 and data["notes"][0].startswith("frechet_stlpips_alex is unreliable: 12 samples")
    assert data["figures"][0] == {"name": "psnr", "value": 20.0, "spread": 1.0, "of": "views", "baselines": [9.0]}
    outside = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.S)
    assert not re.search(r'(src|href)\s*=\s*"', outside) and "http" not in outside and "@import" not in outside


def test_videos_are_truth_beside_prediction(folder: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not on PATH")
    import mediapy

    data = data_of(page(folder, None, ReportOptions(max_scenes=1)))
    (folder / "video.mp4").write_bytes(base64.b64decode(data["scenes"][0]["video"].split(",")[1]))
    frames = mediapy.read_video(folder / "video.mp4")
    assert frames.shape == (4, 32, 64, 3)
    assert frames[0, 5, 5, 2] > 150 > frames[0, 5, 50, 2]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.integers(1, 12))
def test_worst_views_are_always_shown(values: list[float], count: int) -> None:
    places = chosen_views(values, count)
    assert len(places) == len(set(places)) == min(count, len(values)) and places == sorted(places)
    assert values.index(min(values)) in places


def test_bad_input_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no variant 'x'; it has seed=0"):
        page(folder, "x", ReportOptions())
    with pytest.raises(SystemExit, match=r"no evaluation of .*seed=1 \(did you mean .*seed=0\?\); make it"):
        entrypoint(["report", str(tmp_path / "seed=1")])
    with pytest.raises(SystemExit, match=r"holds no figures \(evaluation\.json\); make them with scenetok evaluate"):
        entrypoint(["report", str(tmp_path / "seed=0" / "pictures")])
    for name in ("twelve", "four"):
        (tmp_path / "several" / name).mkdir(parents=True)
        (tmp_path / "several" / name / "evaluation.json").write_text("{}")
    with pytest.raises(SystemExit, match="several is not an evaluation; it holds four, twelve: name one of them"):
        entrypoint(["report", str(tmp_path / "several")])
    with pytest.raises(SystemExit, match="no evaluation of scenetok-tiny; make it"):
        entrypoint(["report", "scenetok-tiny"])
    next((folder / "seed=0" / "pictures" / "fair").glob("pred_*")).unlink()
    with pytest.raises(DataError, match=r"pred_\d+\.jpg is missing; evaluate this scene again"):
        page(folder, None, ReportOptions(videos=False))


def test_the_command_writes_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entrypoint(["report", str(folder / "evaluation.json"), "--no-videos"])
    assert data_of((folder / "report.html").read_text())["name"] == "my-run"
    assert "report.html" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"one run gives a page, so expected an \.html file, got table\.csv"):
        entrypoint(["report", str(folder), "--output", "table.csv"])


def test_every_evaluation_has_a_column_of_its_own() -> None:
    assert short_names((Path("runs/a"), Path("runs/b/c"))) == ["a", "b/c"]
    assert short_names((Path("x"), Path("x/y"))) == ["x", "y"]
    assert short_names((Path("x"), Path("x/x"))) == ["x", "x/x"]


def test_several_evaluations_give_one_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, sweep = folder / "other", folder / "sweep"
    changed = figures()
    changed["results"]["psnr"] = 25.0
    del changed["per_scene"]["fair"]
    variants = [
        {"folder": f"{n}", "axes": {"steps": 1 + n // 2}, "seed": n % 2, "results": {"psnr": 10.0 + n}}
        for n in range(4)
    ]
    for path, content in ((other, changed), (sweep, {**figures(), "variants": variants})):
        path.mkdir()
        (path / "evaluation.json").write_text(json.dumps({"run": "x", **content}))
    first = folder / "seed=0"
    entrypoint(["report", str(first), str(other), str(sweep), "--output", str(folder / "table.csv")])
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert [(row["method"], row["seeds"], row["psnr"]) for row in rows] == [
        ("seed=0", "1", "20.0"), ("other", "1", "25.0"),
        ("sweep, steps=1", "2", "10.5"), ("sweep, steps=2", "2", "12.5"),
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert all(number in said for number in ("20", "25", "10.5 ± 0.71", "psnr"))
    assert said.count("frechet_stlpips_alex is unreliable: 12 samples are fewer than its 256 features") == 1
    assert "other has other views than seed=0 (first in scene fair)" in said and "sweep has" not in said
    for words, message in (
        (["--output", "page.html"], "expected a .csv file, got page.html"),
        (["--max-views", "2"], "--variant and the options of pages only work with one run"),
        ([str(other)], "is given twice"),
    ):
        with pytest.raises(SystemExit, match=re.escape(message)):
            entrypoint(["report", str(first), str(other), *words])


@pytest.mark.slow
def test_a_browser_sorts_and_shows_it(folder: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium or Chrome on PATH")
    (folder / "report.html").write_text(page(folder, None, ReportOptions(videos=False)))
    # One start of a browser shows the page in each of its states, because a start takes ten seconds.
    states = ("", "#order=best", "#mode=views")
    frames = "".join(f'<iframe src="report.html{state}"></iframe>' for state in states)
    copy = (
        "[...document.querySelectorAll('iframe')].map(f => "
        "(f.contentDocument.scripts[0].remove(), f.contentDocument.body.outerHTML)).join('NEXT')"
    )
    (folder / "frames.html").write_text(
        f"<html><body>{frames}<script>onload = () => {{ document.body.innerHTML = {copy} }}</script></body></html>"
    )
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
    more = ("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files")
    rest = (f"--user-data-dir={tmp_path / 'user'}", "--virtual-time-budget=2000", "--dump-dom")
    command = [browser, *options, *more, *rest, (folder / "frames.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "<body" not in done.stdout:
        pytest.skip(f"the browser does not start here: {done.stderr[-200:]}")
    plain, best, views = done.stdout.split("NEXT")
    scenes = re.findall(r"<h3>(.*?)</h3>", plain)
    assert scenes == ["bad&lt;/script&gt;&lt;b&gt;", "fair", "good"]
    assert re.findall(r"<h3>(.*?)</h3>", best) == scenes[::-1] and "fid, kid not computed: needs a file" in best
    shown = re.findall(r"<figcaption>.*?psnr ([\d.]+)", views)
    assert [float(value) for value in shown] == sorted(value for values in SCENES.values() for value in values)
