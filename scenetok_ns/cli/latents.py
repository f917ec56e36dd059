"""`scenetok latents`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from scenetok_ns.tools.printing import plain_console

if TYPE_CHECKING:
    import torch

    from scenetok_ns.data.precomputed.scene_jobs import JobReport
    from scenetok_ns.data.scenes import SceneSource

Split = Literal["train", "test"]


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

    Run it again to continue after an interruption. Several processes may share the work: under SLURM job arrays, srun
    or torchrun each takes its part by itself, else give --shard. Context and target latents go to different folders.

    Args:
        output: Folder for the latents: OUTPUT/{train|test}/{factor}/{scene}.npz and OUTPUT/map_dict.json.
        data: RealEstate10K or DL3DV: the folder that holds train and test, or the folder of one split.
        preset: Its image size and autoencoder are taken.
        role: Which of the preset's two autoencoders: that of context views or that of target views.
        weights: File of the autoencoder's weights as published.
        splits: Parts of the data set.
        flip: Also encode the training scenes mirrored, with mirrored poses.
        factors: Take every n-th frame, one set of files for each n.
        min_frames: Leave out scenes with fewer frames.
        shard: Which part of the work, i/n with i from 0; without it, as SLURM's or torchrun's variables say, else all.
        seed: Of the noise with which VA-VAE's latents are sampled; noise differs for every scene and frame.
        precision: Of the autoencoder; auto is what the published latents were made with (on a GPU).
        device: Such as cuda:1 or cpu; without it the GPU of this process if there is one.
        workers: Scenes decoded at the same time.
        verify: Compute nothing; read every file of OUTPUT and say which are damaged. With --data, also which are
            missing.
    """
    console = plain_console()
    if verify:
        _verify(output, data, splits, console)
        return
    if data is None:
        raise ValueError("--data is needed: the folder of the data set")
    import torch

    from scenetok_ns.data.precomputed.latent_files import LatentSettings
    from scenetok_ns.data.precomputed.latent_jobs import LatentJob, compute_latents
    from scenetok_ns.data.precomputed.scene_jobs import Shard
    from scenetok_ns.models.autoencoders.registry import build_autoencoder, default_dtype
    from scenetok_ns.models.presets import load_preset

    configuration = load_preset(preset)
    config = configuration.context_autoencoder if role == "context" else configuration.target_autoencoder
    where = torch.device(device or _own_device())
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
        shard=Shard.parse(shard) if shard is not None else Shard.from_environment(os.environ),
        workers=workers,
    )
    try:
        autoencoder = build_autoencoder(config, weights, device=where, dtype=dtype, use="precompute")
    except ImportError as error:  # its message names the extra to install
        raise ValueError(str(error)) from error
    with scene_progress(console) as progress:
        label = f"{config.name} latents" + (f", shard {job.shard.index}/{job.shard.count}" * (job.shard.count > 1))
        task = progress.add_task(label, total=len(job.scenes()))
        report = compute_latents(job, autoencoder, lambda key: progress.advance(task))
    tell_report(report, output, console)


def tell_report(report: JobReport, output: Path, console: Console) -> None:
    """What a job did. Raises DataError if none of its scenes could be used."""
    from scenetok_ns.data.scenes import DataError

    if report.skipped and not report.written and not report.present:
        raise DataError(f"nothing was written to {output}: {report.skipped.summary(3)}")
    present = f"{report.present} scenes were there already"
    console.print(f"{report.written} files written to {output}, {present}", soft_wrap=True)
    if report.skipped:
        console.print(report.skipped.summary(), soft_wrap=True)


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
        problems.append("the map file does not name the files that are there")
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


def open_split(data: Path, split: str, splits: tuple[str, ...]) -> SceneSource:
    """The scenes of DATA/split, or of DATA itself where one split is asked for."""
    from scenetok_ns.data.scenes import DataError
    from scenetok_ns.data.sources.dl3dv import DL3DVSource
    from scenetok_ns.data.sources.re10k import INDEX, RE10KSource

    folder = data / split
    if not folder.is_dir():
        if len(splits) > 1:
            raise DataError(f"no folder {folder}; if {data} is a single split, name it: --splits {split}")
        folder = data
    if (folder / INDEX).is_file() or any(folder.glob("*.torch")):
        return RE10KSource(folder)
    return DL3DVSource(folder)


def _own_device() -> torch.device:
    """The GPU that torchrun or srun meant for this process, the first one without them, else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    return torch.device("cuda", local % torch.cuda.device_count())


def _sha256(weights: Path) -> str:
    """Of the file, or of the one in a folder in diffusers' format."""
    from scenetok_ns.models.autoencoders.weights import diffusers_file
    from scenetok_ns.tools.digests import sha256_of

    file = diffusers_file(weights) if weights.is_dir() else weights
    if not file.is_file():
        raise ValueError(f"--weights: there is no file {file}")
    return sha256_of(file)


def scene_progress(console: Console) -> Progress:
    """A bar that counts scenes or files."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)
