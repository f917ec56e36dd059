"""Features and measurements of views: networks, preprocessing, and the roles of prediction and target."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance

from scenetok_ns.evaluation.distributions import kernel_distance
from scenetok_ns.evaluation.features import I3DFeatures, InceptionFeatures, clips_of
from scenetok_ns.evaluation.measures import CHUNK, Measures
from scenetok_ns.evaluation.options import EvaluationOptions
from scenetok_ns.evaluation.weights import MissingWeightsError, WeightFile
from scenetok_ns.models.metrics import psnr, ssim, ssim_skimage
from scenetok_ns.rendering.picture_files import to_bytes
from scenetok_ns.tools.digests import sha256_of


def bytes_of(count: int, side: int, seed: int = 0, offset: int = 0) -> torch.Tensor:
    """Create pictures with structure, darker by `offset`."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1) * 255
    return (smooth - offset).clamp(0, 255).to(torch.uint8)


def test_psnr_and_ssim_are_skimages() -> None:
    target, pred = bytes_of(3, 48).float() / 255, bytes_of(3, 48, seed=1).float() / 255
    pred[2] = target[2] * 0.9 + 0.05  # one that is like the truth
    for place in range(3):
        a, b = (values[place].permute(1, 2, 0).double().numpy() for values in (target, pred))
        expected = peak_signal_noise_ratio(a, b, data_range=1.0)
        assert float(psnr(pred=pred, target=target)[place]) == pytest.approx(expected, abs=1e-4)
        settings = {"gaussian_weights": True, "win_size": 11, "data_range": 1.0, "channel_axis": 2}
        expected = structural_similarity(a, b, **settings)  # as the published code calls it
        assert float(ssim_skimage(pred=pred, target=target)[place]) == pytest.approx(expected, abs=1e-5)
    # torchmetrics, which Nerfstudio reports, also counts the border, where the window goes over the edge.
    assert float(ssim(pred=pred, target=target)[2]) == pytest.approx(expected, abs=0.01)


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of the published form with random weights."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.save({}, path)
        network = FeatureExtractorInceptionV3("random", ["2048"], str(path))
    state = network.state_dict()
    for name, value in state.items():  # with the default initialisation, signals would vanish after 90 layers
        if value.ndim == 4:
            torch.nn.init.kaiming_normal_(value)
        elif name.endswith("running_var"):
            value.fill_(1.0)
    torch.save(state, path)
    return path


class Pictures(torch.utils.data.Dataset):
    def __init__(self, pictures: torch.Tensor) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, place: int) -> torch.Tensor:
        return self.pictures[place]


def test_inception_features_are_torch_fidelitys_from_pictures_on(inception: Path) -> None:
    """KID from pictures equals torch-fidelity's.

    Its Frechet distance of 2048 features takes a minute, so test_distributions compares that on small features.
    """
    pred, target = bytes_of(3, 40), bytes_of(4, 40, seed=1, offset=30)
    network = InceptionFeatures(inception)
    with torch.no_grad():
        first, second = network(pred), network(target)
    assert first.std() > 1e-3
    expected = calculate_metrics(
        input1=Pictures(pred),
        input2=Pictures(target),
        kid=True,
        kid_subset_size=3,
        cuda=False,
        verbose=False,
        save_cpu_ram=True,  # no workers
        feature_extractor_weights_path=str(inception),
    )
    # The library sums kernels in float32.
    assert kernel_distance(first, second)[0] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3)


def test_published_fid_features_are_torchmetrics_s(inception: Path) -> None:
    """The published code truncates pictures to bytes before it passes them to torchmetrics."""
    pred, target = bytes_of(3, 40).float() / 255 * 0.99, bytes_of(3, 40, seed=1)
    theirs = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(inception))
    with torch.no_grad():
        expected = {
            "pred": theirs.inception((pred * 255).to(torch.uint8)),
            "target": theirs.inception((target.float() / 255 * 255).to(torch.uint8)),
        }
    options = EvaluationOptions(metrics=("fid",), inception_weights=inception, fid_protocol="published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WeightFile, "find", lambda self, given, download: given)
        measures = Measures.load(options, "cpu")
    measured = measures.measure(pred=pred, target=target, frames=range(3))
    assert set(measured.pred) == {"inception_published"}
    for side in ("pred", "target"):
        torch.testing.assert_close(getattr(measured, side)["inception_published"], expected[side])
    clean = InceptionFeatures(inception)(target)
    assert not torch.allclose(clean, expected["target"], rtol=1e-3)
    assert "antialiased" in measures.describe()["set_metrics"]


class FakeI3D(torch.nn.Module):
    """A network with the interface of the published file, whose features are 400 numbers of its input."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert not rescale and not resize and return_features
        assert x.shape[1] == 3 and x.shape[3] == 224 and x.shape[4] == 224
        return x.mean(dim=1)[:, :, ::56, ::9].flatten(1)[:, :400]


@pytest.fixture(scope="module")
def i3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "i3d.pt"
    torch.jit.script(FakeI3D()).save(str(path))
    return path


def test_i3d_gets_the_communitys_input(i3d: Path) -> None:
    clips = torch.stack([bytes_of(16, 32), bytes_of(16, 32, seed=1)])
    found = I3DFeatures(i3d)(clips)
    # The input of fvd-comparison: frames resized one by one, then 2 x / 255 - 1, with channels before time.
    expected = []
    for clip in clips.numpy():
        frames = [
            F.interpolate(torch.from_numpy(f)[None].float(), size=224, mode="bilinear", align_corners=False)[0]
            for f in clip
        ]
        video = torch.stack(frames, dim=1)[None]
        expected.append(FakeI3D()(2.0 * video / 255.0 - 1.0, return_features=True))
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert found.abs().max() <= 1 + 1e-5 and found.min() < 0


def test_a_wrong_i3d_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "i3d.pt").write_bytes(b"none")
    with pytest.raises(MissingWeightsError, match=r"not the TorchScript file i3d_torchscript\.pt"):
        I3DFeatures(tmp_path / "i3d.pt")


def test_clips_are_neighbouring_frames() -> None:
    assert clips_of(range(40), 16) == [range(0, 16), range(16, 32)]
    assert clips_of([0, 2, 4, 6, 8], 2) == [range(0, 2), range(2, 4)]
    assert clips_of([0, 1, 2, 9, 10, 11, 12], 3) == [range(0, 3), range(3, 6)]
    assert clips_of([5], 16) == [] and clips_of([], 16) == []


@given(st.lists(st.integers(1, 3), min_size=1, max_size=40), st.integers(2, 6))
def test_clips_of_any_frames(leaps: list[int], length: int) -> None:
    frames = np.cumsum(leaps).tolist()
    clips = clips_of(frames, length)
    stride = min(leaps[1:], default=1)
    assert all(frames[b] - frames[a] == stride for clip in clips for a, b in pairwise(clip))
    assert all(len(clip) == length for clip in clips)
    assert all(a.stop <= b.start for a, b in pairwise(clips))


class Corners(torch.nn.Module):
    """Features that are quick to compute and depend on a single picture."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.dtype == torch.uint8
        return pictures[..., :2, :2].float().flatten(1)


@pytest.fixture(scope="module")
def measures() -> Measures:
    found = Measures.load(EvaluationOptions(metrics=("stlpips",), fvd_frames=4), "cpu")
    found.inception = Corners()
    return found


def test_a_scene_is_measured_view_by_view(measures: Measures) -> None:
    pytest.importorskip("stlpips_pytorch")
    count = CHUNK + 3
    target, pred = bytes_of(count, 32), bytes_of(count, 32, seed=1).float() / 255
    found = measures.measure(pred=pred, target=target, frames=range(count))
    assert set(found.views) == {"psnr", "ssim", "ssim_skimage", "stlpips_alex"}
    assert all(values.shape == (count,) for values in found.views.values())
    alone = measures.measure(pred=pred[5:6], target=target[5:6], frames=[5])
    for name, values in alone.views.items():
        torch.testing.assert_close(values[0], found.views[name][5], rtol=1e-4, atol=1e-5)
    assert found.pred["stlpips_alex"].shape == (count, 256)
    assert found.pred["stlpips_alex_clips"].shape == (count // 4, 512)
    assert alone.pred["stlpips_alex_clips"].shape == (0, 512)
    torch.testing.assert_close(found.pred["inception"], measures.inception(to_bytes(pred)), rtol=1e-4, atol=1e-4)


def test_prediction_and_target_are_not_swapped(measures: Measures) -> None:
    """Features of predictions and targets are kept apart. The published code had their names exchanged."""
    target, pred = bytes_of(3, 32), bytes_of(3, 32, seed=1).float() / 255
    found = measures.measure(pred=pred, target=target, frames=range(3))
    torch.testing.assert_close(found.target["inception"], measures.inception(target), rtol=1e-4, atol=1e-4)
    swapped = measures.measure(pred=target.float() / 255, target=to_bytes(pred), frames=range(3))
    torch.testing.assert_close(swapped.pred["inception"], found.target["inception"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found.pred["inception"], found.target["inception"], rtol=1e-2)
    with pytest.raises(TypeError):
        measures.measure(pred, target, frames=range(3))  # only keyword arguments are allowed


def test_networks_come_from_their_files(
    inception: Path, i3d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All published metrics load their networks from given paths. The test only turns off the check of the hashes."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    torch.save(alexnet(weights=None).state_dict(), tmp_path / "alex.pth")
    files = {"alex": tmp_path / "alex.pth", "inception": inception, "i3d": i3d}
    options = EvaluationOptions(
        metrics=("lpips", "fid", "kid", "fvd"),
        lpips_network="alex",
        lpips_weights=files["alex"],
        inception_weights=inception,
        i3d_weights=i3d,
        fvd_frames=10,
    )
    refused = Measures.load(options, "cpu").not_computed  # random weights are not the published ones
    assert set(refused) == {"lpips_alex", "fid", "kid", "fvd"}
    assert "is not the published" in refused["fid"] and "is not the published" in refused["fvd"]
    monkeypatch.setattr(WeightFile, "find", lambda self, given, download: given)
    found = Measures.load(options, "cpu")
    assert not found.not_computed
    assert found.sources["inception"] == {"inception.pth": sha256_of(inception)}
    target, pred = bytes_of(10, 32), bytes_of(10, 32, seed=1).float() / 255
    measured = found.measure(pred=pred, target=target, frames=range(10))
    assert (measured.views["lpips_alex"] > 0).all()
    assert measured.pred["inception"].shape == (10, 2048) and measured.target["i3d"].shape == (1, 400)
    torch.testing.assert_close(measured.target["i3d"], I3DFeatures(i3d)(target[None]), rtol=1e-4, atol=1e-4)
    without_clip = found.measure(pred=pred[:1], target=target[:1], frames=[0])
    assert without_clip.pred["i3d"].shape == without_clip.target["i3d"].shape == (0, 400)


def test_missing_weights_are_named_not_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = Measures.load(EvaluationOptions(metrics=("lpips", "fid", "kid", "fvd")), "cpu")
    assert set(found.not_computed) == {"lpips_vgg", "fid", "kid", "fvd"}
    assert "weights-inception-2015-12-05-6726825d.pth" in found.not_computed["kid"]
    every = r"lpips_vgg: needs vgg16-.*; fid, kid: needs weights-inception-.*; fvd: needs i3d_torchscript.*--metrics$"
    with pytest.raises(MissingWeightsError, match=every) as stop:
        found.check_requested()
    assert "\n" not in str(stop.value)
    Measures.load(EvaluationOptions(), "cpu").check_requested()  # by default, such metrics are left out
    with pytest.raises(MissingWeightsError, match=r"cannot compute fvd: needs rgb_imagenet\.pt"):
        Measures.load(EvaluationOptions(fvd_protocol="published"), "cpu").check_requested()
    values = found.measure(pred=bytes_of(1, 32).float() / 255, target=bytes_of(1, 32), frames=[0])
    assert set(values.views) == {"psnr", "ssim", "ssim_skimage"} and not values.pred
