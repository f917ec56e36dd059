"""The notebooks run, and their stored outputs are those that they produce."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from support.docs_pages import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OF_A_MACHINE = re.compile(r"/(home|root|tmp|Users|work|var|mnt)/|Traceback|Warning")


def executed(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "scripts" / "run_notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.executed(path)


def outputs(cell: Any) -> list[tuple[str, ...]]:
    """Outputs of a cell: kinds of pictures, and texts without numbers, which differ between machines."""
    found: list[tuple[str, ...]] = []
    for output in cell.get("outputs", []):
        if output["output_type"] != "stream":
            found.append((output["output_type"], *sorted(output.get("data", {"error": None}))))
            continue
        text = re.sub(r"-?[\d.,]+", "#", " ".join(output["text"].split()))
        # A text may arrive in several pieces, depending on time: join them.
        if found and found[-1][0] == output["name"]:
            text = f"{found.pop()[1]} {text}"
        found.append((output["name"], text))
    return found


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_is_what_comes_out(path: Path) -> None:
    stored, fresh = code_cells(nbformat.read(path, as_version=4)), code_cells(executed(path))
    assert [outputs(cell) for cell in stored] == [outputs(cell) for cell in fresh]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_of_one_run_and_no_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    shown = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 4
    texts = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in shown]
    assert not OF_A_MACHINE.search("\n".join(texts))
    assert path.stat().st_size < 2**21
