"""Text for the viewer's page, whose Markdown is MDX: braces and tags in it are code, so all foreign text is quoted.

viser offers no button that copies, no video and no keys; a few lines of JSX do.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


def quoted(text: str) -> str:
    """Any text as a JSX expression: displayed as it is, never read as Markdown, tags or code."""
    return "{" + json.dumps(text).replace("<", "\\u003c").replace(">", "\\u003e") + "}"


def paragraph(text: str) -> str:
    """Any text in the small print of the panel."""
    return f'<div style={{{{padding: "0 0.75em 0.3em", fontSize: "0.85em"}}}}>{quoted(text)}</div>'


def note(text: str, colour: str) -> str:
    """Any text with a bar of a CSS colour at its left, wrapped."""
    style = (
        f'borderLeft: "3px solid {colour}", padding: "0.1em 0.6em", '
        'margin: "0.1em 0.75em 0.5em", fontSize: "0.85em", overflowWrap: "anywhere"'
    )
    return f"<div style={{{{{style}}}}}>{quoted(text)}</div>"


def command_text(text: str, label: str = "Copy the command") -> str:
    """A command line and a button that copies it. Pages of other machines have no clipboard of their own (no https)."""
    copying = (
        "event => { const text = " + quoted(text)[1:-1] + "; const said = event.currentTarget;"
        "const done = () => { said.textContent = 'Copied'; };"
        "if (navigator.clipboard) { navigator.clipboard.writeText(text).then(done); } else {"
        "const area = document.createElement('textarea'); area.value = text; document.body.appendChild(area);"
        "area.select(); document.execCommand('copy'); area.remove(); done(); } }"
    )
    code = 'whiteSpace: "pre-wrap", overflowWrap: "anywhere", fontSize: "0.75em", padding: "0.5em", margin: "0.3em 0",'
    code += ' background: "rgba(127,127,127,0.15)", borderRadius: "4px"'
    button = 'font: "inherit", fontSize: "0.85em", padding: "0.2em 0.8em", borderRadius: "4px", cursor: "pointer"'
    return (
        f'<div style={{{{padding: "0 0.75em 0.5em"}}}}><pre style={{{{{code}}}}}>{quoted(text)}</pre>'
        f"<button style={{{{{button}}}}} onClick={{{copying}}}>{quoted(label)}</button></div>"
    )


def media(content: bytes, kind: Literal["video/mp4", "image/png", "image/jpeg"], label: str = "") -> str:
    """A video with controls, or a picture, as wide as the panel."""
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    style = 'style={{width: "100%", borderRadius: "4px"}}'
    tag = f'<video src="{source}" controls loop autoPlay muted playsInline {style} />'
    if kind != "video/mp4":
        tag = f'<img src="{source}" alt={quoted(label)} {style} />'
    return f'<div style={{{{padding: "0 0.75em 0.5em"}}}}>{tag}</div>'


@dataclass(frozen=True)
class Tile:
    """A picture that presses a button."""

    caption: str
    button: str
    """Text of the button."""
    picture: str
    """Data URL of a JPEG; empty: none."""

    @staticmethod
    def url(content: bytes) -> str:
        """A JPEG as a data URL."""
        return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def tiles(shown: Sequence[Tile]) -> str:
    """Pictures with captions in rows of three."""
    grid = 'display: "grid", gridTemplateColumns: "repeat(3, 1fr)", gap: "0.4em", padding: "0 0.75em 0.5em"'
    plain = 'border: "none", padding: 0, background: "none", cursor: "pointer", font: "inherit", color: "inherit"'
    image = 'width: "100%", aspectRatio: "1", borderRadius: "4px", display: "block"'
    text = 'fontSize: "0.7em", overflowWrap: "anywhere", textAlign: "left"'
    parts = []
    for tile in shown:
        press = (
            "() => { const found = [...document.querySelectorAll('button')].find(b => b.textContent.trim() == "
            + quoted(tile.button)[1:-1]
            + "); if (found) found.click(); }"
        )
        picture = f'<img src="{tile.picture}" alt="" style={{{{{image}}}}} />' if tile.picture else ""
        caption = f"<div style={{{{{text}}}}}>{quoted(tile.caption)}</div>"
        parts.append(
            f"<button title={quoted(tile.button)} style={{{{{plain}}}}} onClick={{{press}}}>{picture}{caption}</button>"
        )
    return f"<div style={{{{{grid}}}}}>{''.join(parts)}</div>"


def page_script(keys: Mapping[str, str]) -> str:
    """Keys that press the panel's buttons, and a collapsed panel on a narrow page; runs once in each page.

    `keys`: key -> labels of buttons, separated by a bar; the first existing button is pressed.
    """
    script = """
    (() => {
        if (window.scenetokKeys) return null;
        window.scenetokKeys = true;
        const labels = KEYS;
        window.addEventListener('keydown', event => {
            if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
            if (event.target.closest && event.target.closest('input, textarea, select')) return;
            for (const label of (labels[event.key] || '').split('|')) {
                const found = [...document.querySelectorAll('button')].find(b => b.textContent.trim() == label);
                if (label && found) { found.click(); event.preventDefault(); return; }
            }
        });
        if (window.innerWidth < 576) {
            const lines = [...document.querySelectorAll('div')].filter(
                e => !e.childElementCount && e.textContent.startsWith('Connect'));
            if (lines.length) {
                lines[0].click();
                lines[0].parentElement.dataset.scenetokHandle = '';
                const panel = lines[0].closest('[class*=Paper-root]');
                if (panel) panel.style.overflow = 'hidden auto';
                const style = document.createElement('style');
                style.textContent = '[data-scenetok-handle]::after { content: "tap for controls"; margin-left: auto; ' +
                    'font-size: 0.85em; opacity: 0.7; }';
                document.head.appendChild(style);
            }
        }
        return null;
    })()
    """.replace("KEYS", json.dumps(dict(keys)))
    return "{" + " ".join(script.split()) + "}"
