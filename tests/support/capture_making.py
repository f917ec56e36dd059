"""Create captures of small pictures in tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from scenetok_ns.data.capture.capture_folder import Capture, CaptureOptions
from scenetok_ns.data.capture.pose_estimation import EstimationOptions

OPTIONS = CaptureOptions(estimation=EstimationOptions(threads=1))
NUMBER = 9


@dataclass
class Stages:
    """Progress callback that records its calls, and raises an interrupt at a chosen stage."""

    interrupt_at: str | None = None
    calls: list[tuple[str, int, int]] = field(default_factory=list)

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.calls.append((stage, done, total))
        if stage == self.interrupt_at:
            raise KeyboardInterrupt

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name, *_ in self.calls))


@dataclass
class Made:
    source: Path
    capture: Capture
    first: Stages
    second: Stages
    after_interrupt: list[str]
    """Names of the entries beside the source between the two calls."""
