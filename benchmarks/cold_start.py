"""Measure the seconds from the start of a process to its first frame, without and with kernels compiled before.

    python benchmarks/cold_start.py --preset re10k        # random weights of full size; needs a CUDA device
    python benchmarks/cold_start.py --preset scenetok-tiny --device cpu     # the plain loop

Two processes run one after the other. The first may have to compile kernels; the second finds them in the cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

CHILD = """
import time
start = time.time()
import sys, torch
sys.path.insert(0, {folder!r})
from rendering import Bench, load_preset
loaded = time.time()
bench = Bench(load_preset({preset!r}), torch.device({device!r}))
bench.use("engine")
if bench.device.type == "cuda":
    torch.cuda.synchronize()
built = time.time()
with torch.no_grad():
    for window in bench.model.render_windows(bench.tokens, bench.cameras(1)):
        window.frames.cpu()
print("FIRST FRAME", loaded - start, built - start, time.time(), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="re10k")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args()
    code = CHILD.format(folder=str(Path(__file__).parent), preset=args.preset, device=args.device)
    rows = []
    for number in range(args.processes):
        start = time.time()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        line = next((line for line in done.stdout.splitlines() if line.startswith("FIRST FRAME")), None)
        if line is None:
            sys.exit(f"the process failed:\n{done.stderr[-2000:]}")
        imported, built, seen = (float(part) for part in line.split()[2:])
        rows.append({"imported_s": imported, "model_built_s": built, "first_frame_s": seen - start})
        print(
            f"process {number + 1}: imports {imported:.1f} s, model on the device {built:.1f} s, "
            f"first frame {seen - start:.1f} s"
        )
    if args.output is not None:
        args.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
