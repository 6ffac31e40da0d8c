"""What a spike is, in one place: the laboratory counts by it and the trainer may watch by it.

The written definition (window W = 32 steps, previous steps only):

* a step is a **loss-spike step** when ``loss > median + max(0.4, 6 · MAD)`` over the previous W losses, where MAD is
  the plain median absolute deviation (no 1.4826 factor), in nats;
* a step is a **gradient-spike step** when ``norm > 5 · median`` of the previous W gradient norms (before clipping);
* a value that is not finite is a spike step of its kind, whatever came before it;
* the first W steps are not judged (unless not finite): a median of fewer values is not a baseline. With
  the laboratory's warm-up of 20 steps that is the warm-up and twelve steps more;
* the window keeps flagged values: a median of 32 does not move for a few of them, and a level that stays high becomes
  the new baseline, because a plateau is not a spike;
* consecutive spike steps are **one spike** (one event). Both counts are reported; the bar is on events.

A step of few tokens may be a spike because its text is hard. Runs that read the same batches tell the two apart: the
**rise of the batch** is the median over those runs of (loss − median of its own previous W losses), and a **loss spike
of the model** is a loss spike that is still above the limit when the rise of the batch is taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class SpikeRule:
    """The numbers of the definition. ``window`` in steps, ``loss_floor`` in nats, the factors without unit."""

    window: int = 32
    loss_floor: float = 0.4
    mad_factor: float = 6.0
    grad_factor: float = 5.0


@dataclass(frozen=True, slots=True)
class Spike:
    """One event: steps ``first`` to ``last`` (indices into the series, inclusive), its highest value and the baseline.

    ``baseline`` is the median of the window before ``first`` (nan where there was none).
    """

    first: int
    last: int
    peak: float
    baseline: float

    @property
    def steps(self) -> int:
        """How many consecutive steps were flagged."""
        return self.last - self.first + 1


def _clean(values: Sequence[float]) -> np.ndarray:
    """float64 [N] with every value that is not finite as +inf, so that medians stay ordered."""
    series_N = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(series_N), series_N, np.inf)


def _windows(series_N: np.ndarray, window: int) -> np.ndarray:
    """[max(N - window, 0), window]: row i holds the values before step i + window."""
    if len(series_N) <= window:
        return np.empty((0, window))
    return np.lib.stride_tricks.sliding_window_view(series_N, window)[:-1]


def _flags(series_N: np.ndarray, limit_M: np.ndarray, window: int) -> np.ndarray:
    """bool [N]: above the limit from step ``window`` on, or not finite anywhere."""
    flags_N = ~np.isfinite(series_N)
    flags_N[window:] |= series_N[window:] > limit_M
    return flags_N


def loss_spike_steps(losses: Sequence[float], rule: SpikeRule | None = None) -> np.ndarray:
    """bool [N]: which steps are loss-spike steps."""
    rule = rule or SpikeRule()
    return _flags(_clean(losses), _loss_limits(_clean(losses), rule), rule.window)


def _loss_limits(series_N: np.ndarray, rule: SpikeRule) -> np.ndarray:
    """[max(N - window, 0)]: what the loss of each judged step may reach."""
    windows_MW = _windows(series_N, rule.window)
    median_M = np.median(windows_MW, axis=1)
    with np.errstate(invalid="ignore"):
        spread_MW = np.nan_to_num(np.abs(windows_MW - median_M[:, None]), nan=0.0, posinf=np.inf)
    mad_M = np.median(spread_MW, axis=1)
    return median_M + np.maximum(rule.loss_floor, rule.mad_factor * mad_M)  # type: ignore[no-any-return]


def batch_rise(runs: Sequence[Sequence[float]], rule: SpikeRule | None = None) -> np.ndarray:
    """[N] nats: how much each step's batch raises the loss of the median run; 0 for the first ``window`` steps.

    ``runs`` are losses of runs of one length that read the same batches. Never negative: an easy batch excuses nothing.
    """
    rule = rule or SpikeRule()
    rise_N = np.zeros(len(runs[0]))
    if len(rise_N) > rule.window:
        series = [_clean(run) for run in runs]
        with np.errstate(invalid="ignore"):  # inf - inf: a run that is not finite counts as high
            rises = [s[rule.window :] - np.median(_windows(s, rule.window), axis=1) for s in series]
        middle_M = np.median(np.nan_to_num(np.stack(rises), nan=np.inf), axis=0)
        rise_N[rule.window :] = np.clip(np.where(np.isfinite(middle_M), middle_M, 0.0), 0.0, None)
    return rise_N


def model_loss_spikes(losses: Sequence[float], rise_N: np.ndarray, rule: SpikeRule | None = None) -> list[Spike]:
    """Loss spikes that stay above the limit when the rise of the batch is taken off."""
    rule = rule or SpikeRule()
    series_N = _clean(losses)
    return events(_flags(series_N - rise_N, _loss_limits(series_N, rule), rule.window), losses, rule.window)


def grad_spike_steps(norms: Sequence[float], rule: SpikeRule | None = None) -> np.ndarray:
    """bool [N]: which steps are gradient-spike steps. ``norms`` are global gradient norms before clipping."""
    rule = rule or SpikeRule()
    series_N = _clean(norms)
    limit_M = rule.grad_factor * np.median(_windows(series_N, rule.window), axis=1)
    return _flags(series_N, limit_M, rule.window)


def events(flags_N: np.ndarray, values: Sequence[float], window: int) -> list[Spike]:
    """Runs of consecutive flagged steps as spikes, in order."""
    series_N = _clean(values)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags_N.astype(np.int8), [0]])))
    spikes = []
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        baseline = float(np.median(series_N[first - window : first])) if first >= window else float("nan")
        spikes.append(Spike(first, end - 1, float(series_N[first:end].max()), baseline))
    return spikes


def loss_spikes(losses: Sequence[float], rule: SpikeRule | None = None) -> list[Spike]:
    """Loss spikes (events) of a series of per-step training losses in nats."""
    rule = rule or SpikeRule()
    return events(loss_spike_steps(losses, rule), losses, rule.window)


def grad_spikes(norms: Sequence[float], rule: SpikeRule | None = None) -> list[Spike]:
    """Gradient spikes (events) of a series of per-step gradient norms before clipping."""
    rule = rule or SpikeRule()
    return events(grad_spike_steps(norms, rule), norms, rule.window)
