from __future__ import annotations

import json
import logging
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
from support.scene_files import example, intrinsics, walk, write_re10k

from scenetok_ns.data.scenes import BadScene, DataError, first_good
from scenetok_ns.data.sources import re10k
from scenetok_ns.data.sources.re10k import RE10KSource


def test_cameras_and_images_of_a_scene(tmp_path: Path) -> None:
    source = RE10KSource(write_re10k(tmp_path, [[example("a"), example("b", 5)], [example("c", 6)]]))
    assert list(source.keys) == ["a", "b", "c"]
    scene = source.scene("c")
    assert (scene.key, scene.num_frames, scene.frame_names[-1]) == ("c", 6, "frame_00005")
    assert torch.allclose(scene.c2w, walk(6), atol=1e-5)
    assert torch.equal(scene.intrinsics, intrinsics(6))
    assert scene.timestamps is not None and scene.timestamps.tolist() == [0, 100, 200, 300, 400, 500]
    images = scene.load_images([4, 1])
    assert [tuple(image.shape) for image in images] == [(3, 36, 64)] * 2
    assert [round(float(image[0].float().mean()) / 4) for image in images] == [4, 1]


def test_views_are_cropped_with_their_cameras(tmp_path: Path) -> None:
    source = RE10KSource(write_re10k(tmp_path, [[example("a")]]))
    views = source.scene("a").load_views(torch.tensor([5, 2]), (32, 32))
    assert views.images.shape == (2, 3, 32, 32) and views.images.dtype == torch.uint8
    assert torch.equal(views.c2w, source.scene("a").c2w[[5, 2]])
    # 36 x 64 is scaled to 32 x 57 and cut to 32 x 32.
    assert torch.allclose(views.intrinsics[:, 0, 0], torch.tensor(0.5 * 57 / 32))
    assert torch.allclose(views.intrinsics[:, 1, 1], torch.tensor(0.9))


def test_nothing_but_the_index_is_read_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [[example(f"s{number}", 2)] for number in range(7)]
    folder = write_re10k(tmp_path, chunks)
    opened: list[str] = []
    real = re10k._open_chunk
    monkeypatch.setattr(re10k, "_open_chunk", lambda path: opened.append(path.name) or real(path))
    source = RE10KSource(folder)
    assert opened == []
    source.scene("s3"), source.scene("s3")
    assert opened == ["000003.torch"]
    for key in source.keys:
        source.scene(key)
    assert len(source._open_chunks) == re10k.CACHED_CHUNKS


def test_a_source_travels_to_workers_without_its_chunks(tmp_path: Path) -> None:
    source = RE10KSource(write_re10k(tmp_path, [[example("a")]]))
    before = len(bytes(ForkingPickler.dumps(source)))
    source.scene("a")
    packed = bytes(ForkingPickler.dumps(source))
    assert len(packed) == before
    assert ForkingPickler.loads(packed).scene("a").num_frames == 8


def test_arrays_of_numpy_are_read(tmp_path: Path) -> None:
    """Some converters store NumPy arrays. They hold only numbers, so reading them runs no code of the file."""
    scene = example("a")
    arrays = {**scene, "cameras": scene["cameras"].double().numpy(), "timestamps": scene["timestamps"].numpy()}
    arrays["images"] = [image.numpy() for image in scene["images"]]
    found, expected = (
        RE10KSource(write_re10k(tmp_path / name, [[content]])).scene("a")
        for name, content in (("numpy", arrays), ("torch", scene))
    )
    torch.testing.assert_close(found.c2w, expected.c2w)
    torch.testing.assert_close(found.intrinsics, expected.intrinsics)
    assert torch.equal(found.timestamps, expected.timestamps)
    assert torch.equal(found.load_images([1])[0], expected.load_images([1])[0])


def test_files_of_old_torch_are_read(tmp_path: Path) -> None:
    folder = write_re10k(tmp_path, [[example("a")]])
    torch.save([example("a")], folder / "000000.torch", _use_new_zipfile_serialization=False)
    assert RE10KSource(folder).scene("a").load_images([0])[0].shape == (3, 36, 64)


def test_chunks_without_an_index_name_their_scenes(tmp_path: Path) -> None:
    folder = write_re10k(tmp_path, [[example("a"), example("b")], [example("c")]])
    (folder / "index.json").unlink()
    assert list(RE10KSource(folder).keys) == ["a", "b", "c"] and RE10KSource(folder).scene("c").num_frames == 8
    (folder / "000001.torch").write_bytes(b"no")
    assert list(RE10KSource(folder).keys) == ["a", "b"]
    (folder / "000000.torch").write_bytes(b"no")
    with pytest.raises(DataError, match=r"none of the 2 chunks in .* can be read"):
        RE10KSource(folder)


def test_missing_folder_index_or_chunks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        RE10KSource(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has neither \.torch chunks nor index\.json"):
        RE10KSource(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(DataError, match="lists no scenes"):
        RE10KSource(tmp_path)
    (tmp_path / "index.json").write_text('{"a": ')
    with pytest.raises(DataError, match="cannot be read as JSON"):
        RE10KSource(tmp_path)
    (tmp_path / "index.json").write_text('["a"]')
    with pytest.raises(DataError, match="expected an object"):
        RE10KSource(tmp_path)
    (tmp_path / "index.json").write_text('{"a": "000000.torch"}')
    with pytest.raises(DataError, match=r"holds none of the \.torch chunks"):
        RE10KSource(tmp_path)


def test_unknown_scene(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no scene 'z'"):
        RE10KSource(write_re10k(tmp_path, [[example("a")]])).scene("z")


def test_scenes_of_a_missing_chunk_are_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_re10k(tmp_path, [[example("a")], [example("b")]])
    (folder / "000000.torch").unlink()
    with caplog.at_level(logging.WARNING):
        source = RE10KSource(folder)
    assert list(source.keys) == ["b"]
    assert "skipped 1 scenes, the first is a: its .torch chunk is missing" in caplog.text
    with pytest.raises(BadScene, match="is missing"):
        source.scene("a")


@pytest.mark.parametrize("keep", [0, 10, 2000, -200], ids=["empty", "10 bytes", "2000 bytes", "no directory"])
def test_truncated_chunk(tmp_path: Path, keep: int) -> None:
    folder = write_re10k(tmp_path, [[example("a")]])
    data = (folder / "000000.torch").read_bytes()
    (folder / "000000.torch").write_bytes(data[:keep])
    with pytest.raises(BadScene, match=r"scene a: chunk 000000\.torch cannot be read"):
        RE10KSource(folder).scene("a")


def test_chunk_of_another_kind(tmp_path: Path) -> None:
    folder = write_re10k(tmp_path, [[example("a")]])
    torch.save({"a": 1}, folder / "000000.torch")
    with pytest.raises(BadScene, match="expected a list of dictionaries"):
        RE10KSource(folder).scene("a")


def test_scene_that_the_index_puts_elsewhere(tmp_path: Path) -> None:
    folder = write_re10k(tmp_path, [[example("a")], [example("b")]])
    (folder / "index.json").write_text(json.dumps({"a": "000001.torch"}))
    with pytest.raises(BadScene, match="says it is in"):
        RE10KSource(folder).scene("a")


def damage(kind: str) -> dict:
    item = example("a")
    rows = item["cameras"]
    if kind == "nan":
        rows[2, 9] = float("nan")
    elif kind == "scaled":
        rows[3, 6:] *= 1.1
    elif kind == "mirrored":
        rows[3, 6:10] *= -1
    elif kind == "singular":
        rows[3, 6:] = 0
    elif kind == "focal":
        rows[4, 1] = 0
    elif kind == "columns":
        item["cameras"] = rows[:, :17]
    elif kind == "fewer images":
        item["images"] = item["images"][:-1]
    elif kind == "no images":
        del item["images"]
    return item


@pytest.mark.parametrize(
    "kind, message",
    [
        ("nan", "not finite"),
        ("scaled", "frame 3 has a pose that is not rigid"),
        ("mirrored", "frame 3 has a pose that is not rigid"),
        ("singular", "frame 3 has no inverse"),
        ("focal", "frame 4 has a focal length that is not positive"),
        ("columns", r"cameras \[v, 18\]"),
        ("fewer images", "8 cameras, but 7 images"),
        ("no images", "images as a list"),
    ],
)
def test_damaged_scene(tmp_path: Path, kind: str, message: str) -> None:
    source = RE10KSource(write_re10k(tmp_path, [[damage(kind)]]))
    with pytest.raises(BadScene, match=message) as caught:
        source.scene("a")
    assert caught.value.key == "a" and "\n" not in str(caught.value)


def test_a_partial_download_is_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_re10k(tmp_path, [[example("a", 2)]])
    index = {"a": "000000.torch", **{f"x{number}": f"{number + 1:06d}.torch" for number in range(60_000)}}
    (folder / "index.json").write_text(json.dumps(index))
    with caplog.at_level(logging.WARNING):
        source = RE10KSource(folder)
    assert list(source.keys) == ["a"] and len(source.skipped) == 60_000 and len(caplog.records) == 1
    assert "skipped 60000 scenes, the first is x0" in caplog.text


def test_truncated_jpeg(tmp_path: Path) -> None:
    item = example("a", size=(128, 128))
    item["images"][3] = item["images"][3][:400]
    scene = RE10KSource(write_re10k(tmp_path, [[item]])).scene("a")
    scene.load_images([0, 1, 2])
    with pytest.raises(BadScene, match="frame frame_00003 cannot be decoded"):
        scene.load_images([3])


def test_wrong_image_sizes(tmp_path: Path) -> None:
    mixed = example("mixed")
    mixed["images"][1] = example("x", size=(64, 36))["images"][1]
    source = RE10KSource(write_re10k(tmp_path, [[mixed, example("small", size=(20, 30))]]))
    with pytest.raises(BadScene, match="different sizes"):
        source.scene("mixed").load_views([0, 1], (32, 32))
    with pytest.raises(BadScene, match="20 x 30 pixels, smaller than the crop of 32 x 32"):
        source.scene("small").load_views([0, 1], (32, 32))


def test_frame_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(BadScene, match="frame 8 was asked for, but there are 8"):
        RE10KSource(write_re10k(tmp_path, [[example("a")]])).scene("a").load_images([8])


def test_bad_scenes_are_passed_over_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_re10k(tmp_path, [[damage("nan"), {**example("b"), "cameras": torch.zeros(8, 18)}, example("c")]])
    source = RE10KSource(folder)
    with caplog.at_level(logging.WARNING):
        assert first_good(source, ["a", "b", "a", "c"], lambda scene: scene.key) == "c"
    assert list(source.skipped.reasons) == ["a", "b"] and len(caplog.records) == 2
    assert source.skipped.summary(1).startswith("2 scenes skipped: a (") and "1 more" in source.skipped.summary(1)
    with pytest.raises(DataError, match="none of 2 scenes can be used; 2 scenes skipped: a"):
        first_good(source, ["a", "b"], lambda scene: scene.key)
