"""Draw docs/pictures/walk.webp, rooms.jpg, generated.jpg and curves.png: held-out rooms and the bundled models.

    python scripts/make_pictures.py
    python scripts/make_pictures.py --only curves --figures tokenizer.json

walk.webp (scenetok-tiny) animates a walk through a room: the true room, and beside it the room rendered from its
tokens, which were encoded from 12 of the walk's 48 frames.

rooms.jpg (scenetok-tiny): the first row of each block has eight of the twelve context views, the second has eight other
true views of the walk, and the third has the same views rendered from the scene's tokens.

generated.jpg (scenegen-tiny): the first row of each block has a photograph and seven true views along the walk. The
second row has eight views along the walk through a scene that was generated from the photograph alone, the first at the
photograph's pose; the third row has the same with another seed. The rooms are not hand-picked: they are the first test
rooms of seed 0.

curves.png: PSNR by context views and by tokens, from the figures that benchmarks/tiny.py wrote (`--figures`).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scenetok_ns.data.demo.difficulty import even_split
from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenegen import generate
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.rendering.picture_files import sheet, to_bytes

ROOMS, FRAMES, CONTEXT, SHOWN = 3, 48, 12, 8
SEEDS = 2
QUALITY = 85
WALK_SIZE, WALK_MILLISECONDS = 256, 120
"""Side of a square in pixels, and duration of a frame in milliseconds."""
PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"


def walk(model: SceneTok, seed: int) -> tuple[Float[Tensor, "f 3 height width"], CameraBatch]:
    """Frames and cameras of a walk through a room."""
    rooms = sample_rooms([seed])
    c2w = sample_walks(rooms, FRAMES)
    frames = render_rooms(rooms, c2w, rooms.intrinsics, model.preset.data.image_size)[0]
    return frames, CameraBatch(c2w, rooms.intrinsics[:, None].expand(-1, FRAMES, -1, -1))


def encoded_block(model: SceneTok, seed: int) -> Float[Tensor, "3 height width"]:
    """Draw context views, truth and renderings of one room, one row each."""
    frames, cameras = walk(model, seed)
    context, target = even_split(FRAMES, CONTEXT)
    tokens = model.encode(frames[context], cameras.select(context))
    rendered = model.render(tokens, cameras.select(target))
    spread = spread_over(len(target))
    return sheet([frames[context[spread_over(CONTEXT)]], frames[target][spread], rendered[spread]])


def generated_block(model: SceneTok, seed: int) -> Float[Tensor, "3 height width"]:
    """Draw a true room, and the rooms generated from its first frame with several seeds, one row each."""
    frames, cameras = walk(model, seed)
    shown = spread_over(FRAMES)
    anchors = cameras.select(torch.linspace(0, FRAMES - 1, CONTEXT).round().long())
    rows = [frames[shown]]
    for drawn in range(SEEDS):
        tokens = generate(model, frames[:1], cameras.select([0]), anchors, seed=drawn)
        rows.append(model.render(tokens, cameras)[shown])
    return sheet(rows)


def spread_over(count: int) -> Int[Tensor, " shown"]:
    return torch.linspace(0, count - 1, SHOWN).round().long()


def draw(preset: str, block: Callable[[SceneTok, int], Tensor], path: Path) -> None:
    model = SceneTok.from_preset(load_preset(preset)).eval()
    model.load_embedded()
    blocks = [block(model, scene_seed(0, "test", index)) for index in range(ROOMS)]
    gap = torch.ones(3, 4, blocks[0].shape[2])
    whole = sheet([[part] for made in blocks for part in (made, gap)][:-1])
    picture = Image.fromarray(to_bytes(whole).permute(1, 2, 0).numpy())
    picture.save(path, quality=QUALITY, optimize=True)


def draw_walk(path: Path) -> None:
    """Draw an animation of two squares side by side: the room and its rendering."""
    model = SceneTok.from_preset(load_preset("scenetok-tiny")).eval()
    model.load_embedded()
    frames, cameras = walk(model, scene_seed(0, "test", 0))
    context, _ = even_split(FRAMES, CONTEXT)
    tokens = model.encode(frames[context], cameras.select(context))
    rendered = model.render(tokens, cameras)
    font = ImageFont.load_default(size=16)
    pictures = []
    for number, pair in enumerate(zip(frames, rendered, strict=True)):
        whole = Image.new("RGB", (2 * WALK_SIZE, WALK_SIZE + 28), "white")
        captions = (f"the room (frame {number + 1})", f"rendered from {model.preset.compressor.num_tokens} tokens")
        for column, (frame, caption) in enumerate(zip(pair, captions, strict=True)):
            square = Image.fromarray(to_bytes(frame).permute(1, 2, 0).numpy())
            whole.paste(square.resize((WALK_SIZE, WALK_SIZE), Image.Resampling.BICUBIC), (column * WALK_SIZE, 0))
            ImageDraw.Draw(whole).text((column * WALK_SIZE + 6, WALK_SIZE + 4), caption, "black", font)
        pictures.append(whole)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=WALK_MILLISECONDS, loop=0, quality=70)


def draw_curves(figures: Path, path: Path) -> None:
    """Draw PSNR by number of context views and of tokens."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = json.loads(figures.read_text())
    most = load_preset("scenetok-tiny").compressor.num_tokens
    views = {int(key.removeprefix("views_")): value for key, value in found.items() if re.fullmatch(r"views_\d+", key)}
    parts = {8: "tokens_eighth", 4: "tokens_quarter", 2: "tokens_half", 1: "views_12"}
    tokens = {most // part: found[key] for part, key in parts.items()}
    sheet, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True)
    for axis, curve, label in ((axes[0], views, "context views, all tokens"), (axes[1], tokens, "tokens, 12 views")):
        axis.plot(list(curve), list(curve.values()), "o-")
        axis.axhline(found["nearest_view"], color="grey", linestyle="--", label="nearest of 12 views, copied")
        axis.set(xlabel=label, xticks=list(curve))
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="PSNR (dB)")
    axes[0].legend(loc="lower right")
    sheet.tight_layout()
    sheet.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("walk", "rooms", "generated", "curves"), help="default: all")
    parser.add_argument("--figures", type=Path, help="output of benchmarks/tiny.py; without it, curves are not drawn")
    options = parser.parse_args()
    chosen = options.only or ("walk", "rooms", "generated", *(["curves"] if options.figures else []))
    if "walk" in chosen:
        draw_walk(PICTURES / "walk.webp")
    if "rooms" in chosen:
        draw("scenetok-tiny", encoded_block, PICTURES / "rooms.jpg")
    if "generated" in chosen:
        draw("scenegen-tiny", generated_block, PICTURES / "generated.jpg")
    if "curves" in chosen:
        if options.figures is None:
            parser.error("curves need --figures: the file that benchmarks/tiny.py wrote")
        draw_curves(options.figures, PICTURES / "curves.png")


if __name__ == "__main__":
    main()
