"""Earlier names of modules, so that run folders written before a module was renamed still open.

A run's config.yml names classes by module. When such a class moves to another module, add its old module here.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType

EARLIER_MODULES = {
    "scenetok_ns.optimizers": "scenetok_ns.training.optimizers",
    "scenetok_ns.refinement": "scenetok_ns.plugin.refinement",
    "scenetok_ns.run_folder": "scenetok_ns.plugin.run_folder",
    "scenetok_ns.scenetok_datamanager": "scenetok_ns.plugin.datamanager",
    "scenetok_ns.scenetok_model": "scenetok_ns.plugin.model",
    "scenetok_ns.scenetok_pipeline": "scenetok_ns.plugin.pipeline",
    "scenetok_ns.scenetok_trainer": "scenetok_ns.plugin.trainer",
}
"""Earlier module -> current module, for every class that a config.yml may name."""


def current_name(name: str) -> str:
    """Return the current full name of a class whose given full name may be an earlier one."""
    module, _, member = name.rpartition(".")
    return f"{EARLIER_MODULES[module]}.{member}" if module in EARLIER_MODULES else name


def register_earlier_modules() -> None:
    """Make earlier names importable: Nerfstudio's tools read config.yml with YAML's own loader, which imports them.

    Adds one finder to the end of `sys.meta_path`. A module is imported only when its earlier name is imported.
    """
    if not any(isinstance(finder, EarlierModuleFinder) for finder in sys.meta_path):
        sys.meta_path.append(EarlierModuleFinder())


class EarlierModuleFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module by its earlier name: an empty module that takes its attributes from the current one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname in EARLIER_MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        current = importlib.import_module(EARLIER_MODULES[module.__name__])
        module.__getattr__ = partial(getattr, current)  # type: ignore[method-assign]
