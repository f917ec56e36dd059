"""Use scene tokens as features: recognise rooms by their tokens, without rendering anything.

Encodes each room twice, from two halves of its photographs, and finds the other half by the distance of the tokens.

    python examples/tokens_as_features.py --data data/rooms
"""

from pathlib import Path

import torch
import tyro

from scenetok_ns import SceneTok, open_scenes


def main(data: Path, model: str = "scenetok-tiny") -> float:
    """Print how often the nearest tokens are those of the same room.

    Args:
        data: Data set with several scenes.
        model: Preset, run folder or released checkpoint.
    """
    scenetok = SceneTok.from_pretrained(model)
    halves: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for views in open_scenes(data, scenetok.preset):
        for half, features in enumerate(halves):
            chosen = list(range(half, len(views.images), 2))
            tokens = scenetok.encode(views.images[chosen], views.cameras.select(chosen), pose_scale=views.pose_scale)
            features.append(tokens.mean.flatten())  # [n * dim]; the order of the tokens is fixed
    distances = torch.cdist(torch.stack(halves[0]), torch.stack(halves[1]))
    found = float((distances.argmin(1) == torch.arange(len(distances))).float().mean())
    print(f"{len(distances)} rooms; the nearest tokens are of the same room in {found:.0%}")
    return found


if __name__ == "__main__":
    tyro.cli(main)
