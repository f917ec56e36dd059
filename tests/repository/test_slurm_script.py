"""scripts/train.slurm, run with stand-ins for SLURM's commands and ns-train."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train.slurm"

SRUN = """#!/usr/bin/env bash
# Runs its command once for each node, as srun does with one task per node.
while [[ $1 == --* ]]; do shift; done
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do SLURM_NODEID=$node "$@" || exit; done
"""
SCONTROL = """#!/usr/bin/env bash
[ "$*" = "show hostnames node[07-08]" ] && printf 'node07\\nnode08\\n'
"""
NS_TRAIN = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
sys.exit(int(os.environ.get("EXIT", 0)))
"""


def submit(
    folder: Path, *arguments: str, **environment: str
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Run the script as a job on two nodes. Returns its result, and the arguments of ns-train on each node."""
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL), ("ns-train", NS_TRAIN)):
        path = folder / name
        path.write_text(content)
        path.chmod(0o755)
    calls = folder / "calls"
    job = {
        "PATH": os.pathsep.join([str(folder), os.environ["PATH"]]),
        "CALLS": str(calls),
        "SLURM_JOB_ID": "4000123",
        "SLURM_JOB_NODELIST": "node[07-08]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
    }
    done = subprocess.run(["bash", SCRIPT, *arguments], env=job | environment, capture_output=True, text=True)
    lines = calls.read_text().splitlines() if calls.exists() else []
    return done, [json.loads(line) for line in lines]


def test_every_node_joins_the_same_run(tmp_path: Path) -> None:
    given = ["--data", "a folder/re10k", "--pipeline.model.compile", "True", "re10k-data", "--scene", "$HOME"]
    done, calls = submit(tmp_path, "first", "scenetok", *given)
    assert done.returncode == 0, done.stderr
    assert len(calls) == 2
    for rank, call in enumerate(calls):
        assert call[0] == "scenetok" and call[-len(given) :] == given
        options = dict(zip(call[1 : -len(given) : 2], call[2 : -len(given) : 2], strict=True))
        assert options == {
            "--experiment-name": "first",
            "--timestamp": "run",
            "--resume": "True",
            "--viewer.quit-on-train-completion": "True",
            "--machine.num-devices": "4",
            "--machine.num-machines": "2",
            "--machine.machine-rank": str(rank),
            "--machine.dist-url": "tcp://node07:20123",
        }


def test_a_failure_on_a_node_is_the_job_s(tmp_path: Path) -> None:
    assert submit(tmp_path, "first", "scenetok", EXIT="7")[0].returncode == 7


@pytest.mark.parametrize("arguments", [(), ("first",)])
def test_without_a_run_and_a_method_it_explains_itself(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done, calls = submit(tmp_path, *arguments)
    assert done.returncode == 2 and "sbatch --nodes 2" in done.stderr and calls == []
