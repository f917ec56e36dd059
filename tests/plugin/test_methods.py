"""The registered methods and the presets that belong to them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nerfstudio.plugins.types import MethodSpecification

from scenetok_ns.dataparsers.dl3dv_dataparser import Dl3dvDataParserConfig
from scenetok_ns.models.presets import load_preset, preset_names
from scenetok_ns.plugin import methods as scenetok_config
from scenetok_ns.plugin.methods import METHODS, method_config

FROZEN = {"scenetok-refine", "scenetok-depth", "scenetok-stream", "scenetok-splat"}
"""Methods that train something beside networks of any preset."""
PYPROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text()


def test_every_registered_method_is_found_by_its_name() -> None:
    # Python 3.10 reads no TOML.
    registered = dict(re.findall(r'^([\w-]+) = "scenetok_ns\.plugin\.methods:(\w+)"$', PYPROJECT, re.MULTILINE))
    for name, attribute in registered.items():
        specification = getattr(scenetok_config, attribute)
        assert isinstance(specification, MethodSpecification)
        assert specification.config.method_name == name and method_config(name) is specification.config
        assert name in FROZEN or load_preset(specification.config.pipeline.model.preset).method == name
    assert {load_preset(name).method for name in preset_names()} | FROZEN == set(registered)
    with pytest.raises(ValueError, match="no scenetok method 'nerfacto'"):
        method_config("nerfacto")


def test_the_readme_lists_every_method() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf8")
    table = readme.split("## Methods")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)
    assert sorted(listed) == sorted(specification.config.method_name for specification in METHODS)


def test_dl3dv_methods_read_dl3dv_and_train_without_the_focal_quirk_where_a_recipe_is_published() -> None:
    for name in ("scenetok-dl3dv", "scenetok-dl3dv-wan"):
        assert isinstance(method_config(name).pipeline.datamanager.dataparser, Dl3dvDataParserConfig)
    assert load_preset(method_config("scenetok-dl3dv").pipeline.model.preset).quirks == ()
