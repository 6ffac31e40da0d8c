"""What a run writes down about itself: memory, the meter behind a metrics line, and TensorBoard."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from athanor.train.run_dir import RunDir


def peak_bytes(device: torch.device) -> int:
    """Most memory used so far: allocated on an accelerator, resident in a CPU process."""
    if device.type != "cpu":
        return int(torch.get_device_module(device).max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class PeakMemory:
    """:func:`peak_bytes`, asked at most twice a second: the system call costs more than the rest of a metrics line."""

    def __init__(self, device: torch.device, every_s: float = 0.5) -> None:
        self.device, self.every_s = device, every_s
        self._bytes, self._asked_at = 0, float("-inf")

    def read(self) -> int:
        """Bytes, at most ``every_s`` old."""
        now = time.monotonic()
        if now - self._asked_at >= self.every_s:
            self._bytes, self._asked_at = peak_bytes(self.device), now
        return self._bytes


class Meter:
    """Work and time between two metrics lines. Evaluations and checkpoints stop its clock."""

    def __init__(self) -> None:
        self._steps = self._tokens = self._flops = 0
        self._data_s = self._away_s = 0.0
        self._begun = time.perf_counter()

    def add(self, tokens: int, flops: int, data_s: float) -> None:
        """Count one step."""
        self._steps += 1
        self._tokens += tokens
        self._flops += flops
        self._data_s += data_s

    def away(self, seconds: float) -> None:
        """Leave out time that was not training."""
        self._away_s += seconds

    def read(self, peak_flops: float) -> dict[str, float]:
        """Means since the last reading: tokens_per_s, mfu, step_s, data_s (waiting for batches)."""
        now = time.perf_counter()
        seconds = max(now - self._begun - self._away_s, 1e-9)
        steps = max(self._steps, 1)
        out = {
            "tokens_per_s": self._tokens / seconds,
            "mfu": self._flops / seconds / peak_flops,
            "step_s": seconds / steps,
            "data_s": self._data_s / steps,
        }
        self._steps = self._tokens = self._flops = 0
        self._data_s = self._away_s = 0.0
        self._begun = now
        return out


class Board:
    """TensorBoard curves, thinned to about one point a second; metrics.jsonl is the full record.

    Curves are a convenience: when they cannot be written the event log says so and training goes on.
    """

    def __init__(self, run: RunDir, purge_after_step: int) -> None:
        self.run = run
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=purge_after_step + 1)
        except (ImportError, OSError) as error:
            run.event("tensorboard_off", error=str(error))

    def write(self, step: int, values: Mapping[str, Any], prefix: str) -> None:
        """One point of every number in ``values``."""
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                if isinstance(value, int | float) and name not in ("step", "time"):
                    self._writer.add_scalar(f"{prefix}/{name}", value, step)
        except OSError as error:
            self._writer = None
            self.run.event("tensorboard_off", step=step, error=str(error))

    def close(self) -> None:
        """Flush and close."""
        if self._writer is None:
            return
        try:
            self._writer.close()
        except OSError as error:
            self.run.event("tensorboard_off", error=str(error))
