"""Every command in README and docs runs, and every link leads to an existing page."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.docs_materials import Materials
from support.docs_pages import ROOT, ROOT_PAGES, Command, Page, pages, read_page, read_text
from support.docs_runner import CommandError, check_options, run

import scenetok_ns

PAGES = pages()
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    return Materials(tmp_path_factory.mktemp("materials"))


IN_EVERY_TEST = ("README.md",)
"""Pages whose commands run in `make test`. Those of the other pages run in `make test-long`, because together they take
many minutes; `make test` checks their options."""


def pages_with_commands() -> Iterator[Any]:
    """Yield pages as parameters of a test that runs their commands."""
    for page in PAGES:
        if page.blocks:
            marks = () if page.name in IN_EVERY_TEST else (pytest.mark.long,)
            yield pytest.param(page, id=page.name, marks=marks)


@pytest.mark.parametrize("page", [page for page in PAGES if page.blocks], ids=lambda page: page.name)
def test_options_of_commands(page: Page, tmp_path: Path) -> None:
    for block in page.blocks:
        for command in block.commands():
            print(f"{page.name}:{block.line}: {command}")  # pytest prints it if the command fails
            check_options(command, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", list(pages_with_commands()))
def test_commands(page: Page, materials: Materials, tmp_path: Path) -> None:
    """Run all blocks of a page in order, in one folder. For blocks that cannot run here, only options are checked."""
    for name, path in page.materials:
        materials.make(name, tmp_path / path)
    for block in page.blocks:
        for name, path in block.materials:
            materials.make(name, tmp_path / path)
        for command in block.commands():
            print(f"{page.name}:{block.line}: {command}")  # pytest prints it if the command fails
            (check_options if block.not_run else run)(command, tmp_path)


def test_commands_are_found_and_changed_as_the_page_says(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n<!-- page with: rooms as data/re10k -->\n\n"
        "    scenetok encode --run RUN --output x.safetensors \\\n        --seed 2  # why\n\n"
        "words\n\n    not a command\n\n"
        "<!-- not run: needs a GPU,\nalways -->\n```\nns-train scenetok --data data\n```\n\n"
        "<!-- run with: tokenizer run as RUN; --steps 150 -> --steps 2; add to ns-train: --vis wandb -->\n\n"
        "    A=1 ns-train scenegen --steps 150 re10k-data\n    ns-eval --load-config RUN/config.yml\n"
    )
    found = read_page(page)
    assert found.materials == (("rooms", "data/re10k"),)
    first, second, third = found.blocks
    assert first.commands() == [
        Command("scenetok", ("encode", "--run", "RUN", "--output", "x.safetensors", "--seed", "2"))
    ]
    assert first.line == 5 and first.not_run is None
    assert second.not_run == "needs a GPU,\nalways" and second.commands()[0].program == "ns-train"
    assert third.materials == (("tokenizer run", "RUN"),)
    train, evaluate = third.commands()
    assert train == Command("ns-train", ("scenegen", "--vis", "wandb", "--steps", "2", "re10k-data"), {"A": "1"})
    assert evaluate.words == ("--load-config", "RUN/config.yml")


@pytest.mark.parametrize("mark", ["run with: rooms; --stepz 1 -> --steps 2", "run add to ns-eval: --a b"])
def test_changes_that_change_nothing_are_told(tmp_path: Path, mark: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- {mark} -->\n\n    ns-train scenetok\n")
    with pytest.raises(ValueError, match="line 3"):
        read_page(page).blocks[0].commands()


@pytest.mark.parametrize(
    "line",
    [
        "scenetok new-run RUN --output RUN2 --stepz 3",
        "scenetok opne RUN",
        "ns-train scenetok-tiny --no-such-option 1",
        "ns-eval --load-config RUN/config.yml --steps 3",
        "python benchmarks/scenegen_solver.py --scnes 3",
        "torchrun --nproc-per-node 8 --no-python scenetok latents --dta x",
        "sbatch --nodes 2 scripts/train.slurm RUN scenetok --dta x",
        "pip install 'scenetok-ns[nothing]'",
        "make nothing",
    ],
)
def test_options_that_are_not_there_are_found_without_running(tmp_path: Path, line: str) -> None:
    words = line.replace("'", "").split()
    with pytest.raises(CommandError):
        check_options(Command(words[0], tuple(words[1:])), tmp_path)


def test_a_failing_command_fails(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="nothing here"):
        run(Command("scenetok", ("encode", "--run", "nothing here", "--output", "x.safetensors")), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Page) -> None:
    for match in LINK.findall(read_text(page.path)):
        target = "".join(match)
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = page.path.parent / file if file else page.path
        assert path.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            assert anchor in headings(path.read_text()), f"{page.name}: {target} has no such heading"


def headings(text: str) -> set[str]:
    """Anchors of the headings, as GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_in_the_index() -> None:
    links = {"".join(found) for found in LINK.findall((ROOT / "docs" / "README.md").read_text())}
    paths = [page.path for page in PAGES if page.path not in ROOT_PAGES]
    missing = [path.name for path in paths if os.path.relpath(path, ROOT / "docs") not in links]
    assert missing == ["README.md"]


def test_every_page_is_in_the_navigation() -> None:
    """The build of the site also checks this, but needs the extra `docs`."""
    listed = set(re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def test_every_public_name_is_in_the_reference() -> None:
    hooks = runpy.run_path(str(ROOT / "scripts" / "docs_hooks.py"))
    page = hooks["with_public_names"]((ROOT / "docs" / "reference.md").read_text())
    homes = re.findall(r"^::: (\S+)", page, re.MULTILINE)
    assert len(homes) == len(set(homes)) > 10
    for home in homes:
        module, name = home.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), name), home
    exported = {name for name in getattr(scenetok_ns, "__all__", ()) if not name.startswith("_")}
    assert exported <= {home.rsplit(".", 1)[1] for home in homes}


def test_sections_of_the_readme_are_on_the_site() -> None:
    hooks = runpy.run_path(str(ROOT / "scripts" / "docs_hooks.py"))
    shown = hooks["TEXT_OF"].findall((ROOT / "docs" / "requirements.md").read_text())
    texts = [hooks["root_text"](*section) for section in shown]
    assert [text.partition("\n")[0] for text in texts] == [f"## {heading}" for _, heading in shown] != []
    together = "\n".join(texts)
    assert "### How many photographs?" in together and "| 24 GiB |" in together and "commercial" in together
    assert "## Licence and citation" not in together  # the next section of the README
    assert "](captures.md)" in together and "](../LICENSE-weights.md)" in together and "](docs/" not in together
    with pytest.raises(ValueError, match=r"README.md has no section 'Nothing'"):
        hooks["root_text"]("README.md", "Nothing")


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "SceneTok.encode" in (tmp_path / "reference.html").read_text()
