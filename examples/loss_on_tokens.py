"""Optimise the tokens of a scene with a loss of your own: here, the error of renders of its target photographs.

The targets are photographs that were not encoded. Captures of a dozen or fewer photographs have none left: there, the
targets are the encoded photographs, with a warning.

python examples/loss_on_tokens.py --data my-capture --output refined.safetensors
"""

from dataclasses import replace
from pathlib import Path

import torch
import tyro

from scenetok_ns import SceneTok, open_scenes


def main(data: Path, output: Path, model: str = "scenetok-tiny", steps: int = 100, rate: float = 0.02) -> list[float]:
    """Move the tokens until single-step predictions look like more photographs.

    Args:
        data: Capture or data set.
        output: Token file to write.
        model: Preset, run folder or released checkpoint.
        steps: Number of optimisation steps.
        rate: Learning rate.
    """
    scenetok = SceneTok.from_pretrained(model)
    scenes = open_scenes(data, scenetok.preset)
    views, target = scenes.context(), scenes.targets()
    tokens = scenetok.encode(views.images, views.cameras, scene=views.scene, pose_scale=views.pose_scale)

    photographs = target.images.to(scenetok.device).float() / 255
    mean = tokens.mean.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([mean], lr=rate)
    losses = []
    for step in range(steps):
        seen = torch.randperm(len(photographs))[:16].sort().values.tolist()
        predicted = scenetok.predict(replace(tokens, mean=mean), target.cameras.select(seen), seed=step)
        loss = (predicted - photographs[seen]).square().mean()  # put your own loss on frames here
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}")
    replace(tokens, mean=mean.detach(), logvar=None).save(output)
    return losses


if __name__ == "__main__":
    tyro.cli(main)
