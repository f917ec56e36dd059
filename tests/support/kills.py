"""Kill commands with SIGKILL, run them again, and check the result.

    make kills                                    all commands, ten kills of each kind
    python tests/support/kills.py open --count 2

Each command first runs once without a kill, in an empty folder. Then it runs repeatedly and its process group is
killed: at moments spread over its running time ("time"), and just before writes, renames and removals spread over all
of them ("writes"). After each kill the same command runs to its end. Then the folder, including the home, cache and
temporary folders in it, must hold the same files with the same content as after the first run.

Processes are forked from one that has imported everything, so the time of a command is that of its own work.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

WRITING = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
"""Audit events for changes on the disk; `open` counts if the file is opened for writing."""
TIMES = re.compile(r"seconds|fps|date|time(stamp)?s?$|per_sec")
"""Keys whose values are times."""
LIMIT_S = 120
HOME, CACHE, TEMPORARY = "home", "cache", "tmp"
"""Folders in which a command could leave files, inside the place in which it runs."""

Action = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    """Exit code; negative: number of the signal."""
    seconds: float
    writes: int
    """Number of changes on the disk."""


@dataclass(frozen=True)
class Outcome:
    """Findings for one command."""

    command: str
    seconds: float
    """Time of the run without a kill."""
    killed: int
    complete: int
    """Number of reruns that found the complete result and refused to replace it."""
    problems: list[str]


# --- Processes ---


def fork(
    action: Action, place: Path, log: Path, *, kill_after: float | None = None, kill_at: int | None = None
) -> Ended:
    """Run an action in its own process group, with `place` as its working folder.

    The group is killed after `kill_after` seconds, or just before change number `kill_at` on the disk.
    """
    counts, begin = log.with_suffix(".count"), time.monotonic()
    counts.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _work(action, place, log, counts, kill_at)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpgid(child, child)
    deadline = begin + (LIMIT_S if kill_after is None else kill_after)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() >= deadline:
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    seconds = time.monotonic() - begin
    with contextlib.suppress(ProcessLookupError):  # what the command itself had started
        os.killpg(child, signal.SIGKILL)
    return Ended(os.waitstatus_to_exitcode(status), seconds, int(counts.read_text()) if counts.exists() else 0)


def _work(action: Action, place: Path, log: Path, counts: Path, kill_at: int | None) -> None:
    """Run the action in the forked process. Does not return."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(place)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        folders = {"HOME": HOME, "XDG_CACHE_HOME": CACHE, "TMPDIR": TEMPORARY}
        os.environ |= {name: str(place / folder) for name, folder in folders.items()}
        tempfile.tempdir = None
        changes = _count_changes(place, kill_at)
        try:
            action()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        counts.write_text(str(changes[0]))
        _finish()
    except BaseException:
        import traceback

        traceback.print_exc()
        code = code or 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _finish() -> None:
    """Do what the interpreter does at its exit."""
    import atexit
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


def _count_changes(place: Path, kill_at: int | None) -> list[int]:
    """Count this process's changes in `place`, and kill its group before one of them."""
    changes = [0]

    def watch(event: str, words: tuple[Any, ...]) -> None:
        if event not in WRITING or not words or not _changes(event, words, place):
            return
        changes[0] += 1
        if changes[0] == kill_at:
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(watch)
    return changes


def _changes(event: str, words: tuple[Any, ...], place: Path) -> bool:
    if event == "open":
        path, _, flags = words
        if not isinstance(path, (str, bytes, os.PathLike)) or not (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
    path = os.fsdecode(words[0]) if not isinstance(words[0], int) else ""
    return not os.path.isabs(path) or path.startswith(str(place))


# --- What is there ---


def content_of(place: Path, command: str) -> dict[str, str]:
    """Every file and folder below a place -> digest of its content without times."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if command != "ns-train" or not EVENTS.search(name):
            found[name] = "folder" if path.is_dir() else _digest(path, command)
    return found


def _digest(path: Path, command: str) -> str:
    data = path.read_bytes()
    if path.suffix == ".ckpt" and command == "ns-train":
        # A resumed run shares fewer objects in what it saves, so pickle writes other bytes for the same values.
        data = _plain(torch_content(path)).encode()
    elif path.name == "sha256.json":  # cached digests of files, by their modification times
        data = str(sorted(re.findall(r"[0-9a-f]{64}", data.decode()))).encode()
    elif path.suffix == ".json":
        data = json.dumps(_plain_text(data.decode()), sort_keys=True).encode()
    elif path.suffix == ".safetensors" and data[8:9] == b"{":
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        texts = header.get("__metadata__", {})
        header["__metadata__"] = {key: _plain_text(text) for key, text in texts.items()}
        data = json.dumps(header, sort_keys=True).encode() + data[8 + size :]
    elif path.suffix == ".csv":
        data = _table_without_times(data.decode()).encode()
    return hashlib.sha256(data).hexdigest()


def torch_content(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _plain(value: Any) -> str:
    """Convert nested values to text, with digests of tensors and arrays."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_plain(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if hasattr(value, "shape"):
        array = value.detach().numpy() if hasattr(value, "detach") else value
        return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    return repr(value)


def _plain_text(text: str) -> Any:
    try:
        return _without_times(json.loads(text))
    except ValueError:
        return text


def _table_without_times(text: str) -> str:
    rows = [line.split(",") for line in text.splitlines()]
    times = {place for place, name in enumerate(rows[0]) if TIMES.search(name)} if rows else set()
    return "\n".join(",".join(cell for place, cell in enumerate(row) if place not in times) for row in rows)


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if not TIMES.search(key)}
    return [_without_times(part) for part in value] if isinstance(value, list) else value


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Describe the differences between two contents."""
    left = [f"left over: {name}" for name in after if name not in before]
    lost = [f"missing: {name}" for name in before if name not in after]
    return left + lost + [f"other content: {name}" for name in before if after.get(name, before[name]) != before[name]]


# --- Commands ---


class Materials:
    """Small inputs for all commands, in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = root / "address"
        """File with the address of the server of released files."""

    def actions(self) -> dict[str, Action]:
        data, tokens, small = self.root / "data", self.root / "tokens.safetensors", "scenetok-tiny"
        big, run = self.root / "big", self.root / "run"
        few = ("--steps", 2)
        return {
            "import": command(
                "import", "--preset", f"{big}.yaml", "--checkpoint", f"{big}.ckpt", "--data", self.root / "small",
                "--output", "out",
            ),
            "new-run": command("new-run", run, "--output", "out", "--seed", 3),
            "encode": command("encode", "--data", data, "--output", "scene.safetensors"),
            "latents": command("latents", "--preset", small, "--data", data, "--flip", "--output", "out"),
            "evaluate": command(
                "evaluate", self.root / "small-run", "--baselines", "--seeds", 2, "--metrics", "--output", "out"
            ),
            "render": command(
                "render", "--tokens", tokens, "--frames", 16, "--formats", "mp4", "png", *few, "--output", "out"
            ),
            "demo-data": command(
                "demo-data", "--train-scenes", 12, "--test-scenes", 2, "--frames", 6, "--output", "out"
            ),
            "export-dataset": command("export-dataset", "--tokens", tokens, "--frames", 16, *few, "--output", "out"),
            "capture": command("capture", self.root / "photographs", "--threads", 1, "--output", "out"),
            "download": lambda: command(
                "download", "re10k", "--to", "out", "--mirror", self.address.read_text()
            )(),
            "ns-train": self._train,
        }  # fmt: skip

    def _train(self) -> None:
        """Run ns-train with the small preset, whose steps take milliseconds."""
        from nerfstudio.scripts.train import main
        from support.small_runs import small_config

        main(
            small_config(
                self.root / "small",
                Path("out"),
                max_num_iterations=40,
                steps_per_save=4,
                resume=True,
                vis="tensorboard",
            )
        )

    def make(self, commands: Collection[str]) -> None:
        """Write the inputs of these commands.

        Call this in a separate process, so that forks don't inherit threads of torch.
        """
        import yaml
        from support.released_files import random_state, write_lightning
        from support.room_pictures import walk, write_photographs
        from support.small_runs import PRESET, write_small_re10k

        from scenetok_ns.models.presets import load_preset

        if set(commands) & {"encode", "latents", "render", "export-dataset"}:
            command("demo-data", "--train-scenes", 2, "--test-scenes", 2, "--output", self.root / "data")()
        if {"render", "export-dataset"} & set(commands):
            words = ("--data", self.root / "data", "--output", self.root / "tokens.safetensors")
            command("encode", "--no-run-folder", *words)()
        if "capture" in commands:
            write_photographs(self.root / "photographs", walk(9))
        write_small_re10k(self.root / "small")
        write_lightning(self.root / "small.ckpt", random_state(load_preset(str(PRESET))))
        command(
            "import", "--preset", PRESET, "--checkpoint", self.root / "small.ckpt", "--data", self.root / "small",
            "--output", self.root / "small-run",
        )()  # fmt: skip
        content = yaml.safe_load(PRESET.read_text())
        for part in ("compressor", "denoiser"):
            content[part] |= {"hidden_size": 384, "depth": 6, "num_heads": 6}
        (self.root / "big.yaml").write_text(yaml.dump(content))
        write_lightning(self.root / "big.ckpt", random_state(load_preset(str(self.root / "big.yaml"))))
        command(
            "import", "--preset", self.root / "big.yaml", "--checkpoint", self.root / "big.ckpt", "--data",
            self.root / "small", "--output", self.root / "run",
        )()  # fmt: skip


EVENTS = re.compile(r"events\.out\.tfevents")
"""TensorBoard files of ns-train, which are not compared: each start writes one, with times in its name and content."""


def command(*words: object) -> Action:
    """Create the call of a `scenetok` command."""

    def run() -> None:
        from scenetok_ns.cli.main import entrypoint

        entrypoint([str(word) for word in words])

    return run


def archive(content: bytes) -> bytes:
    """Return a zip archive. Downloads recognise a whole PyTorch file by this form."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("data", content)
    return buffer.getvalue()


@contextlib.contextmanager
def server(address: Path) -> Iterator[None]:
    """Serve files under the released names of preset re10k, slowly, from a separate process."""
    child = os.fork()
    if child == 0:
        from support.file_server import serving

        names = ("va-videodc_re10k.ckpt", "vavae-imagenet256-f16d32-dinov2.pt", "F32T4C128_AE.safetensors")
        files: dict[str, bytes | Path] = {
            name: archive(bytes([number]) * 4_000_000) for number, name in enumerate(names)
        }
        try:
            with serving(files, seconds_per_piece=0.004) as running:
                address.write_text(running.address)
                signal.pause()
        finally:
            os._exit(1)
    try:
        while not (address.exists() and address.read_text()):
            if os.waitpid(child, os.WNOHANG)[0]:
                raise RuntimeError("the server of files ended")
            time.sleep(0.01)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# --- The experiment ---


def empty(place: Path) -> None:
    """Create an empty place for a command."""
    shutil.rmtree(place, ignore_errors=True)
    for folder in (HOME, CACHE, TEMPORARY):
        (place / folder).mkdir(parents=True)


def try_command(name: str, action: Action, place: Path, count: int, kinds: tuple[str, ...]) -> Outcome:
    """Kill a command `count` times in each of the ways, and compare the results of its reruns."""
    log = place.with_suffix(".log")
    empty(place)
    whole = fork(action, place, log)
    if not whole.code:  # the first run is slower: files come from the disk
        wanted = content_of(place, name)
        empty(place)
        whole = fork(action, place, log)
    if whole.code:
        return Outcome(name, whole.seconds, 0, 0, [f"fails undisturbed: {log.read_text(errors='replace')[-600:]}"])
    problems = [f"a second undisturbed run: {line}" for line in differences(wanted, content_of(place, name))]
    killed = complete = 0
    for kind in kinds:
        for number in range(count):
            share = (number + 0.5) / count
            empty(place)
            where = {"kill_after": share * whole.seconds} if kind == "time" else {
                "kill_at": 1 + int(share * whole.writes)
            }  # fmt: skip
            ended = fork(action, place, log, **where)  # type: ignore[arg-type]
            killed += ended.code == -signal.SIGKILL
            left = [path for path in content_of_names(place) if path not in wanted]
            again = fork(action, place, log)
            label = f"{kind} {share:.2f}"
            found = differences(wanted, content_of(place, name))
            if again.code and not found and "exists" in log.read_text(errors="replace"):
                complete += 1  # killed after the last move: the rerun says that the result is there
                continue
            if again.code:
                end = log.read_text(errors="replace").strip()[-500:]
                problems.append(f"{label}: the rerun ends with {again.code}: {end} (left: {left[:5]})")
                continue
            problems += [f"{label}: {line}" for line in found]
    return Outcome(name, whole.seconds, killed, complete, problems)


def content_of_names(place: Path) -> list[str]:
    return [str(path.relative_to(place)) for path in place.rglob("*")]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commands", nargs="*", help="default: all eleven")
    parser.add_argument("--count", type=int, default=10, help="kills of each kind and command")
    parser.add_argument("--kinds", nargs="+", choices=("time", "writes"), default=["time", "writes"])
    given = parser.parse_args(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a pool of threads does not survive a fork
    folder = Path(tempfile.mkdtemp(prefix="kills-")).resolve()  # a TemporaryDirectory would end with the first fork
    try:
        return _run(folder, given.commands, given.count, tuple(given.kinds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(root: Path, commands: list[str], count: int, kinds: tuple[str, ...]) -> int:
    _import_everything()
    materials = Materials(root / "materials")
    materials.root.mkdir()
    actions = materials.actions()
    commands = commands or list(actions)
    made = fork(lambda: materials.make(commands), materials.root, root / "materials.log")
    if made.code:
        print((root / "materials.log").read_text(errors="replace")[-3000:])
        return 1
    outcomes = []
    with server(materials.address):
        for name in commands:
            outcome = try_command(name, actions[name], root / "place", count, kinds)
            outcomes.append(outcome)
            print(
                f"{name:15} {outcome.seconds:5.1f} s undisturbed, {outcome.killed:2} kills, "
                f"{outcome.complete} results complete before, "
                f"{len(outcome.problems)} differences",
                *(f"\n    {line}" for line in outcome.problems),
                flush=True,
            )
    return int(any(outcome.problems for outcome in outcomes))


def _import_everything() -> None:
    """Import the modules that forked processes need, so that not each of them has to."""
    import nerfstudio.scripts.train
    import pycolmap
    import support.small_runs
    import torch

    import scenetok_ns.cli.main
    from scenetok_ns.cli.commands import COMMANDS

    torch.set_num_threads(1)
    for target in (command.function for command in COMMANDS.values()):
        __import__(target.partition(":")[0])
    del nerfstudio, pycolmap, support, scenetok_ns


if __name__ == "__main__":
    sys.exit(main())
