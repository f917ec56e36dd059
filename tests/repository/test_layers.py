"""The layout of the package: rooms have an order, no import goes upward or in a circle, and no file is large.

Imports inside functions, for type checkers and by `importlib.import_module` count like all others.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "scenetok_ns"
ROOMS = "cli > plugin > training > evaluation viewer > rendering > bridge > dataparsers splats > data > models > tools"
MODELS = (
    "scenegen > scenetok > scene_encoding > scenetok_networks > engine > fused flow > networks > "
    "autoencoders cameras > ops > presets temporal"
)
"""Parts from the top down. Parts between the same two signs must not import each other in a circle."""
LONGEST = 400
"""Maximum number of lines of a file."""


def imports(root: Path) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports, named without the package's name."""
    files = {".".join(path.relative_to(root).with_suffix("").parts): path for path in root.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items() if name != "__init__"}

    def named(source: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{source}: relative imports are not understood"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))

    def found(source: Path) -> set[str]:
        inside = [name.removeprefix(f"{root.name}.") for name in named(source) if name.startswith(f"{root.name}.")]
        return {part for name in inside for part in (name, name.rpartition(".")[0]) if part in files}

    return {name: found(path) - {name} for name, path in files.items()}


def upward(graph: dict[str, set[str]], order: str, inside: str = "") -> list[str]:
    """List imports from a lower part of `order` to a higher one. `inside` is the room whose parts are ordered."""
    floor = {inside + name: number for number, names in enumerate(order.split(" > ")) for name in names.split()}
    unknown = sorted({name.split(".")[0] for name in graph} - set(floor)) if not inside else []
    lines = [f"{name} is not a room" for name in unknown]

    def floor_of(module: str) -> int | None:
        parts = module.split(".")
        return floor.get(".".join(parts[: inside.count(".") + 1]))

    for module, targets in sorted(graph.items()):
        for target in sorted(targets):
            low, high = floor_of(module), floor_of(target)
            if low is not None and high is not None and low > high:
                lines.append(f"{module} imports {target}, which is above it")
    return lines


def circles(graph: dict[str, set[str]]) -> list[str]:
    """List files and folders of the same folder that import each other in a circle."""
    folders: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, targets in graph.items():
        for target in targets:
            ours, theirs = module.split("."), target.split(".")
            same = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), None)  # noqa: B905  unequal depth
            if same is not None:
                folders[".".join(ours[:same])][ours[same]].add(theirs[same])
    lines = []
    for folder, edges in sorted(folders.items()):
        reach = {name: _reachable(edges, name) for name in list(edges)}
        rings = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in reach if a in reach[a]}
        lines += [
            f"{folder or 'rooms'}: {', '.join(sorted(ring))} import one another" for ring in sorted(rings, key=sorted)
        ]
    return lines


def _reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    found, waiting = set(), [start]
    while waiting:
        new = edges.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def test_rooms_import_downward_only() -> None:
    graph = imports(PACKAGE)
    offenders = upward(graph, ROOMS) + upward(graph, MODELS, "models.")
    assert not offenders, "\n".join(["", *offenders])


def test_nothing_imports_in_a_circle() -> None:
    offenders = circles(imports(PACKAGE))
    assert not offenders, "\n".join(["", *offenders])


def test_the_root_holds_rooms_alone() -> None:
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]


def test_files_can_be_read_in_one_go() -> None:
    lengths = {str(path.relative_to(PACKAGE)): path.read_text().count("\n") for path in PACKAGE.rglob("*.py")}
    offenders = [f"{name} has {length} lines" for name, length in sorted(lengths.items()) if length > LONGEST]
    assert not offenders, "\n".join(["", *offenders])


@pytest.mark.parametrize(
    "source",
    [
        "import package.up.module",
        "from package.up import module",
        "from package.up.module import name",
        "def f():\n    from package.up.module import name",
        "if TYPE_CHECKING:\n    import package.up.module",
        "importlib.import_module('package.up.module')",
    ],
)
def test_every_kind_of_import_is_seen(tmp_path: Path, source: str) -> None:
    root = tmp_path / "package"
    for name, content in {"up/module": "from package.down import plain", "down/plain": "", "down/lazy": source}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.py").write_text(content)
    graph = imports(root)
    assert graph["down.lazy"] == {"up.module"} and graph["up.module"] == {"down.plain"}
    assert upward(graph, "up > down") == ["down.lazy imports up.module, which is above it"]
    assert upward(graph, "down > up") == ["up.module imports down.plain, which is above it"]
    assert circles(graph) == ["rooms: down, up import one another"]
    assert upward({name.replace("down", "models.down"): set() for name in graph}, "up > down") == [
        "models is not a room"
    ]
