"""Measure the bundled models on held-out demo rooms (docs/scenetok-tiny.md, docs/scenegen-tiny.md).

    python benchmarks/tiny.py --stlpips --output tokenizer.json
    python benchmarks/tiny.py --generated 16 --output generator.json
    python benchmarks/tiny.py --preset old.yaml --weights old.safetensors --output old.json

For the tokenizer: fidelity by views, tokens and steps, sharpness, steadiness. Six rooms take ten minutes on a free CPU
core. For the generator, with `--generated ROOMS`: how well a scene generated from a photograph reproduces it, and how
far its pictures are from true ones. `--stlpips` adds the perceptual distance; it needs the package stlpips-pytorch.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from scenetok_ns.data.demo.difficulty import nearest_views
from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.evaluation.distributions import frechet_distance
from scenetok_ns.evaluation.perceptual import stlpips
from scenetok_ns.models.autoencoders.conv import ConvAutoencoder, ConvCodec
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenegen import generate
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.weight_files import embedded_weights, load_weights
from scenetok_ns.training.tiny.evaluation import NUM_FRAMES, WINDOWS, TinyFigures, TinyModel, edge_contrast, mean_psnr
from scenetok_ns.training.tiny.tokenizer import middle_views

STLPIPS_FILE = "weights/vST0.0/alex_shift_tolerant.pth"
CONTEXT, SHOWN = 12, 16
"""Number of anchors of a generated scene, or photographs of an encoded one, and of views rendered from either."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="name, or a file that ends in .yaml; default: the bundled model's")
    parser.add_argument("--weights", type=Path, default=embedded_weights("scenetok-tiny"))
    parser.add_argument("--rooms", type=int, default=6)
    parser.add_argument("--size", type=int, default=128, help="side of the true pictures in pixels")
    parser.add_argument("--stlpips", action="store_true")
    parser.add_argument("--generated", type=int, metavar="ROOMS", help="measure the generator on this number of rooms")
    parser.add_argument("--generator-weights", type=Path, default=embedded_weights("scenegen-tiny"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    found = tokenizer_figures(options) if options.generated is None else generator_figures(options)
    options.output.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


def tokenizer_figures(options: argparse.Namespace) -> dict[str, float]:
    device = torch.device(options.device)
    model = TinyModel.load(load_preset(options.preset or "scenetok-tiny"), options.weights, device)
    figures = TinyFigures(model, options.rooms, options.size, device)
    found = {**copies(figures), **figures.steadiness(), **figures.fidelity()}
    if options.stlpips:
        spec = find_spec("stlpips_pytorch")
        if spec is None or spec.origin is None:
            raise SystemExit("--stlpips needs the package stlpips-pytorch: pip install stlpips-pytorch")
        network = stlpips(Path(spec.origin).parent / STLPIPS_FILE).to(device)
        made, true = figures.windows(12)
        with torch.no_grad():
            pairs = zip(made, true, strict=True)
            found["stlpips"] = float(torch.cat([network(a[::4], b[::4]) for a, b in pairs]).mean())
    return found


def copies(figures: TinyFigures) -> dict[str, float]:
    """PSNR in dB of two baselines: the mean colour of the context views, and the context view nearest to each frame.

    They are measured on the same frames as the model, without those that are context views themselves.
    """
    context = middle_views(NUM_FRAMES, CONTEXT)
    target = torch.cat([torch.arange(first, first + figures.model.preset.sampler.window) for first in WINDOWS])
    target = target[~torch.isin(target, context)]
    nearest, colour, true = [], [], figures.truth[:, target]
    for frames, c2w in zip(figures.truth, figures.cameras.c2w, strict=True):
        nearest.append(frames[context[nearest_views(c2w[target].cpu(), c2w[context].cpu())]])
        colour.append(frames[context].mean(dim=(0, 2, 3))[None, :, None, None].expand_as(nearest[-1]))
    return {"mean_colour": mean_psnr(torch.stack(colour), true), "nearest_view": mean_psnr(torch.stack(nearest), true)}


@torch.no_grad()
def generator_figures(options: argparse.Namespace) -> dict[str, float]:
    """PSNR in dB of the reproduced photograph and of the other views; Fréchet distances of rendered from true views.

    The features of the distance are the codes of the bundled codec, averaged over the quadrants of a picture. They are
    the same for every model that is measured.
    """
    device = torch.device(options.device)
    preset = load_preset(options.preset or "scenegen-tiny")
    model = SceneTok.from_preset(preset).eval()
    load_weights({"compressor": model.compressor, "denoiser": model.denoiser}, options.weights)
    for autoencoder in (model.context_autoencoder, model.target_autoencoder):
        assert isinstance(autoencoder, ConvAutoencoder)
        load_weights({"codec": autoencoder.codec}, options.weights)
    load_weights({"scene_generator": model.scene_generator}, options.generator_weights)
    model.to(device)
    judge = ConvCodec()
    load_weights({"codec": judge}, embedded_weights("scenetok-tiny"))
    judge.to(device).eval()
    rooms = sample_rooms([scene_seed(0, "test", index) for index in range(options.generated)], device)
    c2w = sample_walks(rooms, NUM_FRAMES)
    truth = render_rooms(rooms, c2w, rooms.intrinsics, options.size)
    cameras = [
        CameraBatch(p[None], k[None, None].expand(1, NUM_FRAMES, 3, 3))
        for p, k in zip(c2w, rooms.intrinsics, strict=True)
    ]
    shown = torch.linspace(0, NUM_FRAMES - 1, SHOWN).round().long()
    anchors, context = torch.linspace(0, NUM_FRAMES - 1, CONTEXT).round().long(), middle_views(NUM_FRAMES, CONTEXT)

    def resized(frames: Tensor, size: int, mode: str) -> Tensor:
        return frames if frames.shape[-1] == size else F.interpolate(frames, size=(size, size), mode=mode).clamp(0, 1)

    generated, swapped, encoded = [], [], []
    small = [resized(frames, preset.data.image_size, "area") for frames in truth]
    for index, posed in enumerate(cameras):
        given, aimed = posed.select([0]), posed.select(anchors)
        for kept, photograph in ((generated, small[index]), (swapped, small[index - 1])):
            tokens = generate(model, photograph[:1], given, aimed)
            views = posed.select(shown if kept is generated else [0])
            kept.append(resized(model.render(tokens, views), options.size, "bicubic"))
        tokens = model.encode(small[index][context], posed.select(context))
        encoded.append(resized(model.render(tokens, posed.select(shown)), options.size, "bicubic"))
    true = truth[:, shown]
    made, back, best = torch.stack(generated), torch.stack(swapped), torch.stack(encoded)

    def features(frames: Tensor) -> Tensor:
        codes = torch.cat([judge.encode(room * 2 - 1) for room in frames])
        return F.adaptive_avg_pool2d(codes, 2).flatten(1)

    half = len(true) // 2
    return {
        "photograph": mean_psnr(made[:, :1], true[:, :1]),
        "photograph_from_another": mean_psnr(back, true[:, :1]),
        "other_views": mean_psnr(made[:, 1:], true[:, 1:]),
        "other_views_encoded": mean_psnr(best[:, 1:], true[:, 1:]),
        "frechet_generated": frechet_distance(features(made), features(true)),
        "frechet_encoded": frechet_distance(features(best), features(true)),
        "frechet_halves_of_truth": frechet_distance(features(true[:half]), features(true[half:])),
        "edges_generated": edge_contrast(made) / edge_contrast(true),
    }


if __name__ == "__main__":
    main()
