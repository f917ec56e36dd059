"""The I3D of the published FVD equals a plain implementation and recorded logits, and refuses other weight files."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scenetok_ns.evaluation.measures import Measures
from scenetok_ns.evaluation.options import EvaluationOptions
from scenetok_ns.evaluation.published_i3d import I3D, PublishedI3DFeatures, load_i3d
from scenetok_ns.evaluation.weights import PUBLISHED_I3D_FILE, MissingWeightsError, WeightFile

State = dict[str, Tensor]


def random_state() -> State:
    """Random weights in the form of the published file, scaled so that signals keep their size.

    Like that file, they have no counters of batches.
    """
    generator = torch.Generator().manual_seed(0)
    state = OrderedDict()
    for key, value in sorted(I3D().state_dict().items()):
        if key.endswith("num_batches_tracked"):
            continue
        drawn = torch.randn(value.shape, generator=generator)
        if value.ndim == 5:
            drawn *= (2 / value[0].numel()) ** 0.5
        elif key.endswith(("running_var", "bn.weight")):
            drawn = 1 + 0.2 * drawn.clamp(-2, 2)
        else:
            drawn *= 0.1
        state[key] = drawn
    return state


@pytest.fixture(scope="module")
def state() -> State:
    return random_state()


@pytest.fixture(scope="module")
def weights(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "rgb_imagenet.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)  # as files of 2018 are
    return path


def taps(length: int, window: int, stride: int) -> tuple[int, int]:
    """Number of zeros in front and of outputs, for TensorFlow's SAME padding along one axis."""
    places = -(-length // stride)
    return max((places - 1) * stride + window - length, 0) // 2, places


def windows(x: Tensor, window: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Shifted copies of a video, one for each place in a window: [taps, n, c, f2, h2, w2], by plain indexing."""
    before, places = zip(*map(taps, x.shape[2:], window, stride), strict=True)
    copies = []
    for offsets in itertools.product(*map(range, window)):
        part = x
        for axis, (offset, first, count, step) in enumerate(zip(offsets, before, places, stride, strict=True), 2):
            at = torch.arange(count) * step + offset - first
            inside = (at >= 0) & (at < x.shape[axis])
            part = part.index_select(axis, at.clamp(0, x.shape[axis] - 1))
            part = part * inside.reshape([-1 if other == axis else 1 for other in range(5)])
        copies.append(part)
    return torch.stack(copies)


def plain_features(state: State, video: Tensor) -> Tensor:
    """Compute the network from its description: sums over the taps of each window, in float64, without modules."""

    def unit(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.conv3d.weight"].double()
        shifted = windows(x, weight.shape[2:], (stride,) * 3)
        y = torch.einsum("tncfhw,dct->ndfhw", shifted, weight.flatten(2))
        scale = state[f"{name}.bn.weight"].double() / (state[f"{name}.bn.running_var"].double() + 1e-3).sqrt()
        shift = state[f"{name}.bn.bias"].double() - state[f"{name}.bn.running_mean"].double() * scale
        return (y * scale.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1)).clamp(min=0)

    def pool(x: Tensor, window: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return windows(x, window, stride).amax(dim=0)

    def mixed(x: Tensor, name: str) -> Tensor:
        first = unit(unit(x, f"{name}.b1a"), f"{name}.b1b")
        second = unit(unit(x, f"{name}.b2a"), f"{name}.b2b")
        third = unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b")
        return torch.cat([unit(x, f"{name}.b0"), first, second, third], dim=1)

    x = pool(unit(video.double(), "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    x = pool(mixed(mixed(x, "Mixed_3b"), "Mixed_3c"), (3, 3, 3), (2, 2, 2))
    for name in "bcdef":
        x = mixed(x, f"Mixed_4{name}")
    return mixed(mixed(pool(x, (2, 2, 2), (2, 2, 2)), "Mixed_5b"), "Mixed_5c")


@pytest.mark.parametrize("shape", [(9, 40, 56), (11, 33, 64)])  # with odd sizes at several levels
def test_features_are_those_of_a_plain_implementation(state: State, weights: Path, shape: tuple[int, ...]) -> None:
    video = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        found, expected = load_i3d(weights).features(video), plain_features(state, video)
    assert expected.shape[1] == 1024 and expected.std() > 0.1
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


RECORDED = (-0.149, -3.7465, 2.9576, -0.7704, -1.5054, -0.669, 0.588, -5.9001, -4.629, 1.6491, -1.408, 2.6374)
"""First logits of pytorch-i3d's own network (commit 05783d1, torch 2.14, CPU) with these weights for `waves`."""


def waves(frames: int) -> Tensor:
    """Create a clip [1, frames, 3, 32, 32] in [0, 1] that is the same with every version of torch."""
    t, c, y, x = torch.meshgrid(*map(torch.arange, (frames, 3, 32, 32)), indexing="ij")
    return (0.5 + 0.5 * torch.sin(0.3 * t + c + 0.2 * y + 0.1 * x * (1 + t / 9)))[None].float()


def test_logits_are_those_of_pytorch_i3d(weights: Path) -> None:
    with torch.no_grad():
        found = PublishedI3DFeatures(weights)(waves(9))
    assert found.shape == (1, 400)
    torch.testing.assert_close(found[0, : len(RECORDED)], torch.tensor(RECORDED), rtol=1e-3, atol=1e-3)


def test_clips_with_another_number_of_vectors_are_refused(weights: Path) -> None:
    network = PublishedI3DFeatures(weights)
    for frames in (8, 17):
        with pytest.raises(ValueError, match=rf"takes clips of 9 to 16 frames, got {frames}"):
            network(torch.zeros(1, frames, 3, 8, 8))
    with pytest.raises(ValueError, match=r"--fvd-frames must be at most 16 with --fvd-protocol published, got 17"):
        EvaluationOptions(fvd_protocol="published", fvd_frames=17)
    EvaluationOptions(fvd_frames=17)


def test_other_files_are_refused(state: State, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(b"none")
    with pytest.raises(MissingWeightsError, match=r"other\.pt is not pytorch-i3d's rgb_imagenet\.pt \(") as caught:
        load_i3d(path)
    assert "\n" not in str(caught.value)
    torch.save({key: value for key, value in state.items() if key != "logits.conv3d.bias"}, path)
    with pytest.raises(MissingWeightsError, match=r"Missing key.*logits\.conv3d\.bias"):
        load_i3d(path)
    torch.save({**state, "logits.conv3d.bias": torch.zeros(157)}, path)  # as for Charades
    with pytest.raises(MissingWeightsError, match=r"size mismatch for logits\.conv3d\.bias"):
        load_i3d(path)
    torch.save(state, path)
    with pytest.raises(MissingWeightsError, match=r"not the published rgb_imagenet\.pt: its SHA-256 begins with"):
        PUBLISHED_I3D_FILE.find(path, download=False)


def test_pictures_are_measured_before_they_are_rounded(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightFile, "find", lambda self, given, download: given)
    options = EvaluationOptions(metrics=("fvd",), fvd_protocol="published", i3d_weights=weights, fvd_frames=10)
    measures = Measures.load(options, "cpu")
    clip = waves(10)[0]
    target = (clip.flip(0) * 255).round().to(torch.uint8)
    assert isinstance(measures.i3d, PublishedI3DFeatures)
    given: list[Tensor] = []

    class Seen(torch.nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            given.append(clips)
            return clips.flatten(1)[:, :400]

    measures.i3d = Seen()
    measured = measures.measure(pred=clip, target=target, frames=range(10))
    assert torch.equal(given[0][0], clip) and torch.equal(given[1][0], target.float() / 255)
    assert set(measured.pred) == set(measured.target) == {"i3d_published"}
    assert torch.equal(measured.pred["i3d_published"], given[0].flatten(1)[:, :400])
    assert "pytorch-i3d's rgb_imagenet.pt" in measures.describe()["set_metrics"]
    alone = measures.measure(pred=clip[:1], target=target[:1], frames=[0])
    assert alone.pred["i3d_published"].shape == (0, 400)
