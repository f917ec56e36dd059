"""`scenetok latents`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from scenetok_ns.cli.scene_jobs import Split, chosen_shard, job_label, open_split, print_report, scene_progress
from scenetok_ns.tools.devices import named_device
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.printing import plain_console

if TYPE_CHECKING:
    import torch


def latents(
    output: Path,
    data: Path | None = None,
    preset: str = "re10k",
    role: Literal["context", "target"] = "context",
    weights: Path | None = None,
    splits: tuple[Split, ...] = ("train", "test"),
    flip: bool = False,
    factors: tuple[int, ...] = (1,),
    min_frames: int = 32,
    shard: str | None = None,
    seed: int = 0,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    device: str | None = None,
    workers: int = 4,
    verify: bool = False,
) -> None:
    """Encode a data set once, so that training reads latents instead of photographs.

    Run the same command again to continue after an interruption. Several processes may share the work: under SLURM job
    arrays, srun or torchrun, each process takes its part automatically; otherwise give --shard. Use different folders
    for context and target latents.

    Args:
        output: Folder for the latents: OUTPUT/{train|test}/{factor}/{scene}.npz and OUTPUT/map_dict.json.
        data: RealEstate10K or DL3DV: the folder that holds train and test, or the folder of one split.
        preset: Preset whose image size and autoencoder are used.
        role: Which of the preset's two autoencoders: for context views or for target views.
        weights: Published weights of the autoencoder.
        splits: Splits of the data set to encode.
        flip: Also encode the training scenes mirrored, with mirrored poses.
        factors: Take every n-th frame; each n gives its own set of files.
        min_frames: Leave out scenes with fewer frames.
        shard: Part of the work, e.g. 0/8. Detected automatically under SLURM and torchrun.
        seed: Random seed for sampling VA-VAE's latents; the noise differs for every scene and frame.
        precision: Precision of the autoencoder; on a GPU, auto is the precision of the published latents.
        device: Device, such as cuda:1 or cpu. Default: the GPU of this process, or the CPU without one.
        workers: Number of scenes decoded at the same time.
        verify: Compute nothing; read every file of OUTPUT and list the damaged ones. With --data, also list missing
            ones.
    """
    console = plain_console()
    if workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    if min_frames < 1 or not factors or min(factors) < 1 or not splits:
        raise UsageError("--min-frames and --factors must be at least 1, and at least one of --splits must be given")
    if verify:
        _verify(output, data, splits, console)
        return
    if data is None:
        raise UsageError("--data is required: give the folder of the data set")
    import torch

    from scenetok_ns.data.precomputed.latent_files import LatentSettings
    from scenetok_ns.data.precomputed.latent_jobs import LatentJob, compute_latents
    from scenetok_ns.models.autoencoders.registry import build_autoencoder, default_dtype
    from scenetok_ns.models.presets import load_preset

    configuration = load_preset(preset)
    config = configuration.context_autoencoder if role == "context" else configuration.target_autoencoder
    where = _own_device() if device is None else named_device(device)
    dtype = default_dtype(config, where, "precompute") if precision == "auto" else getattr(torch, precision)
    job = LatentJob(
        root=output,
        settings=LatentSettings(
            autoencoder=config.name,
            weights_sha256=None if weights is None else _sha256(weights),
            image_size=configuration.data.image_size,
            precision=str(dtype).removeprefix("torch."),
            seed=seed,
        ),
        sources={split: open_split(data, split, splits) for split in splits},
        factors=factors,
        flip_splits=("train",) if flip else (),
        min_frames=min_frames,
        shard=chosen_shard(shard),
        workers=workers,
    )
    autoencoder = build_autoencoder(config, weights, device=where, dtype=dtype, use="precompute")
    with scene_progress(console) as progress:
        task = progress.add_task(job_label(f"{config.name} latents", job.shard), total=len(job.scenes()))
        report = compute_latents(job, autoencoder, lambda key: progress.advance(task))
    print_report(report, output, console)


def _verify(root: Path, data: Path | None, splits: tuple[Split, ...], console: Console) -> None:
    from scenetok_ns.data.precomputed.latent_files import make_map, read_map
    from scenetok_ns.data.precomputed.latent_jobs import verify_set

    with scene_progress(console) as progress:
        task = progress.add_task("reading latents", total=sum(1 for _ in root.glob("*/*/*.npz")))
        bad = verify_set(root, lambda path: progress.advance(task))
    for path, problem in bad.items():
        console.print(f"{path}: {problem}", highlight=False, soft_wrap=True)
    problems = [f"{len(bad)} files are unusable"] if bad else []
    content = make_map(root)
    if read_map(root) != content:
        problems.append("the map file does not list the existing files")
    for split in splits if data is not None else ():
        assert data is not None
        have = set().union(*content[split].values()) if content[split] else set()
        missing = [key for key in open_split(data, split, splits).keys if key not in have]
        if missing:
            names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            console.print(f"{split}: {len(missing)} scenes have no latents: {names}", highlight=False, soft_wrap=True)
    if problems:
        raise ValueError(f"{root}: {' and '.join(problems)}; delete bad files and run again without --verify")
    total = sum(len(scenes) for factors in content.values() for scenes in factors.values())
    console.print(f"{root}: the files of {total} scenes are complete", soft_wrap=True)


def _own_device() -> torch.device:
    """The GPU that torchrun or srun assigned to this process, else the first GPU, else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    if not local.isdecimal():
        raise ValueError(
            f"LOCAL_RANK or SLURM_LOCALID is {local!r}, expected a whole number; unset it, or give --device"
        )
    return torch.device("cuda", int(local) % torch.cuda.device_count())


def _sha256(weights: Path) -> str:
    """SHA-256 of a weights file, or of the weights file in a folder in diffusers' format."""
    from scenetok_ns.models.autoencoders.weights import diffusers_file
    from scenetok_ns.tools.digests import sha256_of

    file = diffusers_file(weights) if weights.is_dir() else weights
    if not file.is_file():
        raise UsageError(f"--weights: there is no file {file}")
    return sha256_of(file)
