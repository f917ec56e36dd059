"""Read the commands of README and docs, and the comments that say how to run them.

Command blocks are the code blocks (indented or fenced) that begin with a program of `PROGRAMS`. An HTML comment right
before a block, which readers do not see, says how it is run:

    <!-- run with: rooms as data/re10k, tokenizer run as RUN; --steps 150 -> --steps 2; add to ns-train: --vis wandb -->
    <!-- not run: needs a GPU -->

`with` names materials of `docs_materials.py` and the paths at which they are created; `a -> b` replaces words of the
block; `add to` puts options after a program and its subcommand. A block without a comment is run unchanged. Blocks that
are not run still have their options parsed by the commands themselves, so that no page names an option that does not
exist. The commands of a page run in order, in one folder. `<!-- page with: ... -->` names materials that the whole page
needs.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = (
    "scenetok",
    "ns-train",
    "ns-eval",
    "ns-render",
    "ns-viewer",
    "python",
    "make",
    "pip",
    "torchrun",
    "srun",
    "sbatch",
)
ROOT_PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md")
END = "<!---->"
"""Replacement for the lines of a comment, which ends the block before it."""
COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A program with its words, and the variables that are set before it."""

    program: str
    words: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return shlex.join([*(f"{name}={value}" for name, value in self.variables.items()), self.program, *self.words])


@dataclass(frozen=True)
class Block:
    """A command block and its comment."""

    line: int
    """Line of the first command, counted from 1."""
    text: str
    not_run: str | None = None
    """Reason why the block is not run; None: it is run."""
    materials: tuple[tuple[str, str], ...] = ()
    """Pairs (material, path in the folder)."""
    replacements: tuple[tuple[str, str], ...] = ()
    additions: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    """Pairs (first words of a command, words to add after them)."""

    def commands(self) -> list[Command]:
        """Return the commands to run. Raises ValueError if a replacement or an addition changes nothing."""
        text = self.text
        for old, new in self.replacements:
            text, count = re.subn(rf"(?<![\w./-]){re.escape(old)}(?![\w-])", new.replace("\\", "\\\\"), text)
            if count == 0:
                raise ValueError(f"line {self.line}: nothing to replace: {old}")
        lines = [parse(part) for line in text.replace("\\\n", " ").splitlines() for part in line.split(" && ")]
        found = [command for command in lines if command is not None]
        for first, more in self.additions:
            if not any((command.program, *command.words)[: len(first)] == first for command in found):
                raise ValueError(f"line {self.line}: no command begins with {shlex.join(first)}")
            found = [_added(command, first, more) for command in found]
        return found


@dataclass(frozen=True)
class Page:
    path: Path
    blocks: tuple[Block, ...]
    materials: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()


def pages() -> list[Page]:
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return [read_page(path) for path in (*ROOT_PAGES, *sorted((ROOT / "docs").rglob("*.md")), *notebooks)]


def read_text(path: Path) -> str:
    """Read the text of a page; for a notebook, that of its text cells."""
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def read_page(path: Path) -> Page:
    text = read_text(path)
    materials: list[tuple[str, str]] = []
    for comment in COMMENT.findall(text):
        if comment.strip().startswith("page with:"):
            materials += _materials(comment.split(":", 1)[1])
    blocks = [_block(line, code, comment) for line, code, comment in _code_blocks(text) if _is_command(code)]
    return Page(path, tuple(blocks), tuple(materials))


def _is_command(code: str) -> bool:
    words = re.sub(r"^(\w+=\S* )+", "", code).split()
    return bool(words) and words[0] in PROGRAMS


def _code_blocks(text: str) -> list[tuple[int, str, str]]:
    """(line, code, text of the comment right before it or "")."""
    found: list[tuple[int, str, str]] = []
    # The content of comments is never taken for code, and lines keep their numbers.
    comments: dict[int, str] = {}

    def blank(match: re.Match[str]) -> str:
        comments[text.count("\n", 0, match.end()) + 1] = match.group(1).strip()
        return "\n" * match.group(0).count("\n") + END

    lines = COMMENT.sub(blank, text).splitlines()
    number = 0
    while number < len(lines):
        begin, stop = number, number + 1
        if lines[number].startswith("```"):
            stop = next(i for i in range(number + 1, len(lines)) if lines[i].startswith("```")) + 1
            code = lines[number + 1 : stop - 1]
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            while stop < len(lines) and (lines[stop].startswith("    ") or not lines[stop].strip()):
                stop += 1
            code = [line[4:] for line in lines[begin:stop]]
        else:
            number += 1
            continue
        above = begin
        while above > 0 and above not in comments and not lines[above - 1].strip():
            above -= 1
        found.append((begin + 1, "\n".join(code).strip("\n"), comments.get(above, "")))
        number = stop
    return found


def _block(line: int, code: str, comment: str) -> Block:
    if comment.startswith("not run:"):
        reason = comment.split(":", 1)[1].strip()
        if not reason:
            raise ValueError(f"line {line}: say why the block is not run")
        return Block(line, code, not_run=reason)
    if not comment.startswith("run "):
        return Block(line, code)
    materials: list[tuple[str, str]] = []
    replacements, additions = [], []
    for part in re.split(r";\s+", " ".join(comment.removeprefix("run ").split())):
        if part.startswith("with:"):
            materials += _materials(part.removeprefix("with:"))
        elif part.startswith("add to "):
            first, more = part.removeprefix("add to ").split(":", 1)
            additions.append((tuple(first.split()), tuple(shlex.split(more))))
        elif " -> " in part:
            old, new = part.split(" -> ")
            replacements.append((old, new))
        else:
            raise ValueError(f"line {line}: not understood: {part}")
    return Block(line, code, None, tuple(materials), tuple(replacements), tuple(additions))


def _materials(text: str) -> list[tuple[str, str]]:
    """Parse `rooms as data/re10k, tokenizer as RUN` to pairs. A material without `as` gets its own name as path."""
    pairs = [item.split(" as ") for item in map(str.strip, text.split(",")) if item]
    return [(pair[0], pair[-1]) for pair in pairs]


def parse(line: str) -> Command | None:
    """Parse one line of a block; None for an empty line or a comment."""
    words = shlex.split(line, comments=True)
    variables = {}
    while words and re.fullmatch(r"\w+=.*", words[0]):
        name, value = words.pop(0).split("=", 1)
        variables[name] = value
    if not words:
        return None
    return Command(words[0], tuple(words[1:]), variables)


def _added(command: Command, first: tuple[str, ...], more: tuple[str, ...]) -> Command:
    words = (command.program, *command.words)
    if words[: len(first)] != first:
        return command
    # Added after the subcommand or the method, but before a dataparser, after which only its own options may follow.
    place = max(len(first), 2 if len(words) > 1 and not words[1].startswith("-") else 1)
    return Command(command.program, (*words[1:place], *more, *words[place:]), command.variables)
