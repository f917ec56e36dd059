"""Hooks of the docs site: links to files of the repository, and pages whose text is in the repository's root.

Pages link to files outside docs/ by relative paths, which work in the repository. The site does not have these files:
each link becomes a link into `repo_url` if mkdocs.yml sets it, else the file's name. `<!-- text of FILE -->` in a page
is replaced by a file of the repository's root, `<!-- section of FILE: HEADING -->` by one section of it, and
`<!-- public names -->` by the reference of all names that `scenetok_ns` exports and that the page does not list itself.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TEXT_OF = re.compile(r"<!-- (?:text|section) of ([^\s:]+)(?:: (.+?))? -->")
HEADING = re.compile(r"^(#+) (.+)$")
OWN_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the root -> pages that show them."""
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


PUBLIC = "<!-- public names -->"


def public_names() -> dict[str, str]:
    """Exported name -> its module, read from the imports for type checkers without importing the package."""
    tree = ast.parse((ROOT / "scenetok_ns" / "__init__.py").read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"{node.module}.{alias.name}" for node in imports for alias in node.names}


def with_public_names(markdown: str) -> str:
    """Replace the comment by references to the exported names that the page lacks."""
    listed = set(re.findall(r"^::: (\S+)", markdown, re.MULTILINE))
    homes = [home for home in public_names().values() if home not in listed]
    return markdown.replace(PUBLIC, "\n\n".join(f"::: {home}" for home in homes))


def root_text(name: str, heading: str | None = None) -> str:
    """Text of a file in the root, or of one of its sections, with links as they are from docs/.

    Raises ValueError if there is no such section.
    """
    lines = (ROOT / name).read_text().splitlines()
    if heading is not None:
        lines = _section(name, lines, heading)

    def moved(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        inside = target.startswith("docs/")
        path = target.removeprefix("docs/") if inside else OWN_PAGES.get(target, f"../{target}")
        return f"[{text}]({path}{anchor or ''})"

    return LINK.sub(moved, "\n".join(lines))


def _section(name: str, lines: list[str], heading: str) -> list[str]:
    """Lines from a heading up to the next one of the same level or above. `#` in a code block begins no heading."""
    found: list[str] = []
    level, code = 0, False
    for line in lines:
        code ^= line.startswith("```")
        match = None if code else HEADING.match(line)
        if match is not None and found and len(match[1]) <= level:
            break
        if match is not None and match[2] == heading:
            level = len(match[1])
        if level:
            found.append(line)
    if not found:
        raise ValueError(f"{name} has no section {heading!r}")
    return found


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Insert files of the root and exported names, and replace links that lead out of docs/."""
    markdown = with_public_names(markdown)
    markdown = TEXT_OF.sub(lambda match: root_text(match[1], match[2]), markdown)
    folder = posixpath.dirname(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join("docs", folder, target))
        if path.startswith("docs/"):
            return match.group(0)
        if path.startswith("..") or not (ROOT / path).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {target}, which does not exist")
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor or ''})"
        return text if path in text else f"{text} (`{path}`)"

    return LINK.sub(replaced, markdown)
