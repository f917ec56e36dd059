"""Two sets of named tensors compared both ways: nothing missing, nothing left over, nothing misshapen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names file and problem."""


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], context: str) -> None:
    """Raise CheckpointError that lists missing, surplus, wrongly shaped and wrongly stored tensors."""
    problems = []
    if missing := [key for key in expected if key not in found]:
        problems.append(f"{len(missing)} missing: {listed(missing)}")
    if surplus := [key for key in found if key not in expected]:
        problems.append(f"{len(surplus)} surplus: {listed(surplus)}")
    both = [key for key in expected if key in found]
    if shapes := [
        f"{key} {list(found[key].shape)} instead of {list(expected[key].shape)}"
        for key in both
        if found[key].shape != expected[key].shape
    ]:
        problems.append(f"{len(shapes)} of another shape: {listed(shapes)}")
    # A square matrix that was transposed keeps its shape; torch.save keeps its strides.
    if strides := [key for key in both if not found[key].is_contiguous()]:
        problems.append(f"{len(strides)} not stored row by row (transposed?): {listed(strides)}")
    if kinds := [key for key in both if found[key].is_floating_point() != expected[key].is_floating_point()]:
        problems.append(f"{len(kinds)} of another kind of number: {listed(kinds)}")
    if problems:
        raise CheckpointError(f"{context}: " + "; ".join(problems))


def listed(names: Iterable[str], limit: int = 5) -> str:
    """The first `limit` names and how many more."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
