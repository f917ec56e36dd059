"""Kernels in Triton's interpreter, where there is no GPU.

The interpreter is chosen when Triton is imported, so another process runs the files that test kernels. It runs all of
them, because it needs ten seconds to start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FILES = ("ops/test_dispatch.py", "fused/test_operations.py", "fused/test_float8.py")


def test_kernels_agree_with_their_twins_in_the_interpreter() -> None:
    if torch.cuda.is_available():
        pytest.skip("kernels run on the GPU, in their own tests")
    pytest.importorskip("triton", reason="torch comes without Triton here")
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    files = [str(Path(__file__).parent / file) for file in FILES]
    command = [sys.executable, "-m", "pytest", "-rp", "-p", "no:cacheprovider", "-p", "no:xdist", *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    for file in FILES:
        assert f"PASSED tests/models/{file}" in done.stdout, done.stdout[-1000:]
