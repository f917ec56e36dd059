"""`scenetok eval-index`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scenetok_ns.cli.scene_jobs import open_split, scene_progress
from scenetok_ns.data.errors import DataError
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.own_files import check_replaceable
from scenetok_ns.tools.printing import plain_console


def eval_index(
    data: Path,
    output: Path | None = None,
    check: Path | None = None,
    split: Literal["train", "test"] = "test",
    num_context: int = 12,
    num_targets: int = 128,
    mode: Literal["bounded", "farthest"] = "bounded",
    start: Literal["first", "middle", "random"] = "first",
    seed: int = 0,
) -> None:
    """Create an evaluation index of a data set: the views of each scene that a model is given, and the views that it is
    compared with.

    The same command gives the same file. Targets are consecutive frames. With --check, compare a given index with
    the data instead.

    Args:
        data: RealEstate10K or DL3DV: the folder that holds train and test, or the folder of one split.
        output: Index file to write (.json), in the published format.
        check: Write nothing; report the entries of this index that do not fit the data set.
        split: Split of the data set.
        num_context: Number of context views of each scene.
        num_targets: Number of target views of each scene; scenes with fewer frames are left out.
        mode: bounded: the context views lie among the targets, as in the published indices for reconstruction.
            farthest: they are spread over the whole scene.
        start: Position of the target views in the scene.
        seed: Random seed for random starts.
    """
    from scenetok_ns.data.evaluation_index import EvaluationIndex
    from scenetok_ns.data.index_maker import IndexRule, check_index, has_clips, make_index, save_index

    console = plain_console()
    if (output is None) == (check is None):
        raise UsageError("give either --output, the index to make, or --check, the index to compare with the data")
    source = open_split(data, split, (split,))
    if check is not None:
        index = EvaluationIndex.load(check)
        with scene_progress(console) as progress:
            task = progress.add_task("reading scenes", total=len(index.entries))
            problems = check_index(index, source, lambda key: progress.advance(task))
        for name, problem in problems.items():
            console.print(f"{name}: {problem}", highlight=False, soft_wrap=True)
        if problems:
            raise DataError(f"{check}: {len(problems)} of {len(index.entries)} entries do not fit {data}")
        without = sum(not has_clips(views) for views in index.entries.values())
        note = f"; the targets of {without} are not evenly spaced, so FVD leaves them out" if without else ""
        console.print(f"{check}: all {len(index.entries)} scenes and frames are there{note}", soft_wrap=True)
        return
    assert output is not None
    if output.suffix != ".json":
        raise UsageError(f"--output: an evaluation index ends in .json, got {output.name}")
    check_replaceable(output, lambda path: bool(EvaluationIndex.load(path).entries), "an evaluation index")
    rule = IndexRule(num_context, num_targets, mode, start, seed)
    with scene_progress(console) as progress:
        task = progress.add_task("reading scenes", total=len(source.keys))
        entries, skipped = make_index(source, rule, lambda key: progress.advance(task))
    save_index(output, entries)
    counts = f"{len(entries)} scenes with {num_context} context and {num_targets} target views each"
    console.print(f"{output}: {counts}", soft_wrap=True)
    if skipped:
        console.print(skipped.summary(), soft_wrap=True)
