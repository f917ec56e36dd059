"""Figures of the embedded tokenizer on held-out demo rooms: fidelity, sharpness, steadiness (docs/scenetok-tiny.md).

    python benchmarks/tiny.py --output figures.json
    python benchmarks/tiny.py --preset old.yaml --weights old.safetensors --output old.json

Minutes on a CPU for each six rooms. `--stlpips` adds the perceptual distance; it needs the package stlpips-pytorch.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import torch

from scenetok_ns.evaluation.perceptual import stlpips
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.weight_files import embedded_weights
from scenetok_ns.training.tiny.evaluation import TinyFigures, TinyModel

STLPIPS_FILE = "weights/vST0.0/alex_shift_tolerant.pth"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="scenetok-tiny", help="name, or a file that ends in .yaml")
    parser.add_argument("--weights", type=Path, default=embedded_weights("scenetok-tiny"))
    parser.add_argument("--rooms", type=int, default=6)
    parser.add_argument("--size", type=int, default=128, help="side of the true pictures in pixels")
    parser.add_argument("--stlpips", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    device = torch.device(options.device)
    model = TinyModel.load(load_preset(options.preset), options.weights, device)
    figures = TinyFigures(model, options.rooms, options.size, device)
    found = {**figures.steadiness(), **figures.fidelity()}
    if options.stlpips:
        spec = find_spec("stlpips_pytorch")
        if spec is None or spec.origin is None:
            raise SystemExit("--stlpips needs the package stlpips-pytorch: pip install stlpips-pytorch")
        network = stlpips(Path(spec.origin).parent / STLPIPS_FILE).to(device)
        made, true = figures.windows(12)
        with torch.no_grad():
            pairs = zip(made, true, strict=True)
            found["stlpips"] = float(torch.cat([network(a[::4], b[::4]) for a, b in pairs]).mean())
    options.output.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
