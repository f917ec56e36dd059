"""The rest of the table of faults: other commands and stock tools, devices, and names with odd characters."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support.fault_cases import config_damages
from support.fault_kinds import BINARY, TEXT
from support.fault_runner import Fault, command, copied
from support.small_runs import PRESET


class MoreFaults:
    """Creates more faults in one place; see `Table`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._numbers = count()

    def all(self) -> Iterator[Fault]:
        yield from self.options()
        yield from self.captures()
        yield from self.downloads()
        yield from self.scores()
        yield from self.splats()
        yield from self.trainings()
        yield from self.stock_tools()
        yield from self.files_of_the_system()
        yield from self.names()

    def new(self) -> Path:
        """Path of a new folder, which does not exist yet."""
        return self.place / "more" / str(next(self._numbers))

    def made(self, name: str = "notes.txt", content: str = "mine") -> Path:
        """Create a file that is not ours in a new folder."""
        file = self.new() / name
        file.parent.mkdir(parents=True)
        file.write_text(content)
        return file

    # --- Options ---

    def options(self) -> Iterator[Fault]:
        out = self.place / "never"
        tiny = ("--output", out, "--device", "cpu", "--num-scenes", 1, "--batch-size", 1)
        base: dict[str, tuple[Any, ...]] = {
            "train-tiny": tiny,
            "train-tiny-generator": tiny,
            "capture": (self._photographs(), "--output", out),
            "export-splat": ("--output", out / "x.ply", "--run", self.place / "run"),
            "demo": ("--output", out),
            "demo-data": ("--output", out),
            "render": ("--run", self.place / "run", "--output", out),
            "evaluate": (self.place / "run", "--output", out),
            "new-run": (self.place / "run", "--output", out),
        }
        reals, counts = ("0", "-1", "nan", "inf", "x", ""), ("-1", "nan", "x", "")
        shared = {"--batch-size": ("0", *counts), "--learning-rate": reals, "--seconds": ("0", "-1", "nan", "x"),
                  "--num-scenes": ("0", "-1"), "--renew": counts, "--frames": ("0", "1", "-1", "x"),
                  "--device": ("gpu", "cuda:99", "", "meta"), "--resume": ("nowhere", "", "."),
                  "--preset": ("re10k", "nowhere", "")}  # fmt: skip
        wrong: dict[str, dict[str, tuple[str, ...]]] = {
            "train-tiny": {**shared, "--codec-steps": counts, "--token-steps": counts,
                           "--regression": ("-1", "2", "nan"), "--codec-batch-size": ("0", "-1"),
                           "--resume-codec": ("nowhere",)},
            "train-tiny-generator": {**shared, "--steps": counts, "--tokenizer": ("nowhere",)},
            "capture": {"--frames": ("0", "-1", "x", "5"), "--threads": ("0", "-1", "x"), "--seed": ("x", "1.5"),
                        "--run": ("scenetok-tiny",)},
            "export-splat": {"--iterations": ("0", "-1", "x"), "--gaussians": ("0", "1", "x"),
                             "--output": ("x.txt", "x")},
            "demo": {"--train-steps": ("0", "-1", "x"), "--seed": ("x",)},
            "demo-data": {"--frames": ("1" + "0" * 12,), "--size": ("1" + "0" * 9,),
                          "--train-scenes": ("1" + "0" * 15,)},
            "render": {"--size": ("0",), "--num-context": ("0", "-1", "1" + "0" * 12), "--pose-scale": reals,
                       "--scenes": ("nowhere", ""), "--seed": ("nan", "x"), "--data": ("", "nowhere"),
                       "--tokens": ("", "nowhere.safetensors", "/dev/null"), "--run": ("", "nowhere")},
            "evaluate": {"--guidance": reals, "--num-context": ("0", "-1", "1" + "0" * 12), "--index": ("", "nowhere"),
                         "--sweep-context": ("0", "-1"), "--fvd-frames": ("0", "-1"), "--batch-scenes": ("0",),
                         "--lpips-weights": ("nowhere", ""), "--data": ("nowhere",)},
            "new-run": {"--num-condition": ("-1", "x"), "--protocol": ("x",), "--solver": ("x",), "--seed": ("nan",),
                     "--index": ("nowhere", ""), "--tokens": ("nowhere", "/dev/null"), "--image": ("nowhere", "")},
        }  # fmt: skip
        for name, options in wrong.items():
            for option, values in options.items():
                for value in values:
                    things = (option, option[2:].replace("-", "_"), option[2:].replace("-", " "), value or "''")
                    yield Fault(name, f"{option} {value!r}", command(name, *base[name], option, value), things)

    # --- capture ---

    def _photographs(self) -> Path:
        folder = self.place / "photographs"
        if not folder.exists():
            folder.mkdir()
            for number in range(6):
                pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
        return folder

    def captures(self) -> Iterator[Fault]:
        def capture(source: Path, kind: str, *things: str) -> Fault:
            return Fault("capture", kind, command("capture", source, "--output", self.new()), (source.name, *things))

        yield capture(self.new(), "missing")
        folder = self.new()
        folder.mkdir(parents=True)
        yield capture(folder, "an empty folder", str(folder))
        yield capture(self.made().parent, "a folder without photographs")
        yield capture(self.made("one.jpg"), "one file")
        yield capture(Path("/dev/null"), "a device")
        for kind, damage in BINARY.items():
            if kind not in ("missing", "a folder"):
                video = copied(self.place / "photo.jpg", self.new()).rename(self.new().with_suffix(".mp4"))
                damage(video)
                yield capture(video, f"a video: {kind}")
            folder = self.new()
            shutil.copytree(self._photographs(), folder)
            for file in folder.iterdir():
                damage(file)
            yield capture(folder, f"photographs: {kind}", str(folder))
        yield capture(self._photographs(), "noise: no camera fits", "photographs")
        for target in (self.made(), self.made().parent, self.made() / "x"):
            action = command("capture", self._photographs(), "--output", target)
            yield Fault("capture", f"output: {target.name}", action, (target.name, "notes.txt", target.parent.name))

    # --- download, score, splat ---

    def downloads(self) -> Iterator[Fault]:
        for words, things in (
            ((), ("preset",)),
            (("nowhere",), ("nowhere",)),
            (("",), ("preset",)),
            (("scenetok-tiny",), ("scenetok-tiny",)),
            (("re10k", "--data", self.place / "data"), ("--data",)),
            (("re10k", "--output", self.place / "run"), ("run",)),
            (("re10k", "--output", self.new(), "--data", "nowhere"), ("nowhere",)),
            (("dl3dv-shift4-scratch", "--output", self.new()), ("dl3dv-shift4-scratch",)),
            *((("re10k", "--to", self.new(), "--mirror", address), ("--mirror",))
              for address in ("", "x", "ftp://x", "http://", "http://[::1", "http://127.0.0.1:99999", "/etc")),
            *((("re10k", "--to", target, "--mirror", "http://127.0.0.1:9"), (target.name, "notes.txt"))
              for target in (self.made(), self.made() / "x", Path("/dev/null"), Path("/proc/x"))),
        ):  # fmt: skip
            yield Fault("download", " ".join(map(str, words))[-60:], command("download", *words), things)

    def scores(self) -> Iterator[Fault]:
        empty, pictures = self.new(), self.new()
        empty.mkdir(parents=True)
        for number in range(3):
            (pictures / f"test{number}").mkdir(parents=True)
        base = {"--predictions": empty, "--data": self.place / "data", "--index": self.place / "index.json",
                "--output": self.new()}  # fmt: skip
        for option, values in {
            "--predictions": ("nowhere", "", self.made(), empty, pictures, "/dev/null"),
            "--data": ("nowhere", "", self.made(), empty),
            "--index": ("nowhere", "", empty, "/dev/null", self.made("index.json"), self.made("i.json", "{}")),
            "--output": (self.made(), self.made().parent),
            "--names": ("a/b", "..", ""),
            "--compare": ("nowhere", "", empty, self.made().parent),
            "--task": ("x",),
            "--fvd-frames": ("0", "x"),
        }.items():
            for value in values:
                words = [word for pair in {**base, option: value}.items() for word in pair]
                things = (option, option[2:], str(value), empty.name, "no picture")
                yield Fault("score", f"{option} {str(value)[-20:]!r}", command("score", *words), things)
        for kind, damage in TEXT.items():
            index = copied(self.place / "index.json", self.new())
            damage(index)
            words = [word for pair in {**base, "--index": index}.items() for word in pair]
            yield Fault("score", f"index: {kind}", command("score", *words), (index.name,))

    def splats(self) -> Iterator[Fault]:
        run, tokens = self.place / "run", self.place / "tokens.safetensors"
        for target in (self.made("x.ply"), self.made("x.ply", "ply\nformat ascii"), self.new() / "x.obj"):
            words = ("--run", run, "--tokens", tokens, "--output", target)
            yield Fault("export-splat", f"output: {target.name}", command("export-splat", *words), (target.name,))
        folder = self.new() / "x.ply"
        folder.mkdir(parents=True)
        yield Fault(
            "export-splat",
            "output: a folder",
            command("export-splat", "--run", run, "--output", folder),
            (folder.name,),
        )

    def trainings(self) -> Iterator[Fault]:
        for name in ("train-tiny", "train-tiny-generator"):
            tiny = ("--device", "cpu", "--num-scenes", 1, "--batch-size", 1)
            log = self.made("log.jsonl", "not a log of ours\n")
            for target in (self.made(), self.made().parent, self.made() / "x", log.parent, Path("/dev/null")):
                yield Fault(name, f"output: {target.name}", command(name, *tiny, "--output", target), (str(target),))
            for kind in ("empty", "zeros", "noise", "text", "half of it"):
                weights = copied(self.place / "tokens.safetensors", self.new())
                BINARY[kind](weights)
                words = (*tiny, "--output", self.new(), "--resume", weights)
                yield Fault(name, f"weights: {kind}", command(name, *words), (weights.name,))

    # --- Stock tools ---

    def stock_tools(self) -> Iterator[Fault]:
        from nerfstudio.scripts.render import DatasetRender, RenderInterpolated, SpiralRender
        from nerfstudio.scripts.viewer.run_viewer import RunViewer

        tools: dict[str, Callable[[Path], Callable[[], Any]]] = {
            "ns-viewer": lambda file: RunViewer(load_config=file).main,
            "ns-render interpolate": lambda file: (
                RenderInterpolated(load_config=file, output_path=self.new() / "x.mp4").main
            ),
            "ns-render spiral": lambda file: SpiralRender(load_config=file, output_path=self.new() / "x.mp4").main,
            "ns-render dataset": lambda file: DatasetRender(load_config=file, output_path=self.new()).main,
        }
        text = (self.place / "run" / "config.yml").read_text()
        for entry, of_file in tools.items():
            for kind, damage in config_damages(text):
                if "scenetok only" not in kind:
                    config = copied(self.place / "run" / "config.yml", self.new())
                    damage(config)
                    yield Fault(entry, f"config.yml: {kind}", of_file(config), (config.name, str(config.parent)))
            for kind in ("empty", "zeros", "half of it", "noise", "missing"):
                run = self.new()
                shutil.copytree(self.place / "run", run)
                BINARY[kind](run / "nerfstudio_models" / "step-000000000.ckpt")
                yield Fault(entry, f"checkpoint: {kind}", of_file(run / "config.yml"), ("checkpoint",))
        config = self.place / "run" / "config.yml"
        for steps in (0, -1):
            tool = RenderInterpolated(load_config=config, output_path=self.new() / "x.mp4", interpolation_steps=steps)
            yield Fault("ns-render interpolate", f"{steps} steps", tool.main, ("steps", "frames", "cameras"))
        for data in (self.new(), self.made(), self.made().parent):
            dataset = DatasetRender(load_config=config, output_path=self.new(), data=data)
            yield Fault("ns-render dataset", f"data {data.name}", dataset.main, (str(data),))

    # --- Devices, pipes, names ---

    def files_of_the_system(self) -> Iterator[Fault]:
        run, data = self.place / "run", self.place / "data"
        readers: dict[str, Callable[[Any], tuple[Any, ...]]] = {
            "render": lambda file: ("--run", run, "--tokens", file, "--output", self.new()),
            "export-dataset": lambda file: ("--run", run, "--path", file, "--output", self.new()),
            "import": lambda file: ("--preset", PRESET, "--checkpoint", file, "--output", self.new()),
            "new-run": lambda file: (self.place / "generator", "--image", file, "--output", self.new()),
            "encode": lambda file: ("--run", file, "--output", self.new() / "x.safetensors"),
            "eval-index": lambda file: ("--data", data, "--check", file),
            "report": lambda file: (file,),
            "latents": lambda file: ("--preset", PRESET, "--data", file, "--output", self.new()),
        }
        for file in ("/dev/null", "/proc/self/mem", "/dev/full"):
            for name, words in readers.items():
                yield Fault(name, f"reads {file}", command(name, *words(file)), (file, "holds no figures"))
        writers: dict[str, Callable[[Any], tuple[Any, ...]]] = {
            "demo-data": lambda folder: (
                "--train-scenes",
                1,
                "--test-scenes",
                0,
                "--frames",
                2,
                "--size",
                16,
                "--output",
                folder,
            ),
            "encode": lambda folder: ("--run", run, "--output", f"{folder}.safetensors"),
            "new-run": lambda folder: (run, "--output", folder),
            "render": lambda folder: ("--run", run, "--frames", 2, "--output", folder),
        }
        for folder in ("/proc/x", "/dev/null/x", "/sys/x", str(self.place / ("n" * 300))):
            for name, words in writers.items():
                things = (folder[:20], str(Path(folder).parent))
                yield Fault(name, f"writes {folder[:20]}", command(name, *words(folder)), things)

    def names(self) -> Iterator[Fault]:
        """Names with line breaks, dashes and non-ASCII letters, in messages that must stay one line."""
        run = self.place / "run"
        for name in ("a\nb", "-rf", "--data", "ünïcode 房间", "a\tb", "\x1b[31mred"):
            path, file = self.place / name, self.new() / "x.safetensors"
            for entry, words in {
                "new-run": (path, "--output", self.new()),
                "render": ("--run", run, "--tokens", f"{path}.safetensors", "--output", self.new()),
                "encode": ("--run", run, "--data", path, "--output", file),
                "evaluate": (run, "--scenes", name, "--output", self.new()),
            }.items():
                yield Fault(entry, f"a name: {name!r}", command(entry, *words), ())
