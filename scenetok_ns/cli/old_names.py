"""Earlier names of commands and options, and names that other commands use for the same option. All of them work."""

from __future__ import annotations

EARLIER_COMMANDS = {"open": "new-run", "splat": "export-splat"}
EXPORTS = ("export-dataset", "export-mesh", "export-splat")
TINY_TRAININGS = ("train-tiny", "train-tiny-depth", "train-tiny-generator")
OPTIONS: dict[str, dict[str, str]] = {
    "demo": {"--steps": "--train-steps"},
    "demo-data": {"--train": "--train-scenes", "--test": "--test-scenes"},
    "generate": {f"--scene-{word}": f"--{word}" for word in ("seed", "steps", "guidance", "solver", "fit-steps")},
    "render": {"--scene": "--scenes"},
    "evaluate": {"--scene": "--scenes"},
    "latents": {"--split": "--splits", "--dtype": "--precision"},
    **{name: {"--views": "--frames"} for name in EXPORTS},
    **{name: {"--scenes": "--num-scenes", "--frames-per-scene": "--frames"} for name in TINY_TRAININGS},
}
"""Command -> earlier name of an option, or its name in other commands -> current name."""
RUN_FIRST = ("evaluate", "new-run", "report")
"""Commands that take the run as their first argument. `--run RUN` means the same."""


def current_command(name: str) -> tuple[str, str | None]:
    """Current name of a command, and a hint for the user if `name` is an earlier one."""
    if name not in EARLIER_COMMANDS:
        return name, None
    now = EARLIER_COMMANDS[name]
    return now, f"scenetok {name} is now called scenetok {now}; the earlier name still works"


def current_options(command: str, words: list[str]) -> tuple[list[str], list[str]]:
    """Current names of the options of a command, and a hint for the user about each that has changed."""
    names, found, notes = OPTIONS.get(command, {}), [], []
    for word in words:
        option, equals, value = word.partition("=")
        now = names.get(option.replace("_", "-")) if option.startswith("--") else None
        if now is not None:
            notes.append(f"{option} is called {now} here; {option} still works")
            word = f"{now}{equals}{value}"
        found.append(word)
    return _run_first(command, found), notes


def _run_first(command: str, words: list[str]) -> list[str]:
    """Replace `--run RUN` by RUN as the first argument, for the commands that take it there."""
    if command in RUN_FIRST:
        for place, word in enumerate(words):
            if word.startswith("--run="):
                return [word.removeprefix("--run="), *words[:place], *words[place + 1 :]]
            if word == "--run" and place + 1 < len(words):
                return [words[place + 1], *words[:place], *words[place + 2 :]]
    return words
