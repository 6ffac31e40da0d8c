"""Timing of small pieces of work: medians, on every rank at once, with the machine as busy as training makes it.

Ranks of a machine share its memory and caches, and slow one another down. So all of them measure the same thing at the
same time, and the slowest counts: that is who a step waits for.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist

Kind = Literal["wall", "cpu"]


#: What is touched between collectives: more than caches hold.
_OTHER_BYTES = 64 * 2**20


@dataclass(slots=True)
class Clock:
    """Measures calls on ``device``. ``budget_s``: how long one measurement may take; ``least``: calls at least.

    ``kind="cpu"`` takes this process's processor time over its threads instead of the wall clock: on a CPU that others
    use too, it is nearer to what the machine does when it is quiet. Collectives wait, so theirs is always wall time.
    """

    device: torch.device
    budget_s: float = 0.5
    least: int = 5
    kind: Kind = "wall"
    #: of every measurement: distance of the quartiles over the median
    spreads: list[float] = field(default_factory=list)

    @property
    def spread(self) -> float:
        """Median over all measurements of how far their quartiles lie apart; a quiet machine has a few per cent."""
        return statistics.median(self.spreads) if self.spreads else 0.0

    @property
    def ranks(self) -> int:
        """Processes that measure together."""
        return dist.get_world_size() if dist.is_initialized() else 1

    def now(self) -> float:
        """Seconds of the chosen clock, of one thread's worth."""
        return time.perf_counter() if self.kind == "wall" else time.process_time() / torch.get_num_threads()

    def sync(self) -> None:
        """Wait for the device."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def seconds(self, call: Callable[[], Any], together: bool = False, inner: int = 1) -> float:
        """Median seconds of ``call`` (which does its work ``inner`` times), the largest of all ranks.

        ``together``: the call waits for other ranks. All begin it at once, equally often; and with caches full of other
        things, as a step leaves them between one collective and the next.
        """
        return self.each([call], together, inner)[0]

    def each(self, calls: Sequence[Callable[[], Any]], together: bool = False, inner: int = 1) -> list[float]:
        """As ``seconds`` for calls that are made in turn, one after the other, as in a step: each finds the caches as
        the others left them."""
        other = torch.zeros(_OTHER_BYTES // 4, device=self.device) if together else None
        now = time.perf_counter if together else self.now
        for call in calls:  # compiles, fills caches
            call()
        self._meet()
        taken: list[list[float]] = [[] for _ in calls]
        begun = time.perf_counter()
        times = self.least
        while len(taken[0]) < times:
            for call, into in zip(calls, taken, strict=True):
                if other is not None:
                    other.add_(1)
                    self._meet()
                self.sync()
                at = now()
                call()
                self.sync()
                into.append((now() - at) / inner)
            if len(taken[0]) == 1:
                once = max(time.perf_counter() - begun, 1e-9)
                times = self.most(min(200, max(self.least, int(self.budget_s / once))))
        for into in taken:
            low, middle, high = statistics.quantiles(into, n=4)
            self.spreads.append((high - low) / middle)
        return self._slowest([statistics.median(into) for into in taken])

    def most_spread(self) -> float:
        """``spread`` of the rank that was disturbed most."""
        return self._slowest([self.spread])[0]

    def most(self, count: int) -> int:
        """The largest count of any rank."""
        return int(self._slowest([float(count)])[0])

    def _meet(self) -> None:
        if self.ranks > 1:
            dist.barrier()

    def _slowest(self, seconds: list[float]) -> list[float]:
        if self.ranks == 1:
            return seconds
        every = torch.tensor(seconds, dtype=torch.float64)
        dist.all_reduce(every, op=dist.ReduceOp.MAX)
        return every.tolist()  # type: ignore[no-any-return]
