"""Run notebooks and store their outputs. Look at the outputs before you commit them.

python scripts/run_notebooks.py                          # all of notebooks/
python scripts/run_notebooks.py notebooks/scenetok.ipynb
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
SECONDS_PER_CELL = 600
"""Seconds after which a cell counts as stuck."""


def executed(path: Path) -> NotebookNode:
    """Run a notebook in an empty folder and return it with new outputs. Raises CellExecutionError if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    # The kernel is started by name, and must import the package from this script's repository.
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=SECONDS_PER_CELL, kernel_name="python3", record_timing=False)
        client.execute(cwd=folder, env=variables)
    notebook.metadata.pop("language_info", None)  # it holds versions of the interpreter that ran the notebook
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", type=Path, nargs="*", help="default: all of notebooks/")
    options = parser.parse_args()
    for path in options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")):
        nbformat.write(executed(path), path)


if __name__ == "__main__":
    main()
