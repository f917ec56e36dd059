"""The table of faults: kinds of broken input for each command and tool."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from support.fault_kinds import BINARY, NAN, TEXT, VALUES, Damage, changed, json_mutations, writes, writes_json
from support.fault_runner import Fault, command, copied
from support.small_runs import PRESET

NUMBERS = ("missing", "null", "text", "list", "nan", "infinite", "negative", "huge", "huge float")
COUNTS = (*NUMBERS, "object")


class Table:
    """Creates faults in one place, which holds good files of every kind (`fault_place`)."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._numbers = count()

    def all(self) -> Iterator[Fault]:
        yield from self.camera_paths()
        yield from self.transforms()
        yield from self.tokens()
        yield from self.configurations()
        yield from self.checkpoints()
        yield from self.presets()
        yield from self.indices()
        yield from self.data_sets()
        yield from self.photographs()
        yield from self.results()
        yield from self.options()
        yield from self.outputs()

    def new(self) -> Path:
        """Path of a new folder, which does not exist yet."""
        return self.place / "cases" / str(next(self._numbers))

    def broken(
        self, entries: dict[str, Callable[[Path], Callable[[], Any]]], file: str, damages: dict[str, Damage]
    ) -> Iterator[Fault]:
        """Create a fault for every entry point and every damage of a copy of a file. The line must name the file."""
        for entry, of_file in entries.items():
            for kind, damage in damages.items():
                path = copied(self.place / file, self.new())
                damage(path)
                yield Fault(entry, f"{file}: {kind}", of_file(path), (path.name, str(path.parent)))

    # --- Poses ---

    def _path_entries(self) -> dict[str, Callable[[Path], Callable[[], Any]]]:
        run, tokens = self.place / "run", self.place / "tokens.safetensors"
        more = ("--run", run, "--tokens", tokens, "--steps", 1)
        return {
            "render": lambda path: command("render", *more, "--path", path, "--output", self.new(), "--formats", "png"),
            "export-dataset": lambda path: command("export-dataset", *more, "--path", path, "--output", self.new()),
            "new-run": lambda path: command(
                "new-run", self.place / "generator", "--image", self.place / "photo.jpg", "--path", path,
                "--output", self.new(),
            ),
            "ns-render": self._ns_render,
        }  # fmt: skip

    def _ns_render(self, path: Path) -> Callable[[], Any]:
        from nerfstudio.scripts.render import RenderCameraPath

        return RenderCameraPath(
            load_config=self.place / "run" / "config.yml",
            camera_path_filename=path,
            output_path=self.new(),
            output_format="images",
        ).main

    def camera_paths(self) -> Iterator[Fault]:
        content = json.loads((self.place / "path.json").read_text())
        pose = ("camera_path", 0, "camera_to_world")
        places: dict[tuple[str | int, ...], tuple[str, ...]] = {
            ("render_height",): NUMBERS,
            ("render_width",): NUMBERS,
            ("camera_path",): ("missing", "null", "text", "list", "object", "nan"),
            pose: ("missing", "null", "text", "list", "object", "nan"),
            ("camera_path", 0, "fov"): NUMBERS,
            ("camera_path", 1): ("null", "text", "list"),
            (*pose, 3): ("text", "null", "nan", "infinite", "huge", "huge float"),
        }
        damages = dict(TEXT)
        damages |= {name: writes_json(found) for name, found in json_mutations(content, places)}
        matrix = content["camera_path"][0]["camera_to_world"]
        for name, values in {
            "mirrored": [-matrix[0], *matrix[1:4], -matrix[4], *matrix[5:8], -matrix[8], *matrix[9:]],
            "scaled": [2 * value for value in matrix[:12]] + matrix[12:],
            "without a last row": matrix[:12],
            "far away": [*matrix[:3], 1e30, *matrix[4:]],
            "zeros": [0.0] * 16,
        }.items():
            damages[name] = writes_json(changed(content, pose, values))
        damages["fisheye"] = writes_json({**content, "camera_type": "fisheye"})
        entries = self._path_entries()
        yield from self.broken({"render": entries["render"]}, "path.json", damages)
        few = {name: damage for i, (name, damage) in enumerate(damages.items()) if i % 4 == 0 or name in FEW}
        poses = {name: damage for name, damage in few.items() if "render_" not in name and "fov" not in name}
        yield from self.broken(
            {"new-run": entries["new-run"]}, "path.json", {k: poses[k] for k in poses if k != "fisheye"}
        )
        yield from self.broken({"export-dataset": entries["export-dataset"]}, "path.json", few)
        few.pop("camera_path.0.fov null", None)  # Nerfstudio takes a lens of its own then
        yield from self.broken({"ns-render": entries["ns-render"]}, "path.json", few)

    def transforms(self) -> Iterator[Fault]:
        content = json.loads((self.place / "transforms.json").read_text())
        places: dict[tuple[str | int, ...], tuple[str, ...]] = {
            ("w",): NUMBERS,
            ("h",): NUMBERS,
            ("fl_x",): ("text", "nan", "infinite", "negative", "huge", "huge float"),
            ("fl_y",): ("text", "nan", "negative"),
            ("cx",): ("text", "nan", "infinite", "huge float"),
            ("frames",): ("missing", "null", "text", "list", "object"),
            ("frames", 0): ("null", "text", "list"),
            ("frames", 0, "file_path"): ("missing", "null", "list"),
            ("train_filenames",): ("null", "text", "object"),
            ("frames", 0, "transform_matrix"): ("missing", "null", "text", "list", "nan"),
            ("frames", 0, "transform_matrix", 0, 3): ("text", "nan", "huge", "huge float"),
        }
        damages = {name: writes_json(found) for name, found in json_mutations(content, places)}
        damages["fl_x zero"] = writes_json({**content, "fl_x": 0})
        yield from self.broken({"render": self._path_entries()["render"]}, "transforms.json", damages)

    # --- Scenes as tokens ---

    def tokens(self) -> Iterator[Fault]:
        run = self.place / "run"
        entries: dict[str, Callable[[Path], Callable[[], Any]]] = {
            "render": lambda file: command(
                "render", "--run", run, "--tokens", file, "--output", self.new(), "--formats", "png", "--frames", 2
            ),
            "new-run": lambda file: command("new-run", run, "--tokens", file, "--output", self.new()),
            "export-dataset": lambda file: command(
                "export-dataset", "--run", run, "--tokens", file, "--output", self.new()
            ),
        }
        damages = {**BINARY, **dict(self._token_damages())}
        yield from self.broken(entries, "tokens.safetensors", damages)

    def _token_damages(self) -> Iterator[tuple[str, Damage]]:
        for name, value in {
            "scale NaN": {"pose_scale": NAN},
            "scale 0": {"pose_scale": 0.0},
            "scale negative": {"pose_scale": -1.0},
            "scale infinite": {"pose_scale": VALUES["infinite"]},
            "scale text": {"pose_scale": "x"},
            "another preset": {"preset": "re10k"},
            "no preset": {"preset": None},
            "sources text": {"sources": "x"},
        }.items():
            yield name, lambda path, value=value: rewrite_tokens(path, values=value)  # type: ignore[misc]
        eye = torch.eye(4)
        for name, tensors in {
            "NaN": {"mean": torch.full((8, 4), NAN)},
            "fewer numbers": {"mean": torch.zeros(8, 3)},
            "too many": {"mean": torch.zeros(9, 4)},
            "none": {"mean": torch.zeros(0, 4)},
            "whole numbers": {"mean": torch.zeros(8, 4, dtype=torch.int64)},
            "a row": {"mean": torch.zeros(8)},
            "mirrored reference": {"reference_c2w": torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))},
            "reference of 3 x 4": {"reference_c2w": eye[:3].clone()},
            "infinite reference": {"reference_c2w": eye * VALUES["infinite"]},
            "no focal length": {"cameras_intrinsics": torch.zeros(3, 3, 3)},
            "unknown tensor": {"more": torch.zeros(2)},
            "no reference": {"reference_c2w": None},
        }.items():
            yield name, lambda path, tensors=tensors: rewrite_tokens(path, tensors=tensors)  # type: ignore[misc]
        yield "no header", lambda path: save_file({"mean": torch.zeros(8, 4)}, path)
        yield "another format", lambda path: rewrite_tokens(path, form="scenetok-tokens-99")

    # --- Runs ---

    def configurations(self) -> Iterator[Fault]:
        entries: dict[str, Callable[[Path], Callable[[], Any]]] = {
            "new-run": lambda file: command("new-run", file.parent, "--output", self.new()),
            "render": lambda file: command("render", "--run", file.parent, "--output", self.new(), "--frames", 2),
            "encode": lambda file: command("encode", "--run", file.parent, "--output", self.new() / "x.safetensors"),
            "evaluate": lambda file: command("evaluate", file, "--output", self.new()),
            "generate": lambda file: command("generate", "--run", file, "--output", self.new() / "x.safetensors"),
        }
        text = (self.place / "run" / "config.yml").read_text()
        damages = {**TEXT, **dict(config_damages(text))}
        yield from self.broken({name: entries[name] for name in ("new-run",)}, "run/config.yml", damages)
        few = {name: damages[name] for i, name in enumerate(damages) if i % 3 == 0}
        others = {name: entry for name, entry in entries.items() if name != "new-run"}
        yield from self.broken(others, "run/config.yml", few)
        stock = {name: damage for name, damage in config_damages(text) if "scenetok" not in name}
        yield from self.broken({"ns-eval": self._ns_eval}, "run/config.yml", stock)

    def _ns_eval(self, file: Path) -> Callable[[], Any]:
        from nerfstudio.scripts.eval import ComputePSNR

        return ComputePSNR(load_config=file, output_path=self.new() / "eval.json").main

    def checkpoints(self) -> Iterator[Fault]:
        name = "step-000000000.ckpt"
        state = torch.load(self.place / "run" / "nerfstudio_models" / name, weights_only=True)
        key = next(key for key, value in state["pipeline"].items() if getattr(value, "ndim", 0) > 1)
        tensor = state["pipeline"][key]
        contents: dict[str, Any] = {
            "a list": [1],
            "a tensor": torch.zeros(3),
            "no pipeline": {"step": 0},
            "a NaN": changed(state, ("pipeline", key), torch.full_like(tensor, NAN)),
            "infinite": changed(state, ("pipeline", key), torch.full_like(tensor, VALUES["infinite"])),
            "another shape": changed(state, ("pipeline", key), torch.zeros(3, 5, 7)),
            "another kind": changed(state, ("pipeline", key), tensor.long()),
            "not a tensor": changed(state, ("pipeline", key), "x"),
            "one tensor less": {**state, "pipeline": {k: v for k, v in state["pipeline"].items() if k != key}},
            "one tensor more": changed(state, ("pipeline", "_model.more"), tensor),
            "another preset": changed(state, ("pipeline", "_model._extra_state"), {"preset": "re10k"}),
        }
        damages = {k: d for k, d in BINARY.items() if k != "a folder"}
        damages |= {k: (lambda path, found=found: torch.save(found, path)) for k, found in contents.items()}
        for kind, damage in damages.items():
            for entry, of_run in {
                "render": lambda run: command("render", "--run", run, "--output", self.new(), "--frames", 2),
                "encode": lambda run: command("encode", "--run", run, "--output", self.new() / "x.safetensors"),
                "evaluate": lambda run: command("evaluate", run, "--output", self.new()),
                "ns-eval": lambda run: self._ns_eval(run / "config.yml"),
                "new-run": lambda run: command("new-run", run, "--output", self.new()),
            }.items():
                if entry == "new-run" and kind in contents and kind not in ("a list", "a tensor", "no pipeline"):
                    continue  # the numbers are read by those that use them
                if entry == "new-run" and kind == "zeros at the end":
                    continue
                run = self.new()
                shutil.copytree(self.place / "run", run)  # the copy must use its own checkpoint
                damage(run / "nerfstudio_models" / name)
                yield Fault(entry, f"checkpoint: {kind}", of_run(run), ("checkpoint",))

    # --- Presets ---

    def presets(self) -> Iterator[Fault]:
        entries: dict[str, Callable[[Path], Callable[[], Any]]] = {
            "import": lambda file: command(
                "import", "--preset", file, "--checkpoint", self.place / "small.ckpt", "--output", self.new()
            ),
            "latents": lambda file: command(
                "latents", "--preset", file, "--data", self.place / "data", "--output", self.new()
            ),
            "ns-train": self._ns_train,
        }
        content = yaml.safe_load((self.place / "small.yaml").read_text())
        damages = dict(TEXT)
        for place in leaves(content):
            for kind in ("object", "nan", "infinite", "negative", "huge"):
                damages[f"{'.'.join(place)} {kind}"] = writes_yaml(changed(content, place, VALUES[kind]))
        damages["unknown field"] = writes_yaml({**content, "more": 1})
        texts = {name: damages.pop(name) for name in ("description object",) if name in damages}
        yield from self.broken({"import": entries["import"]}, "small.yaml", {**damages, **texts})
        few = {name: damages[name] for i, name in enumerate(damages) if i % 7 == 0}
        yield from self.broken({name: entries[name] for name in ("latents", "ns-train")}, "small.yaml", few)

    def _ns_train(self, file: Path) -> Callable[[], Any]:
        from nerfstudio.scripts.train import main
        from support.small_runs import small_config

        def train() -> None:
            main(small_config(self.place / "data", self.new(), file))

        return train

    # --- Data ---

    def indices(self) -> Iterator[Fault]:
        data, run = self.place / "data", self.place / "run"
        entries: dict[str, Callable[[Path], Callable[[], Any]]] = {
            "eval-index": lambda file: command("eval-index", "--data", data, "--check", file),
            "new-run": lambda file: command("new-run", run, "--index", file, "--output", self.new()),
            "evaluate": lambda file: command("evaluate", run, "--index", file, "--output", self.new()),
        }
        content = json.loads((self.place / "index.json").read_text())
        scene = next(iter(content))
        places: dict[tuple[str | int, ...], tuple[str, ...]] = {
            (scene,): ("text", "list", "object", "negative"),
            (scene, "context"): ("missing", "null", "text", "list", "object", "negative", "nan"),
            (scene, "target"): ("missing", "null", "list", "huge"),
            (scene, "target", 0): ("null", "text", "nan", "infinite", "negative", "huge", "huge float"),
        }
        damages = {**TEXT, **{name: writes_json(found) for name, found in json_mutations(content, places)}}
        damages.pop(f"{scene} object", None)  # an empty entry is left out, as in published files
        damages.pop(f"{scene} list", None)
        damages["another scene"] = writes_json({"nowhere": content[scene]})
        damages["beyond the last frame"] = writes_json(changed(content, (scene, "target", 0), 99999))
        yield from self.broken(entries, "index.json", damages)

    def data_sets(self) -> Iterator[Fault]:
        def of_root(words: Callable[[Path], Callable[[], Any]]) -> Callable[[Path], Callable[[], Any]]:
            return lambda file: words(file.parent.parent)

        entries = {
            "eval-index": of_root(lambda data: command("eval-index", "--data", data, "--output", data / "i.json")),
            "encode": of_root(
                lambda data: command(
                    "encode", "--run", self.place / "run", "--data", data, "--output", data / "x.safetensors"
                )
            ),
            "latents": of_root(
                lambda data: command("latents", "--preset", PRESET, "--data", data, "--splits", "test",
                                     "--min-frames", 2, "--output", data / "out")
            ),
        }  # fmt: skip
        for kind, damage in TEXT.items():
            for entry, of_file in entries.items():
                if kind in ("missing", "a folder", "a device"):
                    continue  # another kind of folder then
                root = self.new()
                shutil.copytree(self.place / "data" / "test", root / "test")
                damage(root / "test" / "index.json")
                yield Fault(entry, f"RE10K index: {kind}", of_file(root / "test" / "index.json"), ("index.json",))
        for kind, damage in BINARY.items():
            for entry, of_file in entries.items():
                root = self.new()
                shutil.copytree(self.place / "data" / "test", root / "test")
                damage(root / "test" / "000000.torch")
                things = ("000000.torch", "chunk")
                yield Fault(entry, f"RE10K chunk: {kind}", of_file(root / "test" / "index.json"), things)
        for kind, damage in TEXT.items():
            if kind not in ("missing", "a folder"):
                root = self.new()
                shutil.copytree(self.place / "dl3dv" / "test", root / "test")
                file = next(root.rglob("transforms.json"))
                damage(file)
                action = command("eval-index", "--data", root, "--output", root / "i.json")
                yield Fault("eval-index", f"DL3DV: {kind}", action, ("transforms.json",))

    def photographs(self) -> Iterator[Fault]:
        generator = self.place / "generator"
        entries: dict[str, Callable[[Path], Callable[[], Any]]] = {
            "new-run": lambda file: command("new-run", generator, "--image", file, "--output", self.new()),
            "generate": lambda file: command(
                "generate", "--run", generator, "--image", file, "--output", self.new() / "x.safetensors"
            ),
        }
        damages = dict(BINARY)
        damages.pop("half of it")  # Pillow reads the rest of a JPEG as grey
        damages.pop("zeros at the end")
        damages |= {
            "two pixels": lambda path: Image.new("RGB", (2, 2)).save(path, "PNG"),
            "transparent": lambda path: Image.new("RGBA", (64, 64)).save(path, "PNG"),
            "floating-point": lambda path: Image.new("F", (64, 64)).save(path, "TIFF"),
            "beyond Pillow's limit": _bomb,
        }
        yield from self.broken(entries, "photo.jpg", damages)

    def results(self) -> Iterator[Fault]:
        entry = {"report": lambda file: command("report", file.parent, "--output", file.parent / "page.html")}
        damages = {**TEXT, "no results": writes_json({"variants": []}), "no variants": writes_json({"results": {}})}
        yield from self.broken(entry, "evaluation.json", damages)
        for kind in ("empty", "zeros", "noise"):
            root = self.new() / "train" / "1"
            root.mkdir(parents=True)
            (root / "scene.npz").write_bytes(b"x" * 200)
            BINARY[kind](root / "scene.npz")
            action = command("latents", "--output", root.parents[1], "--verify")
            yield Fault("latents", f"latents: {kind}", action, (str(root.parents[1]),))

    # --- Options and outputs ---

    def options(self) -> Iterator[Fault]:
        run, tokens, out = self.place / "run", self.place / "tokens.safetensors", self.place / "never"
        base = {
            "render": ("--run", run, "--tokens", tokens, "--output", out, "--formats", "png"),
            "new-run": (run, "--output", out),
            "encode": ("--run", run, "--output", out / "x.safetensors"),
            "evaluate": (run, "--output", out),
            "eval-index": ("--data", self.place / "data", "--output", out / "i.json"),
            "latents": ("--data", self.place / "data", "--preset", PRESET, "--output", out),
            "export-dataset": ("--run", run, "--tokens", tokens, "--output", out),
            "demo-data": ("--output", out),
            "generate": ("--run", self.place / "generator", "--image", self.place / "photo.jpg",
                         "--output", out / "x.safetensors"),
            "report": (self.place,),
        }  # fmt: skip
        numbers = ("0", "-1", "nan", "x", "")
        reals = ("0", "-1", "nan", "inf", "x", "")
        wrong: dict[str, dict[str, tuple[str, ...]]] = {
            "render": {"--frames": (*numbers, "1" + "0" * 12), "--steps": numbers, "--guidance": reals,
                       "--frame-rate": reals, "--solver": ("x", ""), "--formats": ("avi",),
                       "--path": ("x", "", "-x.json")},
            "new-run": {"--steps": numbers, "--num-context": numbers, "--pose-scale": reals, "--guidance": reals,
                     "--scene": ("nowhere",), "--data": ("nowhere",), "--wide": ("x",), "--engine": ("x",),
                     "--scene-steps": ("0", "5"), "--num-condition": ("0", "1"), "--fov": ("60",)},
            "encode": {"--num-context": numbers, "--scene": ("nowhere",), "--dtype": ("int8",), "--split": ("val",),
                       "--shard": ("0/2",), "--encodings": ("2",)},
            "evaluate": {"--seeds": numbers, "--num-scenes": numbers, "--steps": numbers, "--scenes": ("nowhere",),
                         "--sweep-steps": numbers, "--sweep-tokens": ("0", "-1", "99"), "--metrics": ("x",),
                         "--shard": ("2/2", "x", "1/0")},
            "eval-index": {"--num-context": numbers, "--num-targets": numbers, "--mode": ("x",), "--start": ("x",)},
            "latents": {"--factors": ("0", "-1", "x"), "--min-frames": ("0", "x"), "--workers": ("0", "-1", "x"),
                        "--device": ("gpu", "cuda:99", "cuda:-1", "", "meta"), "--precision": ("int8",),
                        "--shard": ("2/2", "x/y", "-1/2", "0/0"), "--splits": ("val",), "--weights": ("nowhere",)},
            "export-dataset": {"--size": numbers, "--frames": (*numbers, "15", "1" + "0" * 12)},
            "demo-data": {"--frames": numbers, "--size": numbers, "--train-scenes": ("-1", "x"), "--layout": ("x",)},
            "generate": {"--steps": numbers, "--guidance": reals, "--fov": reals, "--pose-scale": reals,
                         "--trajectory": ("x",), "--num-condition": ("1",), "--image": ("nowhere.jpg",)},
            "report": {"--max-scenes": ("0", "-1", "x"), "--max-views": ("0", "x")},
        }  # fmt: skip
        for name, options in wrong.items():
            for option, values in options.items():
                for value in values:
                    given = base[name]
                    if option in given:  # the last one counts
                        place = given.index(option)
                        given = (*given[:place], *given[place + 2 :])
                    things = (option, option[2:].replace("-", "_"), option[2:].replace("-", " "), value or "''")
                    yield Fault(name, f"{option} {value!r}", command(name, *given, option, value), things)
        for name in base:
            yield Fault(name, "unknown option", command(name, *base[name], "--no-such-option", 1), ("no-such-option",))
        yield Fault("scenetok", "unknown command", command("rendre"), ("rendre",))
        for variable in ("RANK", "SLURM_ARRAY_TASK_ID"):
            count_of = {"RANK": "WORLD_SIZE", "SLURM_ARRAY_TASK_ID": "SLURM_ARRAY_TASK_COUNT"}[variable]
            for value in ("x", "", "9"):
                words = command("latents", "--data", self.place / "data", "--preset", PRESET, "--output", out)
                yield Fault(
                    "latents", f"{variable}={value}", words, (variable, "shard 9/4"), {variable: value, count_of: "4"}
                )

    def outputs(self) -> Iterator[Fault]:
        run, tokens = self.place / "run", self.place / "tokens.safetensors"
        files = {
            "encode": ("x.safetensors", ("--run", run)),
            "eval-index": ("i.json", ("--data", self.place / "data", "--num-context", 2, "--num-targets", 3)),
            "generate": ("x.safetensors", ("--run", self.place / "generator", "--image", self.place / "photo.jpg")),
        }
        for name, (file, words) in files.items():
            for kind in ("a foreign file", "a folder", "below a file", "another ending"):
                folder = self.new()
                folder.mkdir(parents=True)
                target = folder / file
                if kind == "a folder":
                    target.mkdir()
                else:
                    target.write_text("mine")
                if kind == "below a file":
                    target = target / file
                if kind == "another ending":
                    target = folder / "x.txt"
                yield Fault(name, f"output: {kind}", command(name, *words, "--output", target), (target.name, file))
        folders = {
            "render": ("--run", run, "--tokens", tokens, "--formats", "png", "--frames", 2),
            "export-dataset": ("--run", run, "--tokens", tokens),
            "demo-data": ("--train-scenes", 1, "--test-scenes", 1, "--frames", 2, "--size", 16),
            "latents": ("--data", self.place / "data", "--preset", PRESET, "--splits", "test", "--min-frames", 2),
            "import": ("--preset", self.place / "small.yaml", "--checkpoint", self.place / "small.ckpt"),
            "evaluate": (run,),
            "new-run": (run,),
        }
        for name, words in folders.items():
            for kind in ("a file", "below a file", "someone's folder"):
                folder = self.new()
                folder.mkdir(parents=True)
                (folder / "notes.txt").write_text("mine")
                target = {"a file": folder / "notes.txt", "below a file": folder / "notes.txt" / "x"}.get(kind, folder)
                if kind == "someone's folder" and name in ("latents", "evaluate"):
                    continue  # they add files of their own, in folders of their own
                yield Fault(
                    name, f"output: {kind}", command(name, *words, "--output", target), (folder.name, "notes.txt")
                )
        yield Fault(
            "report", "output: a foreign file", command("report", self.place, "--output", self._foreign()), ("r.html",)
        )

    def _foreign(self) -> Path:
        folder = self.new()
        folder.mkdir(parents=True)
        (folder / "r.html").write_text("mine")
        return folder / "r.html"


FEW = ("mirrored", "far away", "zeros", "missing", "nested", "fisheye")
"""Names of damages that are tried with every entry point."""


def rewrite_tokens(
    path: Path, values: dict[str, Any] | None = None, tensors: dict[str, Any] | None = None, form: str | None = None
) -> None:
    """Change the header and tensors of a token file in place; None removes a tensor."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    if (tensors or {}).get("mean") is not None:
        found.pop("logvar", None)
    found = {name: tensor for name, tensor in {**found, **(tensors or {})}.items() if tensor is not None}
    metadata["scene_tokens"] = json.dumps({**json.loads(metadata["scene_tokens"]), **(values or {})})
    save_file(found, path, {**metadata, "format": form or metadata["format"]})


def config_damages(text: str) -> Iterator[tuple[str, Damage]]:
    """Configurations that are cut short, name something that no run has, or hold values that no run can have."""

    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        yield f"the first {share:.0%}", writes(text[: int(len(text) * share)])
    yield "an object of another class", writes(text.replace("SceneTokModelConfig", "SceneTokModel"))
    yield "a module that is not there", writes(text.replace("scenetok_ns.plugin.model.", "scenetok_ns.plugin.modell."))
    yield "scenetok only: unknown setting", writes(text.replace("\n    seed: 0\n", "\n    seed: 0\n    more: 1\n"))
    yield "a tab", writes(text.replace("  ", "\t", 1))
    foreign = "!!python/object/apply:nerfstudio.cameras.cameras.Enum\nargs: [X]\nkwds:\n  names: [[a, made]]\n"
    yield "scenetok only: an enumeration that makes objects", writes(foreign)
    yield "scenetok only: a call", writes("!!python/object/apply:os.system\nargs: [touch made]\n")


def leaves(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Places of all numbers."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, (*place, key))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield (*place, key)


def writes_yaml(content: Any) -> Damage:
    return writes(yaml.dump(content))


def _bomb(path: Path) -> None:
    """Write a PNG whose header claims 60,000 x 60,000 pixels."""
    Image.new("L", (8, 8)).save(path, "PNG")
    import struct
    import zlib

    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(bytes(data))
