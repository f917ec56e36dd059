"""Weight files of few-step students: a denoiser, and the SHA-256 of the compressor whose tokens it renders."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from scenetok_ns.models.engine.copies import Fingerprint, fingerprint
from scenetok_ns.models.flow.streaming import MOST_STEPS
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.presets import Preset
from scenetok_ns.models.released_checkpoints import module_sha256
from scenetok_ns.models.weight_files import CheckpointError, embedded_weights, load_weights, save_weights

logger = logging.getLogger(__name__)

FORMAT = "scenetok-student-1"
PART = "denoiser"
"""Prefix of the tensors' names."""
HEADER = "student"
STUDENT_SUFFIX = "-student"
"""Appended to the name of a preset's embedded weights, this names its embedded student."""
OWN_STEPS = 2
"""A denoiser whose sampler takes at most this many steps predicts well from noise, and streams without a student."""


@dataclass(frozen=True)
class Student:
    """A denoiser that needs few steps."""

    denoiser: Denoiser
    causal: bool
    """Whether it streams chunk by chunk; otherwise it denoises windows."""
    steps: int
    """Number of steps that it was trained for."""


def save_student(student: Student, path: Path, preset: Preset, compressor: Compressor) -> None:
    """Write a student for tokens of `compressor` with its current weights. Large matrices take eight bits; atomic."""
    header = {
        "preset": preset.name,
        "compressor": module_sha256(compressor),
        "causal": student.causal,
        "steps": student.steps,
    }
    metadata = {"format": FORMAT, HEADER: json.dumps(header)}
    save_weights({PART: student.denoiser}, path, metadata, eight_bits=(PART,))


def load_student(path: Path, preset: Preset, compressor: Compressor) -> Student:
    """Read a student that renders tokens of exactly these weights of `compressor`.

    Raises:
        CheckpointError: The file is missing, damaged, not a student, or for other weights of the compressor.
    """
    header = _header(path)
    if header["compressor"] != module_sha256(compressor):
        raise CheckpointError(
            f"{path}: this student renders tokens of other weights of preset {header['preset']}; train one for these "
            "with `ns-train scenetok-stream --pipeline.model.tokenizer RUN`, or leave it out"
        )
    with torch.device("meta"):
        denoiser = Denoiser.from_preset(preset)
    denoiser = denoiser.to_empty(device="cpu")
    try:
        load_weights({PART: denoiser}, path)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    denoiser.requires_grad_(False).eval()
    return Student(denoiser.to(compressor.scene_tokens.device), header["causal"], header["steps"])


def _header(path: Path) -> dict:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
        header = json.loads(metadata.get(HEADER, "null"))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable student ({error})") from error
    wanted = {"preset": str, "compressor": str, "causal": bool, "steps": int}
    fits = isinstance(header, dict) and all(isinstance(header.get(name), kind) for name, kind in wanted.items())
    if metadata.get("format") != FORMAT or not fits or not 1 <= header["steps"] <= MOST_STEPS:
        raise CheckpointError(f"{path}: expected the weights of a student ({FORMAT}), as scenetok-stream writes them")
    return header


def embedded_student(preset: Preset) -> Path | None:
    """File of the student that comes with a preset's embedded weights; None: there is none."""
    if preset.embedded_weights is None:
        return None
    file = embedded_weights(preset.embedded_weights + STUDENT_SUFFIX)
    return file if file.is_file() else None


class StudentSource:
    """Source of a model's student: none, a student, or a file that is read when a stream is first opened."""

    def __init__(self, given: Student | Path | None = None, *, required: bool = True) -> None:
        """
        Args:
            given: A student, or its file; None: no student.
            required: Raise an error for a file that does not fit the model; False: work without a student instead.
        """
        self.given, self.required = given, required
        self._read: tuple[Fingerprint, Student | None] | None = None

    def student(self, preset: Preset, compressor: Compressor, denoiser: Denoiser) -> Student | None:
        """Return the student for the current weights; None: there is none.

        Without a usable file, a denoiser whose sampler takes at most OWN_STEPS steps is its own student.

        Raises CheckpointError for a required file that does not fit.
        """
        if isinstance(self.given, Student):
            return self.given
        found = None if self.given is None else self._from_file(self.given, preset, compressor)
        if found is not None or preset.sampler.steps > OWN_STEPS:
            return found
        return Student(denoiser, True, preset.sampler.steps)

    def _from_file(self, file: Path, preset: Preset, compressor: Compressor) -> Student | None:
        now = fingerprint(compressor)
        if self._read is None or self._read[0] != now:
            try:
                student = load_student(file, preset, compressor)
            except CheckpointError as error:
                if self.required:
                    raise
                logger.info("no student: %s", error)
                student = None
            self._read = now, student
        return self._read[1]
