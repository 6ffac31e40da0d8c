"""What failures cost a long run, how often to save, and what a token budget costs in days, money and energy.

Failures are independent and equally likely at any time (a Poisson process), as for all sources here: J. W. Young, "A
first order approximation to the optimum checkpoint interval", Commun. ACM 17(9), 1974; J. T. Daly, "A higher order
estimate of the optimum checkpoint interval for restart dumps", Future Generation Computer Systems 22(3), 2006.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from athanor.errors import AthanorError

HOUR_S, DAY_S = 3600.0, 86400.0


@dataclass(frozen=True)
class Reliability:
    """How a run fails and saves. One failure of any of ``devices`` stops all of it, and the work since the last
    checkpoint is lost; a failure while saving or restarting begins the restart anew.

    ``failures_per_device_hour`` ≥ 0; ``checkpoint_s``: training stands still for a checkpoint; ``restart_s``: from the
    failure to the first new step (detect, replace, load). AthanorError for values out of range.
    """

    devices: int
    failures_per_device_hour: float
    checkpoint_s: float
    restart_s: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not math.isfinite(value) or value < 0 or (name == "devices" and value < 1):
                least = "at least 1" if name == "devices" else "finite and not negative"
                raise AthanorError(f"{value}", where=f"reliability: {name}", fix=least)

    @property
    def failure_interval_s(self) -> float:
        """Mean time between failures of the whole run, M; infinite without failures."""
        a_hour = self.failures_per_device_hour * self.devices
        return HOUR_S / a_hour if a_hour else math.inf

    @property
    def young_interval_s(self) -> float:
        """√(2 δ M): training time between two checkpoints of δ seconds (Young 1974)."""
        return math.sqrt(2 * self.checkpoint_s * self.failure_interval_s) if self.checkpoint_s else 0.0

    @property
    def daly_interval_s(self) -> float:
        """√(2 δ M) · (1 + ⅓ √(δ/2M) + ⅑ δ/2M) − δ for δ < 2 M, else M (Daly 2006, the higher-order estimate): training
        time between two checkpoints. Its goodput is at most 0.2 % below that of ``best_interval_s``. The restart time
        does not change it."""
        mean_s, save_s = self.failure_interval_s, self.checkpoint_s
        if math.isinf(mean_s):
            return math.inf if save_s else 0.0
        if save_s >= 2 * mean_s:
            return mean_s
        part = save_s / (2 * mean_s)
        return math.sqrt(2 * save_s * mean_s) * (1 + math.sqrt(part) / 3 + part / 9) - save_s

    @property
    def best_interval_s(self) -> float:
        """The interval with the highest ``goodput``: τ of e^(−(τ + δ)/M) = 1 − τ/M, where its derivative is zero,
        found by bisection. 0 where checkpoints are free, infinite where nothing fails."""
        mean_s, save_s = self.failure_interval_s, self.checkpoint_s
        if not save_s or math.isinf(mean_s):
            return math.inf if save_s else 0.0
        low, high = 0.0, 1.0  # of τ/M
        for _ in range(100):
            middle = (low + high) / 2
            if middle + math.expm1(-middle - save_s / mean_s) > 0:
                high = middle
            else:
                low = middle
        return low * mean_s

    @property
    def availability(self) -> float:
        """Expected share of the time in which the run is up, training or saving: e^(−R/M).

        Between failures it is up M on average, and down for the mean of a restart that must live through R seconds
        without a failure, M (e^(R/M) − 1).
        """
        return math.exp(-self.restart_s / self.failure_interval_s)

    def goodput(self, interval_s: float) -> float:
        """Expected share of the time that goes into steps that are kept, saving every ``interval_s`` of training.

        τ / (M e^(R/M) (e^((τ + δ)/M) − 1)) (Daly 2006, the complete cost function: solve time by wall time). Without
        failures τ / (τ + δ). AthanorError for an interval that is not positive.
        """
        if not interval_s > 0:
            raise AthanorError(f"{interval_s} s", where="checkpoint interval", fix="more than 0")
        mean_s = self.failure_interval_s
        if math.isinf(mean_s):
            return interval_s / (interval_s + self.checkpoint_s) if math.isfinite(interval_s) else 1.0
        exponent = (interval_s + self.checkpoint_s) / mean_s
        if exponent > 700:  # e^700 is near the end of float64
            return 0.0
        return self.availability * interval_s / (mean_s * math.expm1(exponent))

    def best_steps(self, step_s: float) -> int | None:
        """Optimizer steps of ``step_s`` seconds between checkpoints that give the highest goodput, at least one. None:
        without failures there is no need to save. AthanorError for a step time that is not positive."""
        _require_positive("step time", step_s)
        best = self.best_interval_s / step_s
        if math.isinf(best):
            return None
        around = {max(1, math.floor(best)), max(1, math.ceil(best))}
        return max(sorted(around), key=lambda steps: self.goodput(steps * step_s))

    def summary(self, interval_s: float | None = None) -> dict[str, float | None]:
        """The figures, ready for JSON (None: infinite); ``interval_s`` None: the best one (steps of any length)."""
        interval = self.best_interval_s if interval_s is None else interval_s
        good = self.goodput(interval) if interval else self.availability
        found = {
            "failure_interval_s": self.failure_interval_s,
            "failures_a_week": 7 * DAY_S / self.failure_interval_s,
            "young_interval_s": self.young_interval_s,
            "daly_interval_s": self.daly_interval_s,
            "best_interval_s": self.best_interval_s,
            "interval_s": interval,
            "availability": self.availability,
            "goodput": good,
        }
        return {name: value if math.isfinite(value) else None for name, value in found.items()}


@dataclass(frozen=True)
class Prices:
    """What a device costs: ``cost_per_device_hour`` in any currency, ``power_w`` of a device with its share of the
    node, ``overhead`` the data centre's power over that of its machines (PUE, ≥ 1)."""

    cost_per_device_hour: float = 0.0
    power_w: float = 0.0
    overhead: float = 1.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 1.0 if name == "overhead" else 0.0
            if not math.isfinite(value) or value < least:
                raise AthanorError(f"{value}", where=f"prices: {name}", fix=f"finite, at least {least:g}")


@dataclass(frozen=True)
class Bill:
    """What a run takes: ``steps``, ``wall_s``, ``days``, ``device_hours``, ``cost`` (the currency of ``Prices``),
    ``energy_kwh``, and ``tokens_per_s`` of kept work."""

    steps: int
    wall_s: float
    days: float
    device_hours: float
    cost: float
    energy_kwh: float
    tokens_per_s: float

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return asdict(self)


def bill(
    *,
    tokens: float,
    tokens_per_step: float,
    step_s: float,
    devices: int,
    goodput: float = 1.0,
    prices: Prices | None = None,
) -> Bill:
    """Days, money and energy for a budget of ``tokens``, a step of ``tokens_per_step`` taking ``step_s`` seconds on
    ``devices``; the last step is a whole one. ``goodput``: the share of the time that is kept.

    AthanorError for values that are not positive, and a goodput above 1.
    """
    given = {"tokens": tokens, "tokens of a step": tokens_per_step, "step time": step_s, "devices": devices}
    for name, value in given.items():
        _require_positive(name, value)
    if not 0 < goodput <= 1:
        raise AthanorError(f"{goodput}", where="goodput", fix="more than 0, at most 1")
    prices = prices or Prices()
    steps = math.ceil(tokens / tokens_per_step)
    wall_s = steps * step_s / goodput
    device_hours = devices * wall_s / HOUR_S
    return Bill(
        steps=steps,
        wall_s=wall_s,
        days=wall_s / DAY_S,
        device_hours=device_hours,
        cost=device_hours * prices.cost_per_device_hour,
        energy_kwh=device_hours * prices.power_w * prices.overhead / 1000,
        tokens_per_s=tokens_per_step * goodput / step_s,
    )


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise AthanorError(f"{value}", where=name, fix="finite and more than 0")
