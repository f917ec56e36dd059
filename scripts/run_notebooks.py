"""Run notebooks and store what they print and draw; look at it before it is committed.

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
"""Until a cell counts as stuck."""


def executed(path: Path) -> NotebookNode:
    """The notebook with fresh outputs, run from an empty folder. Raises CellExecutionError if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    # The kernel is started by name, and takes the package from where this script is.
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=SECONDS_PER_CELL, kernel_name="python3", record_timing=False)
        client.execute(cwd=folder, env=variables)
    notebook.metadata.pop("language_info", None)  # versions of the interpreter that ran it
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", type=Path, nargs="*", help="default: all of notebooks/")
    options = parser.parse_args()
    for path in options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")):
        nbformat.write(executed(path), path)


if __name__ == "__main__":
    main()
