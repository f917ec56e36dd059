"""The package is complete when installed from its wheel or as an editable tree, and finds presets from any folder."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKED = (".py", ".safetensors", ".html", "py.typed")

LOAD_EVERY_PRESET = """
import sys
sys.path.append(sys.argv[1])
import scenetok_ns
from scenetok_ns.models.presets import config_folder, load_preset, preset_names
assert all(load_preset(name).name == name for name in preset_names())
print(scenetok_ns.__file__, config_folder(), *preset_names(), sep="\\n")
"""


@pytest.fixture(scope="module")
def only_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the only dependency that presets need, and nothing else from this environment."""
    folder = tmp_path_factory.mktemp("dependency")
    spec = importlib.util.find_spec("yaml")
    assert spec is not None and spec.origin is not None
    (folder / "yaml").symlink_to(Path(spec.origin).parent)
    return folder


def pip(*arguments: str, environment: Path | None = None) -> None:
    python = ["--python", str(environment / "bin" / "python")] if environment else []
    # The other environment may import the build backend from this one.
    variables = {"PYTHONPATH": sysconfig.get_path("purelib"), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PATH": "/usr/bin"}
    command = [sys.executable, "-m", "pip", *python, *arguments, "--no-deps", "--no-index", "--no-build-isolation"]
    result = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def files_of_the_package() -> set[str]:
    """Modules, weights, pages and py.typed in the tree. A pattern in .gitignore could leave a folder of them out."""
    paths = (ROOT / "scenetok_ns").rglob("*")
    return {path.relative_to(ROOT).as_posix() for path in paths if path.name.endswith(PACKED)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_every_preset_loads_from_another_folder(kind: str, tmp_path: Path, only_yaml: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    if kind == "wheel":
        pip("wheel", str(ROOT), "--wheel-dir", str(tmp_path))
        (wheel,) = tmp_path.glob("scenetok_ns-*.whl")
        packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(PACKED)}
        assert packed == files_of_the_package() and "scenetok_ns/py.typed" in packed
        pip("install", str(wheel), environment=environment)
    else:
        pip("install", "--editable", str(ROOT), environment=environment)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [environment / "bin" / "python", "-I", "-c", LOAD_EVERY_PRESET, only_yaml]
    result = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    package, folder, *names = result.stdout.splitlines()

    assert names == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    if kind == "wheel":
        assert Path(package).is_relative_to(environment) and Path(folder).is_relative_to(environment)
    else:
        assert Path(package) == ROOT / "scenetok_ns" / "__init__.py" and Path(folder) == ROOT / "configs"
