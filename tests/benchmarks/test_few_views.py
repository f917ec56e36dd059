"""The benchmark of few photographs compares methods on the same pixels, and takes means over the same rooms."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import few_views
import pytest
import torch
from few_views import (
    Capture,
    Room,
    Shown,
    best_rows,
    context_frames,
    means,
    measure,
    parse_options,
    scenes_of,
    scores,
    tasks_of,
)
from support.capture_files import write_demo_capture


def test_photographs_are_spread_over_the_walk_or_its_first_half() -> None:
    assert context_frames("1") == [23] and context_frames("1h") == [11]
    assert context_frames("4") == [0, 16, 31, 47] and context_frames("2h") == [0, 23]


def test_a_case_scores_other_frames_of_the_whole_walk_and_knows_what_was_not_seen() -> None:
    single, whole = (Room(0).case(name, 16) for name in ("1h", "4"))
    assert len(whole.given.frames) == 4 and len(whole.asked.frames) == len(whole.unseen) == 12
    assert 0.02 < float(whole.unseen.float().mean()) < float(single.unseen.float().mean()) - 0.1 < 0.7


def test_a_capture_gives_some_photographs_and_scores_those_held_out(tmp_path: Path) -> None:
    write_demo_capture(tmp_path, frames=20, size=32)
    case = Capture(tmp_path).case("3", 16)
    assert len(case.given.frames) == 3 and len(case.asked.frames) == 2 and case.unseen is None
    distances = torch.cdist(case.given.cameras.c2w[0, :, :3, 3], case.asked.cameras.c2w[0, :, :3, 3])
    assert float(distances.min()) > 0 and case.pose_scale != 1
    found = scores(Shown(case.asked.frames), case)
    assert found["psnr"] == pytest.approx(100) and not {"psnr_seen", "psnr_unseen", "unseen"} & set(found)


def test_scores_tell_seen_from_unseen() -> None:
    case = Room(0).case("2", 16)
    truth = case.asked.frames
    assert case.unseen is not None
    assert scores(Shown(truth), case)["psnr"] == pytest.approx(100)
    wrong = torch.where(case.unseen[:, None], 0.5 * truth, truth)
    found = scores(Shown(wrong, alpha=torch.where(case.unseen[:, None], 0.0, 1.0)), case)
    assert found["psnr_seen"] == pytest.approx(100) and found["psnr_unseen"] < 20
    assert found["holes"] == pytest.approx(found["unseen"])


def row(room: int, method: str, psnr: float, steps: int = 0, case: str = "2") -> dict[str, Any]:
    return {"scene": f"room{room}", "case": case, "method": method, "steps": steps, "psnr": psnr}


def test_stock_splats_count_at_their_best_step_and_all_others_at_their_last() -> None:
    rows = [row(0, "splatfacto", 14.0, 250), row(0, "splatfacto", 12.0, 500)]
    rows += [row(0, "hybrid", 14.0, 250), row(0, "hybrid", 12.0, 500)]
    assert [(found["method"], found["steps"]) for found in best_rows(rows)] == [("splatfacto", 250), ("hybrid", 500)]


def test_means_are_over_the_rooms_that_all_methods_have() -> None:
    rows = [row(0, "nearest", 10.0), row(1, "nearest", 20.0), row(2, "nearest", 90.0), row(0, "hybrid", 21.0)]
    rows += [row(1, "hybrid", 23.0), {**row(2, "hybrid", 0.0), "failed": "no memory"}]
    found = {line["method"]: line for line in means(rows)}
    assert found["nearest"]["psnr"] == 15.0 and found["hybrid"]["psnr"] == 22.0 and found["hybrid"]["scenes"] == 2
    assert found["hybrid"]["psnr_spread"] == pytest.approx(math.sqrt(2))


def test_tasks_go_room_by_room_and_one_photograph_has_no_points() -> None:
    options = argparse.Namespace(
        rooms=[3, 5], drawn=[], capture=None, cases=["1", "4h"], methods=list(few_views.METHODS), all=False
    )
    tasks = tasks_of(options)
    assert [scene.name for scene, _, _ in tasks] == ["room3"] * 12 + ["room5"] * 12
    assert {m for _, case, m in tasks if case == "1"} == set(few_views.METHODS) - {"splatfacto"}
    assert {m for _, case, m in tasks if case == "4h"} == set(few_views.METHODS) - {"splatfacto-random"}


def test_a_capture_has_other_options_than_rooms(capsys: pytest.CaptureFixture[str]) -> None:
    rooms, capture = parse_options([]), parse_options(["--capture", "garden"])
    assert rooms.cases == [*capture.cases, "4h"] and capture.cases == ["1", "2", "4", "6", "12"]
    assert rooms.drawn == [0, 1] and [scene.name for scene in scenes_of(capture)] == ["garden"]
    assert parse_options(["--cases", "2h"]).cases == ["2h"]
    for words, message in (
        (["--rooms", "1"], "not allowed with argument"),
        (["--drawn", "1"], "--drawn chooses among rooms"),
        (["--cases", "2", "4h"], "half a walk needs a room"),
    ):
        with pytest.raises(SystemExit):
            parse_options(["--capture", "garden", *words])
        assert message in capsys.readouterr().err


def test_a_method_that_fails_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    options = argparse.Namespace(size=16, device="cpu", pictures=None, perceptual=None)

    def fail(*_: Any) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(few_views, "show_splats", fail)
    (nearest,) = measure((Room(0), "2", "nearest"), options)
    assert nearest["psnr"] > 5 and nearest["steps"] == 0
    (failed,) = measure((Room(0), "2", "splatfacto"), options)
    assert failed["failed"].startswith("AttributeError") and failed["method"] == "splatfacto"
