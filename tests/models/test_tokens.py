"""Token files load as they were saved, wrong ones are refused in one line, and none is left half-written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.tokens import FORMAT, SceneTokens, check_tokens


def pose() -> torch.Tensor:
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    c2w = torch.eye(4)
    c2w[:3, :3] = rotation * torch.linalg.det(rotation)
    c2w[:3, 3] = torch.tensor([1.0, -2.0, 3.0])
    return c2w


def tokens(n: int = 512, dim: int = 64) -> SceneTokens:
    generator = torch.Generator().manual_seed(0)
    return SceneTokens(
        mean=torch.randn(n, dim, generator=generator),
        logvar=torch.randn(n, dim, generator=generator) - 4,
        reference_c2w=pose(),
        preset="re10k",
        scene="0123abc / 中",
        pose_scale=0.5,
        sources=("a" * 64, "b" * 64),
        cameras_c2w=torch.stack([pose(), torch.eye(4)]),
        cameras_intrinsics=torch.diag(torch.tensor([0.5, 0.6, 1.0])).repeat(2, 1, 1),
    )


def same(a: SceneTokens, b: SceneTokens) -> bool:
    tensors = ("mean", "logvar", "reference_c2w", "cameras_c2w", "cameras_intrinsics")
    equal = all(
        x is y if x is None or y is None else torch.equal(x, y)
        for x, y in ((getattr(a, name), getattr(b, name)) for name in tensors)
    )
    return equal and all(getattr(a, n) == getattr(b, n) for n in ("preset", "scene", "pose_scale", "sources"))


@pytest.mark.parametrize("logvar", [True, False])
def test_saved_is_loaded(tmp_path: Path, logvar: bool) -> None:
    saved = tokens() if logvar else replace(tokens(), logvar=None, cameras_c2w=None, cameras_intrinsics=None)
    saved.save(tmp_path / "new" / "scene.safetensors")
    assert same(SceneTokens.load(tmp_path / "new" / "scene.safetensors"), saved)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["scene.safetensors"]


def test_the_reference_may_be_a_view_of_the_cameras(tmp_path: Path) -> None:
    cameras = torch.stack([torch.eye(4), pose()])
    saved = replace(tokens(), cameras_c2w=cameras, reference_c2w=cameras[1])
    saved.save(tmp_path / "scene.safetensors")
    assert same(SceneTokens.load(tmp_path / "scene.safetensors"), saved)


def test_published_size_in_bfloat16_is_64_kib(tmp_path: Path) -> None:
    path = tmp_path / "scene.safetensors"
    saved = replace(tokens(), logvar=None)
    saved.save(path, torch.bfloat16)
    assert 64 * 1024 <= path.stat().st_size <= 65 * 1024
    loaded = SceneTokens.load(path)
    assert loaded.mean.dtype == torch.float32 and torch.equal(loaded.reference_c2w, saved.reference_c2w)
    torch.testing.assert_close(loaded.mean, saved.mean, rtol=2**-8, atol=0)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scene.safetensors"
    tokens().save(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        replace(tokens(), scene="other").save(path)
    assert same(SceneTokens.load(path), tokens()) and len(list(tmp_path.iterdir())) == 1


def test_sample_is_the_gaussian_of_the_seed() -> None:
    scene = tokens(64, 256)
    drawn = scene.sample(3)
    assert drawn.logvar is None and torch.equal(drawn.mean, scene.sample(3).mean)
    standard = (drawn.mean - scene.mean) / (0.5 * scene.logvar).exp()
    assert abs(standard.mean()) < 0.03 and abs(standard.std() - 1) < 0.03
    with pytest.raises(ValueError, match="no log-variance"):
        drawn.sample(0)


def rewrite(path: Path, values: dict | None = None, tensors: dict | None = None, header: dict | None = None) -> None:
    """Write the file of `tokens(8, 4)` with parts of its description or some of its tensors replaced."""
    tokens(8, 4).save(path)
    found = {**load_file(path), **(tensors or {})}
    described = {"preset": "re10k", "scene": "", "pose_scale": 1.0, "sources": [], **(values or {})}
    metadata = {"format": FORMAT, "scene_tokens": json.dumps(described), **(header or {})}
    save_file({name: t for name, t in found.items() if t is not None}, path, metadata)


WRONG = {
    "expected format": {"header": {"format": "scenetok-tokens-0"}},
    "description in its header": {"header": {"scene_tokens": "{"}},
    "expected a header": {"values": {"pose_scale": "1"}},
    "expected a header with": {"values": {"extra": 1}},
    "expected a header with preset": {"values": {"sources": [1]}},
    "expected tensors mean": {"tensors": {"extra": torch.zeros(1)}},
    "expected tensors mean, reference_c2w": {"tensors": {"mean": None}},
    "mean holds numbers": {"tensors": {"mean": torch.full((8, 4), torch.nan)}},
    "logvar holds numbers": {"tensors": {"logvar": torch.zeros(8, 4, dtype=torch.int64)}},
    "expected mean": {"tensors": {"mean": torch.zeros(8)}},
    "logvar of that shape": {"tensors": {"logvar": torch.zeros(8, 5)}},
    "reference_c2w is not": {"tensors": {"reference_c2w": 2 * torch.eye(4)}},
    "reference_c2w is not a camera pose": {"tensors": {"reference_c2w": torch.diag(torch.tensor([-1.0, 1, 1, 1]))}},
    "not a camera pose": {"tensors": {"reference_c2w": torch.eye(3)}},
    "cameras_c2w are not camera poses": {"tensors": {"cameras_c2w": torch.ones(2, 4, 4)}},
    "cameras_c2w are not": {"tensors": {"cameras_c2w": torch.ones(5)}},
    "expected cameras": {"tensors": {"cameras_intrinsics": torch.ones(3, 3, 3)}},
    "expected cameras .* or none": {"tensors": {"cameras_intrinsics": None}},
}


def test_subsets_are_the_first_tokens_and_know_of_how_many(tmp_path: Path) -> None:
    tokens = SceneTokens(torch.arange(20.0)[:, None], torch.eye(4), preset="tiny", logvar=torch.arange(20.0)[:, None])
    kept = [tokens.subset(count).mean[:, 0].tolist() for count in range(1, 21)]
    assert kept == [list(range(count)) for count in range(1, 21)]
    part = tokens.subset(9).subset(5)
    assert part.subset_of == 20 and tokens.subset(20).subset_of is None
    part.save(tmp_path / "part.safetensors")
    assert SceneTokens.load(tmp_path / "part.safetensors").subset_of == 20
    assert part.logvar is not None and torch.equal(part.logvar, part.mean)
    for count in (0, 21):
        with pytest.raises(ValueError, match=f"expected 1 to 20 tokens, got {count}"):
            tokens.subset(count)
    with pytest.raises(ValueError, match="expected the number of first tokens to take, got list"):
        tokens.subset([1, 2])  # type: ignore[arg-type]
    assert len(tokens.subset(np.int64(3)).mean) == 3


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, message: str) -> None:
    path = tmp_path / "scene.safetensors"
    rewrite(path)
    SceneTokens.load(path)
    rewrite(path, **WRONG[message])
    with pytest.raises(ValueError, match=message) as error:
        SceneTokens.load(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@given(st.integers(0, 2000))
def test_a_torn_file_is_refused(size: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.safetensors"
        tokens(32, 16).save(path)
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match="damaged or not a safetensors file"):
            SceneTokens.load(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="scenetok encode"):
        SceneTokens.load(tmp_path / "none.safetensors")


def test_shapes_are_checked_at_once() -> None:
    with pytest.raises(ValueError, match=r"expected mean \[n, dim\]"):
        SceneTokens(torch.zeros(3), torch.eye(4), "re10k")
    with pytest.raises(ValueError, match=r"reference_c2w \[4, 4\]"):
        SceneTokens(torch.zeros(3, 2), torch.eye(3), "re10k")
    with pytest.raises(ValueError, match="expected a pose_scale above 0, got nan"):
        SceneTokens(torch.zeros(3, 2), torch.eye(4), "re10k", pose_scale=float("nan"))
    with pytest.raises(ValueError, match="expected one of float32"):
        tokens(2, 2).save("nowhere.safetensors", torch.float64)


def test_tokens_of_another_version_s_networks_are_refused() -> None:
    """The 128 tokens of scenetok-tiny 0.1 have the shape of half of the current tokens. They would render as noise."""
    preset = load_preset("scenetok-tiny")
    whole = SceneTokens(torch.zeros(256, 32), torch.eye(4), preset="scenetok-tiny")
    check_tokens(whole.subset(128), preset)
    with pytest.raises(ValueError, match=r"expected all 256 tokens .*subset\(n\) takes them, got 128;"):
        check_tokens(replace(whole, mean=whole.mean[:128]), preset)
    with pytest.raises(ValueError, match=r"expected 256 tokens.*got 128 of 200.*encode the scene again"):
        check_tokens(replace(whole.subset(128), subset_of=200), preset)
    broken = whole.mean.clone()
    broken[[3, 7], 1] = torch.nan
    with pytest.raises(ValueError, match="2 of 256 tokens hold numbers that are not finite"):
        check_tokens(replace(whole, mean=broken), preset)


def test_tokens_are_printed_in_one_line() -> None:
    found = repr(replace(tokens(6, 4), scene="attic"))
    assert found == "SceneTokens(scene='attic', 6 tokens of 4 numbers, preset='re10k', device='cpu')"
