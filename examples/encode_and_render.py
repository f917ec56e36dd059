"""Encode the photographs of a capture and render an orbit around it, as a video and a token file.

python examples/encode_and_render.py --data my-capture --output orbit.mp4
"""

from pathlib import Path

import imageio
import tyro

from scenetok_ns import SceneTok, as_pictures, camera_path, open_scenes


def main(data: Path, output: Path, model: str = "scenetok-tiny", frames: int = 48) -> None:
    """Render an orbit around a capture.

    Args:
        data: Capture with cameras (transforms.json or a COLMAP model), or a data set.
        output: Video to write (.mp4).
        model: Preset, run folder or released checkpoint.
        frames: Number of frames.
    """
    scenetok = SceneTok.from_pretrained(model)
    views = open_scenes(data, scenetok.preset).context()
    tokens = scenetok.encode(views.images, views.cameras, scene=views.scene, pose_scale=views.pose_scale)
    tokens.save(output.with_suffix(".safetensors"))
    print(f"{len(views.images)} photographs of {views.scene} became {list(tokens.mean.shape)} numbers")

    pictures = as_pictures(scenetok.render(tokens, camera_path("orbit", tokens, frames)))
    imageio.mimwrite(output, list(pictures), fps=24, macro_block_size=1)


if __name__ == "__main__":
    tyro.cli(main)
