"""Settings of the whole suite."""

from __future__ import annotations

import os
import tempfile

from hypothesis import settings

from scenetok_ns.tools.threads import let_idle_threads_sleep

let_idle_threads_sleep()  # before torch is imported

# Time depends on the machine and on what else it does; no test may fail for it.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Nothing of a test goes to the user's cache folder, or comes from it: neither interrupted evaluations nor weights.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="scenetok-tests-")
for variable in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"):
    os.environ.pop(variable, None)
