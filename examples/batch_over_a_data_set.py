"""Encode every scene of a data set, render the target views, and write tokens and a table of PSNR.

Target views are not encoded, except in captures with too few photographs to hold some out, which the output says.

python examples/batch_over_a_data_set.py --data data/re10k --output results
"""

import csv
from pathlib import Path

import tyro

from scenetok_ns import SceneTok, open_scenes


def main(data: Path, output: Path, model: str = "scenetok-tiny", views: int | None = None) -> dict[str, float]:
    """Encode and measure scene after scene. Existing token files are replaced.

    Args:
        data: Data set in the layout of RealEstate10K or DL3DV.
        output: Folder for SCENE.safetensors and psnr.csv.
        model: Preset, run folder or released checkpoint.
        views: Number of target views of each scene. Default: all.
    """
    scenetok = SceneTok.from_pretrained(model)
    scenes = open_scenes(data, scenetok.preset)
    output.mkdir(parents=True, exist_ok=True)
    scores = {}
    for given in scenes:
        tokens = scenetok.encode(given.images, given.cameras, scene=given.scene, pose_scale=given.pose_scale)
        tokens.save(output / f"{given.scene}.safetensors")
        target = scenes.targets(given.scene)
        count = len(target.images) if views is None else views
        frames = scenetok.render(tokens, target.cameras.select(slice(0, count)))
        error = (frames.cpu() - target.images[:count] / 255).square().flatten(1).mean(1)
        scores[given.scene] = float(-10 * error.log10().mean())
        note = "" if target.held_out else " (not held out: some of these views were encoded)"
        print(f"{given.scene}: {scores[given.scene]:.2f} dB{note}")
    with (output / "psnr.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("scene", "psnr"), *scores.items()])
    return scores


if __name__ == "__main__":
    tyro.cli(main)
