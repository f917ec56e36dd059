"""Put the weights of finished trainings into the package, with large matrices in eight bits.

    python scripts/ship_weights.py --tokenizer tiny/weights.safetensors --generator generator/weights.safetensors \
        --depth depth/depth.safetensors --student student/student.safetensors

The files of generator, depth head and student name the networks that they belong to: those of the package after
rounding to eight bits. They must have been trained with the networks of --tokenizer or, without it, with those in the
package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file

from scenetok_ns.models.depth_weights import DEPTH_SUFFIX, PART, new_depth_head, save_depth_head
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.released_checkpoints import module_sha256
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.scenetok_networks import GENERATOR_OF
from scenetok_ns.models.student_weights import STUDENT_SUFFIX, load_student, save_student
from scenetok_ns.models.weight_files import embedded_weights, from_eight_bits, load_weights, save_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("tokenizer", "generator", "depth", "student"):
        parser.add_argument(f"--{name}", type=Path)
    options = parser.parse_args()
    model = SceneTok.from_preset(load_preset("scenegen-tiny"))
    tokenizer = {"compressor": model.compressor, "denoiser": model.denoiser}
    if options.tokenizer is not None:
        ship(options.tokenizer, "scenetok-tiny", ("codec", *tokenizer))
    if options.generator is not None:
        load_weights(tokenizer, embedded_weights("scenetok-tiny"))
        ship(options.generator, "scenegen-tiny", ("scene_generator",), {GENERATOR_OF: module_sha256(model.compressor)})
    if options.depth is not None:
        load_weights(tokenizer, embedded_weights("scenetok-tiny"))
        preset = load_preset("scenetok-tiny")
        head = new_depth_head(preset, model.denoiser)
        load_weights({PART: head}, options.depth)
        save_depth_head(head, embedded_weights("scenetok-tiny" + DEPTH_SUFFIX), preset, model.denoiser)
    if options.student is not None:
        load_weights(tokenizer, embedded_weights("scenetok-tiny"))
        preset = load_preset("scenetok-tiny")
        student = load_student(options.student, preset, model.compressor)  # refuses one of other tokens
        save_student(student, embedded_weights("scenetok-tiny" + STUDENT_SUFFIX), preset, model.compressor)


class Stored(torch.nn.Module):
    """The part of a weights file that belongs to one module."""

    def __init__(self, state: dict[str, torch.Tensor], part: str) -> None:
        super().__init__()
        prefix = part + "."
        for key, value in from_eight_bits({k: v for k, v in state.items() if k.startswith(prefix)}).items():
            self.register_buffer(key.removeprefix(prefix).replace(".", "/"), value)

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {key.replace("/", "."): value for key, value in self.named_buffers()}


def ship(source: Path, name: str, parts: tuple[str, ...], header: dict[str, str] | None = None) -> None:
    """Store `parts` of a file as the package's weights `name`."""
    state = load_file(source)
    save_weights({part: Stored(state, part) for part in parts}, embedded_weights(name), header, eight_bits=parts)


if __name__ == "__main__":
    main()
