"""Rules about the whole source tree: models and data import without Nerfstudio, and nothing is unpickled."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("scenetok_ns", "tests", "benchmarks", "scripts")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)
)
PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unsafe_calls(source: str) -> Iterator[str]:
    """Yield calls in `source` that could execute code from the files that they read."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            if {name.split(".")[0] for name in names} & PICKLES:
                yield f"line {node.lineno}: imports a pickle module"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield f"line {node.lineno}: torch.load without weights_only=True"
        if name in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
            yield f"line {node.lineno}: np.load without allow_pickle=False"
        if name in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            yield f"line {node.lineno}: {name}"


def test_nothing_is_unpickled() -> None:
    found = [f"{path.relative_to(ROOT)}, {call}" for path in SOURCES for call in unsafe_calls(path.read_text())]
    assert len(SOURCES) > 300 and not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import load",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f, yaml.Loader)",
        "eval('1')",
    ],
)
def test_the_walk_sees_unsafe_calls(source: str) -> None:
    assert list(unsafe_calls(source))


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"nerfstudio", "viser", "tyro", "gsplat"}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
import importlib, pkgutil
for package in ("scenetok_ns.models", "scenetok_ns.data"):
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        importlib.import_module(module.name)
heavy = {"diffusers", "transformers", "lpips", "torchvision"} & set(sys.modules)
assert not heavy, f"imported at start: {heavy}"
"""


def test_models_and_data_import_without_nerfstudio() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKER], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
