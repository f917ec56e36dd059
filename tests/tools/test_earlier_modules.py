"""Earlier names of modules lead to the current modules, which are imported only when an earlier name is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest

from scenetok_ns.tools import earlier_modules
from scenetok_ns.tools.earlier_modules import EARLIER_MODULES, current_name, register_earlier_modules

OLD, NEW = "scenetok_ns.optimizers", "scenetok_ns.training.optimizers"


@pytest.fixture(autouse=True)
def unregistered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    finder = earlier_modules.EarlierModuleFinder
    monkeypatch.setattr(sys, "meta_path", [one for one in sys.meta_path if not isinstance(one, finder)])
    earlier = {name: sys.modules.pop(name) for name in EARLIER_MODULES if name in sys.modules}
    yield
    for name in EARLIER_MODULES:
        sys.modules.pop(name, None)
    sys.modules.update(earlier)


def test_an_earlier_module_has_the_classes_of_todays() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(OLD)
    register_earlier_modules()
    register_earlier_modules()
    assert sum(isinstance(finder, earlier_modules.EarlierModuleFinder) for finder in sys.meta_path) == 1
    assert not EARLIER_MODULES.keys() & sys.modules.keys()
    found, current = importlib.import_module(OLD), importlib.import_module(NEW)
    assert found.AdamWConfig is current.AdamWConfig
    assert current.__name__ == current.__spec__.name == NEW
    with pytest.raises(AttributeError):
        found.Nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("scenetok_ns.nothing")


@pytest.mark.parametrize("name", EARLIER_MODULES)
def test_no_earlier_name_hides_a_module_of_today(name: str) -> None:
    assert importlib.util.find_spec(name) is None
    assert importlib.util.find_spec(EARLIER_MODULES[name]) is not None


def test_full_names_are_mapped() -> None:
    assert current_name(f"{OLD}.AdamWConfig") == f"{NEW}.AdamWConfig"
    assert current_name("torch.optim.Adam") == "torch.optim.Adam"
    assert current_name("eval") == "eval"
