"""Generate a scene from one photograph, several times, and render a walk into each.

python examples/generate_a_scene.py --photograph room.jpg --output generated
"""

from dataclasses import replace
from pathlib import Path

import tyro
from PIL import Image

from scenetok_ns import SceneTok, as_pictures, generate, photograph_views


def main(
    photograph: Path, output: Path, model: str = "scenegen-tiny", seeds: int = 2, steps: int | None = None
) -> None:
    """Generate scenes that fit a photograph.

    Args:
        photograph: Picture of a room.
        output: Folder for a token file and a strip of frames of each scene.
        model: Preset, run folder or released checkpoint of a scene generator.
        seeds: Number of scenes.
        steps: Number of steps of each generation; default: the preset's.
    """
    scenegen = SceneTok.from_pretrained(model)
    views = photograph_views(photograph, scenegen.preset, "forward")
    sampler = scenegen.preset.scene_sampler
    sampler = replace(sampler, steps=steps or sampler.steps)
    output.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        tokens = generate(scenegen, views.images, views.cameras, views.anchors, seed=seed, sampler=sampler)
        tokens.save(output / f"seed{seed}.safetensors")
        frames = scenegen.render(tokens, views.anchors)
        strip = as_pictures(frames).swapaxes(0, 1).reshape(frames.shape[-2], -1, 3)
        Image.fromarray(strip).save(output / f"seed{seed}.png")


if __name__ == "__main__":
    tyro.cli(main)
