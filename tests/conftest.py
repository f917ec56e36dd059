"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# Time depends on the machine and on what else it does; no test may fail for it.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
