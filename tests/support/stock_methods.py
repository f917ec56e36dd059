"""Describe the defaults and help of Nerfstudio's own methods. As a script, it runs without entry points of plugins."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import re
import sys
from typing import Any

METHODS = ("splatfacto", "nerfacto")


def describe() -> dict[str, list[str]]:
    """Method -> its default configuration as YAML, and its help without the list of dataparsers."""
    import tyro
    import yaml
    from nerfstudio.configs.method_configs import all_methods

    found = {}
    for name in METHODS:
        config, text = all_methods[name], io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            tyro.cli(type(config), default=config, args=["--help"], prog=name)
        options = text.getvalue().split(" subcommands ")[0].partition("\n")[2]  # the first line lists dataparsers
        found[name] = [yaml.dump(config), re.sub(r"0x[0-9a-f]+", "0x", options)]
    return found


def without_plugins() -> None:
    """Hide the entry points of plugins from Nerfstudio. Call this before Nerfstudio is imported."""
    stock = importlib.metadata.entry_points

    def entry_points(**wanted: Any) -> Any:
        is_plugin = str(wanted.get("group")).startswith("nerfstudio.")
        return importlib.metadata.EntryPoints(()) if is_plugin else stock(**wanted)

    importlib.metadata.entry_points = entry_points


if __name__ == "__main__":
    without_plugins()
    described = describe()
    print(json.dumps([described, sys.excepthook is sys.__excepthook__]))
