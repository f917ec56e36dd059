"""All commands by task: the function of each, its line in `scenetok --help`, and the examples in its help."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A subcommand of `scenetok`."""

    function: str
    """module:function. The function's parameters are the command's options (tyro)."""
    summary: str
    examples: tuple[str, ...]
    """Command lines, each complete."""


GROUPS: dict[str, dict[str, Command]] = {
    "Scenes": {
        "capture": Command(
            "scenetok_ns.cli.capture:capture",
            "find the cameras of photographs or a video; --open displays the scene",
            ("scenetok capture photographs --output my-capture", "scenetok capture video.mp4 --frames 60 --open"),
        ),
        "encode": Command(
            "scenetok_ns.cli.encode:encode",
            "write the tokens of a scene, or of a whole split, to files",
            (
                "scenetok encode --data my-capture --output scene.safetensors",
                "scenetok encode --run RUN --data data/re10k --split train --output tokens",
            ),
        ),
        "generate": Command(
            "scenetok_ns.cli.generate:generate",
            "generate a scene from a photograph, or from one to three views of a capture",
            ("scenetok generate --image photo.jpg --trajectory sideways --seed 1 --output scene.safetensors",),
        ),
        "render": Command(
            "scenetok_ns.cli.render:render",
            "render paths through scenes: videos, pictures, depth, beside photographs",
            (
                "scenetok render --tokens scene.safetensors --path orbit --output videos",
                "scenetok render --run RUN --scenes all --formats mp4 png --compare --output videos",
            ),
        ),
        "export-dataset": Command(
            "scenetok_ns.cli.export_dataset:export_dataset",
            "render views of a scene as a data set for other methods of Nerfstudio",
            ("scenetok export-dataset --tokens scene.safetensors --output dataset",),
        ),
        "export-mesh": Command(
            "scenetok_ns.cli.export_mesh:export_mesh",
            "fuse rendered views of a scene into a mesh",
            ("scenetok export-mesh --tokens scene.safetensors --output scene.ply",),
        ),
        "export-splat": Command(
            "scenetok_ns.cli.export_splat:export_splat",
            "fit 3D Gaussians to rendered views of a scene, as a PLY file",
            ("scenetok export-splat --tokens scene.safetensors --output scene.ply",),
        ),
    },
    "Models and runs": {
        "download": Command(
            "scenetok_ns.cli.download:download",
            "download a released model and create a run folder from it",
            ("scenetok download --list", "scenetok download re10k --output runs/re10k"),
        ),
        "import": Command(
            "scenetok_ns.cli.import_checkpoint:import_checkpoint",
            "create a run folder from a released checkpoint",
            ("scenetok import --from weights --preset re10k --data data/re10k --output runs/re10k",),
        ),
        "new-run": Command(
            "scenetok_ns.cli.new_run:new_run",
            "create a run folder from another run, with another scene or other settings",
            (
                "scenetok new-run scenetok-tiny --data my-capture --output runs/my-capture",
                "scenetok new-run RUN --steps 5 --solver multistep --output runs/fast",
            ),
        ),
    },
    "Evaluation": {
        "evaluate": Command(
            "scenetok_ns.cli.evaluate:evaluate",
            "measure a run: metrics, seeds, sweeps",
            ("scenetok evaluate RUN --num-scenes 4 --baselines", "scenetok evaluate RUN --sweep-steps 2 5 10"),
        ),
        "report": Command(
            "scenetok_ns.cli.report:report",
            "write a page about an evaluation, or print a table of several",
            ("scenetok report RUN --output page.html", "scenetok report RUN RUN2 --output table.csv"),
        ),
        "score": Command(
            "scenetok_ns.cli.score:score",
            "measure pictures of other methods by the same protocol",
            ("scenetok score --predictions pictures/theirs --data data/re10k --index index.json --output scores",),
        ),
        "eval-index": Command(
            "scenetok_ns.cli.eval_index:eval_index",
            "make or check an evaluation index",
            (
                "scenetok eval-index --data data/re10k --num-targets 32 --output index.json",
                "scenetok eval-index --data data/re10k --check index.json",
            ),
        ),
    },
    "Training": {
        "latents": Command(
            "scenetok_ns.cli.latents:latents",
            "encode a data set once with an autoencoder, for training",
            ("scenetok latents --data data/re10k --preset scenetok-tiny --role target --output latents",),
        ),
        "train-tiny": Command(
            "scenetok_ns.cli.train_tiny:train_tiny",
            "train the bundled model from scratch, on a GPU",
            ("scenetok train-tiny --output tiny",),
        ),
        "train-tiny-generator": Command(
            "scenetok_ns.cli.train_tiny_generator:train_tiny_generator",
            "train the bundled scene generator from scratch, on a GPU",
            ("scenetok train-tiny-generator --output generator",),
        ),
        "train-tiny-depth": Command(
            "scenetok_ns.cli.train_tiny_depth:train_tiny_depth",
            "train the bundled model's depth head, on a GPU",
            ("scenetok train-tiny-depth --output depth",),
        ),
        "train-tiny-stream": Command(
            "scenetok_ns.cli.train_tiny_stream:train_tiny_stream",
            "train a student of the bundled model that streams, on a GPU",
            ("scenetok train-tiny-stream --output student",),
        ),
    },
    "First steps": {
        "demo": Command(
            "scenetok_ns.cli.demo:demo",
            "create rooms; evaluate, render, generate and train once",
            ("scenetok demo", "scenetok demo --output demo2 --seed 1 --train-steps 50"),
        ),
        "gallery": Command(
            "scenetok_ns.cli.gallery:gallery",
            "open the viewer on example rooms, a scene generator and your captures",
            ("scenetok gallery", "scenetok gallery my-capture --rooms 2 --output my-gallery"),
        ),
        "demo-data": Command(
            "scenetok_ns.cli.demo_data:demo_data",
            "write procedurally made indoor scenes as a data set",
            ("scenetok demo-data --train-scenes 20 --test-scenes 4 --output data/rooms",),
        ),
        "completion": Command(
            "scenetok_ns.cli.completion:completion",
            "print a script that completes commands and options in a shell",
            ("scenetok completion bash",),
        ),
    },
}
"""Task -> name -> command."""
COMMANDS = {name: command for commands in GROUPS.values() for name, command in commands.items()}


GENERAL = """\
Options of every command:
  --quiet          print nothing but errors
  -h, --help       explain the command, with examples

Environment: SCENETOK_TRACEBACK=1 shows where an error comes from."""


def usage() -> str:
    """Text of `scenetok --help`."""
    width = max(map(len, COMMANDS))
    lines = ["usage: scenetok COMMAND [options]", "       scenetok --version"]
    for task, commands in GROUPS.items():
        lines += ["", f"{task}:", *(f"  {name:<{width}}  {command.summary}" for name, command in commands.items())]
    return "\n".join([*lines, "", GENERAL, "", "scenetok COMMAND --help lists a command's options."])


def examples(name: str) -> str:
    """Last lines of the help of a command."""
    lines = [f"  {line}" for line in COMMANDS[name].examples]
    return "\n".join(["", "Examples:", *lines, "", GENERAL])
