"""The public names of the package are imported on first use, known to type checkers, and documented."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import scenetok_ns

ROOT = Path(__file__).parents[2]
NAMES = sorted(set(scenetok_ns.__all__) - {"__version__"})


def imported_for_types() -> dict[str, str]:
    """Name -> module for the imports under TYPE_CHECKING."""
    tree = ast.parse((ROOT / "scenetok_ns" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    lines = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in lines for alias in node.names}


def test_importing_the_package_imports_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import scenetok_ns; dir(scenetok_ns);"
        "heavy = {'torch', 'numpy', 'nerfstudio', 'tyro', 'yaml', 'PIL'} & (set(sys.modules) - before);"
        "assert not heavy, heavy;"
        "scenetok_ns.load_preset('scenetok-tiny');"
        "assert not {'torch', 'nerfstudio'} & set(sys.modules);"
        "scenetok_ns.SceneTok, scenetok_ns.camera_path, scenetok_ns.square_views;"
        "assert 'torch' in sys.modules and 'nerfstudio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_leads_to_what_type_checkers_see() -> None:
    typed = imported_for_types()
    assert sorted(typed) == NAMES == sorted(scenetok_ns._HOMES)
    assert scenetok_ns.__all__ == sorted(scenetok_ns.__all__) and set(NAMES) <= set(dir(scenetok_ns))
    for name, module in typed.items():
        assert module == f"scenetok_ns.{scenetok_ns._HOMES[name]}"
        assert getattr(scenetok_ns, name) is getattr(sys.modules[module], name)
    with pytest.raises(AttributeError, match=r"has no attribute 'SceneTock' \(did you mean SceneTok\?\)"):
        scenetok_ns.SceneTock  # noqa: B018


def test_warnings_that_importing_nerfstudio_raises_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing Nerfstudio compiles a function with torch.jit.script, which recent versions of torch deprecate."""
    lines = "import warnings", 'warnings.warn("`torch.jit.script` is deprecated.", FutureWarning)', "loud = 3"
    (tmp_path / "loud_module.py").write_text("\n".join(lines))
    monkeypatch.setattr(scenetok_ns, "__path__", [*scenetok_ns.__path__, str(tmp_path)])
    monkeypatch.setitem(scenetok_ns._HOMES, "loud", "loud_module")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scenetok_ns.loud == 3  # type: ignore[attr-defined]
    monkeypatch.delitem(vars(scenetok_ns), "loud")


def public_functions() -> dict[str, Callable[..., Any]]:
    """Name -> function or method that users call."""
    found: dict[str, Callable[..., Any]] = {}
    for name in NAMES:
        value = getattr(scenetok_ns, name)
        if not inspect.isclass(value):
            found[name] = value
            continue
        for member, function in inspect.getmembers(value, inspect.isroutine):
            ours = getattr(function, "__module__", None) or ""
            if not member.startswith("_") and ours.startswith("scenetok_ns"):
                found[f"{name}.{member}"] = function
    return found


FUNCTIONS = public_functions()
ENTRIES = (
    "SceneTok.from_pretrained", "SceneTok.encode", "SceneTok.add_views", "SceneTok.render", "SceneTok.predict",
    "generate", "open_scenes", "photograph_views", "square_views", "camera_path", "cameras_from_transforms",
    "cameras_from_colmap", "cameras_from_nerfstudio", "load_preset",
)  # fmt: skip
"""Functions and methods that a new user calls first. Each must have an example."""


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_public_functions_have_docstrings(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name])
    first, _, _ = (text or "").partition("\n\n")
    assert first.endswith((".", ":")) and text, f"{name}: {first!r}"


@pytest.mark.parametrize("name", ENTRIES)
def test_help_is_enough_to_call_an_entry_point(name: str) -> None:
    """The docstring describes each argument, names the errors, and has an example."""
    function = FUNCTIONS[name]
    text = inspect.getdoc(function) or ""
    assert "Args:" in text and "Returns:" in text and "Raises:" in text and ">>> " in text, name
    parameters = [word for word in inspect.signature(function).parameters if word not in ("self", "cls")]
    described = text.partition("Args:")[2].partition("Returns:")[0]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"^    ([\w, ]+):", described, re.MULTILINE))))
    assert set(parameters) <= named, f"{name}: {sorted(set(parameters) - named)} not described"
