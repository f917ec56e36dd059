"""Imports inside models go downward only, including those in functions and for type checkers, and never in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

MODELS = Path(__file__).parents[2] / "scenetok_ns" / "models"
ORDER = [
    {"scenegen", "rendered_depth"},
    {"token_fitting"},
    {"scenetok"},
    {"scene_encoding", "pretrained"},
    {"scenetok_networks"},
    {"depth_weights", "student_weights", "scene_stream", "weight_sources"},
    {"engine", "released_checkpoints", "released_files", "run_folders"},
    {"fused"},
    {"tokens"},
    {"flow"},
    {"networks"},
    {"autoencoders"},
    {"quirks", "inputs"},
    {"plane_sweep"},
    {"depth_geometry"},
    {"cameras", "lightning_files", "run_checkpoints"},
    {"weight_files"},
    {"ops"},
    {"presets", "temporal", "metrics", "errors"},
    {"recipes"},
]
"""Parts of models from the top down. fused and flow, and autoencoders and cameras, do not import each other."""
APART = [("fused", "flow"), ("flow", "fused"), ("autoencoders", "cameras")]


def imports(path: Path) -> set[str]:
    """Modules of models that a file imports anywhere, with names relative to models."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
        for name in names:
            parts = name.removeprefix("scenetok_ns.models.").split(".")
            if name.startswith("scenetok_ns.models.") and MODELS.joinpath(*parts).with_suffix(".py").is_file():
                found.add(".".join(parts))
    return found


GRAPH = {
    ".".join(path.relative_to(MODELS).with_suffix("").parts): imports(path)
    for path in MODELS.rglob("*.py")
    if path.name != "__init__.py"
}


def test_no_import_points_upward() -> None:
    rank = {name: index for index, names in enumerate(ORDER) for name in names}
    for module, targets in GRAPH.items():
        for target in targets:
            above, below = module.split(".")[0], target.split(".")[0]
            assert above == below or (rank[above] < rank[below] and (above, below) not in APART), f"{module}: {target}"


def test_no_files_form_a_circle() -> None:
    assert len(list(TopologicalSorter(GRAPH).static_order())) == len(GRAPH) > 50


def test_no_module_imports_private_names() -> None:
    for path in MODELS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scenetok_ns."):
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], path
