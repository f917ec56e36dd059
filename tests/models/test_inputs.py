"""Photographs and cameras of any kind become the same tensors; impossible ones are refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.small_models import small_model, views

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.inputs import as_images, check_axes, check_cameras
from scenetok_ns.models.token_fitting import fit_tokens

BYTES = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
ARRAY = BYTES.movedim(1, -1).numpy()


@pytest.mark.parametrize(
    "images",
    [
        BYTES,
        ARRAY,
        BYTES.float() / 255,
        BYTES.double() / 255,
        ARRAY.astype(np.float32) / 255,
        [Image.fromarray(picture) for picture in ARRAY],
        [Image.fromarray(picture).convert("RGBA") for picture in ARRAY],
        list(ARRAY),
        list(BYTES),
        tuple(picture / 255 for picture in ARRAY),
    ],
    ids=["bytes", "array", "float", "double", "float array", "pictures", "RGBA", "arrays", "tensors", "floats"],
)
def test_every_kind_of_images_becomes_the_same(images: Any) -> None:
    found = as_images(images, "encode")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, BYTES / 255)


def nan(images: torch.Tensor) -> torch.Tensor:
    images = images.clone()
    images[1, 0, 3, 3] = float("nan")
    return images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (BYTES.float(), r"expected float images in \[0, 1\], got 0 to 255; they look like 0 to 255: divide by 255"),
        (BYTES.float() / 127.5 - 1, "they look like -1 to 1"),
        (BYTES.float() / 255 * 1.2, "clamp them"),
        (nan(BYTES / 255), "image 1 holds numbers that are not finite"),
        (BYTES.long(), "uint8 images in 0 to 255 or floating-point ones"),
        (BYTES[0], r"expected images \[v, 3, height, width\] or .*, got \[3, 16, 16\]; for one photograph, use image"),
        (ARRAY[0], r"got \[16, 16, 3\]; for one photograph, use image\[None\]"),
        (BYTES[0, 0], r"got \[16, 16\]$"),
        (BYTES[None], "encode several scenes with encode_many"),
        (BYTES[:, :2], r"got \[3, 2, 16, 16\]"),
        ([ARRAY[0], ARRAY[1][:8]], "of one size, .* crop them with square_views"),
        ([], "at least one image"),
        (["a.png"], "expected tensors, arrays or PIL pictures, got str"),
        ("a.png", "expected images as a tensor, an array or a list, got str"),
    ],
)
def test_images_that_cannot_be_right_are_refused(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^encode: .*{message}") as stop:
        as_images(images, "encode")
    assert "\n" not in str(stop.value)


def test_filters_may_overshoot_a_little() -> None:
    images = torch.rand(2, 3, 16, 16)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = -0.005, 1.005
    assert torch.equal(as_images(images, "encode"), images)


def changed(part: str, place: tuple[int, ...], value: float) -> CameraBatch:
    cameras = views(3)[1]
    c2w, intrinsics = cameras.c2w.clone(), cameras.intrinsics.clone()
    (c2w if part == "c2w" else intrinsics)[place] = value
    return CameraBatch(c2w, intrinsics)


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (changed("c2w", (0, 1, 0, 3), float("nan")), "camera 1 of 3 is not finite"),
        (changed("intrinsics", (0, 2, 0, 0), float("inf")), "camera 2 of 3 is not finite"),
        (changed("c2w", (0, 0, 0, 0), 2.0), "camera 0 of 3 has a pose that is not a rotation and a position"),
        (changed("c2w", (0, 0, 0, 0), -1.0), "camera 0 of 3 has a pose that is not a rotation and a position"),
        (changed("intrinsics", (0, 1, 0, 0), 0.0), "camera 1 of 3 has a focal length that is not above 0"),
        (changed("intrinsics", (0, 1, 0, 2), 128.0), "camera 1 of 3 has intrinsics in pixels: divide the first row"),
        (changed("intrinsics", (0, 1, 1, 1), 525.0), "camera 1 of 3 has intrinsics in pixels"),
        (changed("intrinsics", (0, 2, 0, 0), 0.8 / 64), "camera 2 of 3 has a field of view of 177 degrees: .* twice"),
    ],
)
def test_cameras_that_no_photograph_has_are_refused(cameras: CameraBatch, message: str) -> None:
    check_cameras(views(3)[1], "encode")
    with pytest.raises(ValueError, match=f"^encode: {message}"):
        check_cameras(cameras, "encode")


def test_cameras_of_one_scene_need_a_batch_axis() -> None:
    cameras = views(3)[1]
    with pytest.raises(ValueError, match=r"got \[3, 4, 4\] and \[3, 3, 3\]; for one scene, add a batch axis: c2w\["):
        CameraBatch(cameras.c2w[0], cameras.intrinsics[0])
    with pytest.raises(ValueError, match=r"got \[1, 3, 3, 4\] and \[1, 3, 3, 3\]$"):
        CameraBatch(cameras.c2w[:, :, :3], cameras.intrinsics)


def test_arguments_of_another_type_are_refused_in_one_line() -> None:
    model, (images, cameras) = small_model("1:1"), views(3)
    tokens: Any = model.encode(images, cameras)
    other: Any = cameras.c2w
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: model.encode(images, other), "^encode: expected cameras of type CameraBatch, got Tensor; make them"),
        (
            lambda: model.encode(images, cameras, pose_scale=[1.0]),
            "^encode: expected pose_scale of type float, got l",
        ),  # type: ignore[arg-type]
        (lambda: model.add_views(other, images, cameras), "expected tokens of type SceneTokens, got Tensor"),
        (lambda: model.render(tokens, other), "^render: expected cameras of type CameraBatch, got Tensor; make them"),
        (lambda: model.render(cameras, tokens), "^render: expected cameras of type CameraBatch, got SceneTokens"),  # type: ignore[arg-type]
        (lambda: model.render(tokens.mean, cameras), r"of type SceneTokens, got Tensor; wrap .* replace\(tokens, mean"),
        (lambda: model.predict(tokens.mean, cameras), "expected tokens of type SceneTokens, got Tensor"),
        (lambda: model.render(tokens, cameras, sampler={"steps": 4}), "of type SamplerConfig, got dict; change the"),  # type: ignore[arg-type]
        (lambda: model.render(tokens, cameras, seed=0.5), r"expected a seed of type int, got float; use int\(seed\)"),  # type: ignore[arg-type]
        (lambda: model.render(tokens, cameras, seed=np.int64(3)), r"got int64; use int\(seed\)"),  # type: ignore[arg-type]
        (lambda: model.predict(tokens, cameras, seed=0.5), "^predict: expected a seed of type int, got float"),  # type: ignore[arg-type]
        (lambda: fit_tokens(model, tokens, images, cameras, seed="1"), "^fit_tokens: expected a seed of type int"),  # type: ignore[arg-type]
        (
            lambda: model.render_many(tokens, [cameras]),
            "expected tokens of type Sequence, .* for one scene, use render",
        ),
        (lambda: model.render_many([tokens], cameras), "expected cameras of type Sequence, got CameraBatch"),  # type: ignore[arg-type]
        (lambda: replace(tokens, mean=tokens.mean.numpy()), "mean of type Tensor, got ndarray; .*torch.from_numpy"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message) as stop:
            call()
        assert "\n" not in str(stop.value)
    model.encode(images, cameras, pose_scale=np.float32(2.0))  # type: ignore[arg-type]


def orbit(facing: float, count: int = 12) -> CameraBatch:
    """OpenCV cameras on a circle in a world with z up. They face inwards if `facing` is 1, outwards if it is -1."""
    angles = torch.linspace(0, 2, count)
    out = torch.stack([angles.cos(), angles.sin(), torch.zeros(count)], -1)
    ahead, down = -facing * out, torch.tensor([0.0, 0.0, -1.0]).expand(count, 3)
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, :3] = torch.stack([torch.linalg.cross(down, ahead), down, ahead, 3 * out], -1)
    return CameraBatch(c2w[None], views(1)[1].intrinsics.expand(1, count, 3, 3))


def test_poses_that_look_like_opengl_are_refused() -> None:
    right = orbit(1)
    assert torch.allclose(torch.linalg.det(right.c2w), torch.ones(12))
    check_axes(right, "encode")
    check_axes(orbit(-1), "encode")  # a camera that turns around its own axis also faces outwards
    check_axes(right.select([0, 1]), "encode")
    wrong = CameraBatch.from_opengl(right.c2w, right.intrinsics)
    with pytest.raises(ValueError, match=r"^encode: .* look like OpenGL's .* CameraBatch.from_opengl, or"):
        check_axes(wrong, "encode")
    again = CameraBatch.from_opengl(wrong.c2w, wrong.intrinsics)
    assert torch.equal(again.c2w, right.c2w)


def test_encode_looks_at_everything_that_it_is_given() -> None:
    model, (images, cameras) = small_model(), views(12)
    expected = model.encode((images * 255).byte(), cameras).mean
    pictures = [Image.fromarray(picture) for picture in (images * 255).byte().movedim(1, -1).numpy()]
    assert torch.equal(model.encode(pictures, cameras).mean, expected)
    with pytest.raises(ValueError, match="divide by 255"):
        model.encode(images * 255, cameras)
    pixels = CameraBatch(cameras.c2w, cameras.intrinsics * torch.tensor([[1600.0], [900.0], [1.0]]))
    with pytest.raises(ValueError, match="in pixels"):
        model.encode(images, pixels)
    back = CameraBatch.from_pixels(pixels.c2w, pixels.intrinsics, 1600, 900)
    torch.testing.assert_close(back.intrinsics, cameras.intrinsics)
    wrong = CameraBatch.from_opengl(orbit(1).c2w, cameras.intrinsics)
    with pytest.raises(ValueError, match="OpenGL"):
        model.encode(images, wrong)
    model.encode(images, wrong, axes_checked=True)
    with pytest.raises(ValueError, match=r"got images \[0, 3, 16, 16\] and cameras \[1, 0\]"):
        model.encode(images[:0], cameras.select([]))
    with pytest.raises(ValueError, match="expected a camera for each image, got 12 images and 11 cameras"):
        model.encode(images, cameras.select(slice(11)))
