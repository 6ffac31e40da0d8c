"""Fitting the few efficiencies of a machine to measured runs: damped least squares with a prior for each of them.

Every constant has a typical value and a spread before anything is measured; runs pull it away only as far as they speak
of it. So a machine with one measured source does not get absurd constants, and one without any keeps the typical ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from athanor.plan.cluster import Cluster, SizePoint, load_cluster
from athanor.plan.runs import Run, Setup, setup
from athanor.plan.validate import Row, validate

Floats = NDArray[np.float64]

#: Operations of the points of a fitted ``by_size`` curve.
SIZES = (1e8, 1e9, 1e10, 1e11, 1e12, 1e13)


@dataclass(frozen=True, slots=True)
class Constant:
    """One fitted figure: ``typical`` before any measurement, ``spread`` the standard deviation of its logarithm."""

    name: str
    typical: float
    spread: float
    most: float = np.inf


#: What is fitted. Products rise to ``top`` of the peak with half of it at ``half_flops``; the other shares are factors
#: on what the cluster file says of its kernels.
CONSTANTS = (
    Constant("matmul.top", 0.75, 0.25, 0.98),
    Constant("matmul.half_flops", 3e9, 1.5),
    Constant("matmul.half_k", 128.0, 0.7),
    Constant("attention", 0.45, 0.35, 0.9),
    Constant("memory_bound", 0.75, 0.2, 0.95),
    Constant("node.efficiency", 0.75, 0.15, 0.95),
    Constant("node.contention", 0.10, 0.7, 0.5),
    Constant("network.efficiency", 0.75, 0.3, 0.95),
)


@dataclass(frozen=True, slots=True)
class Fit:
    """The machine with fitted constants, their values, and the rows' errors (log predicted / measured)."""

    cluster: Cluster
    values: dict[str, float]
    errors: Floats


def typical() -> dict[str, float]:
    """Constants before any measurement."""
    return {constant.name: constant.typical for constant in CONSTANTS}


def with_constants(cluster: Cluster, values: dict[str, float]) -> Cluster:
    """``cluster`` with its efficiencies replaced. Attention's backward pass keeps its ratio to the forward pass, and
    kinds of work bound by memory their ratios to elementwise work."""
    device, node = cluster.device, cluster.node
    top, half = values["matmul.top"], values["matmul.half_flops"]
    points = tuple(SizePoint(flops=x, efficiency=float(top * x**0.5 / (x**0.5 + half**0.5))) for x in SIZES)
    forward = values["attention"]
    attention = device.attention.model_copy(
        update={"forward": forward, "backward": forward * device.attention.backward / device.attention.forward}
    )
    ratio = values["memory_bound"] / device.memory_bound.elementwise
    bound = device.memory_bound
    shares = {k: min(0.98, ratio * getattr(bound, k)) for k in ("elementwise", "norm", "softmax", "optimizer")}
    network = cluster.network
    return cluster.model_copy(
        update={
            "device": device.model_copy(
                update={
                    "matmul": device.matmul.model_copy(update={"by_size": points, "half_k": values["matmul.half_k"]}),
                    "attention": attention,
                    "memory_bound": bound.model_copy(update=shares),
                }
            ),
            "node": node.model_copy(
                update={"efficiency": values["node.efficiency"], "contention": values["node.contention"]}
            ),
            "network": None
            if network is None
            else network.model_copy(update={"efficiency": values["network.efficiency"]}),
        }
    )


def fit(
    cluster: Cluster,
    errors_of: Callable[[Cluster], Sequence[float]],
    sigma: float = 0.04,
    rounds: int = 12,
) -> Fit:
    """Constants that make ``errors_of(machine)`` (log predicted / measured of each run) small, near their priors.

    ``sigma``: how far a run is expected to be off with the right constants. Levenberg–Marquardt on the logarithms, with
    derivatives by differences; runs switch layouts now and then, so that a step is taken only where it helps.
    """

    def values_of(x: Floats) -> dict[str, float]:
        pairs = zip(CONSTANTS, x, strict=True)
        return {c.name: float(min(c.most, c.typical * np.exp(c.spread * z))) for c, z in pairs}

    def residuals(x: Floats) -> Floats:
        errors = np.asarray(errors_of(with_constants(cluster, values_of(x))), np.float64)
        # A run that is far off for a reason of its own should not bend the machine: beyond 3 sigma it counts linearly.
        scaled = errors / sigma
        beyond = np.maximum(np.abs(scaled), 3.0)
        soft = np.where(np.abs(scaled) > 3, np.sign(scaled) * np.sqrt(6 * beyond - 9), scaled)
        return np.concatenate([soft, x])

    x, damping = np.zeros(len(CONSTANTS)), 1.0
    now = residuals(x)
    for _ in range(rounds):
        step = 0.03
        jacobian = np.stack([(residuals(x + step * e) - now) / step for e in np.eye(len(x))], axis=1)
        gradient, square = jacobian.T @ now, jacobian.T @ jacobian
        before = float(now @ now)
        for _ in range(6):
            move = np.linalg.solve(square + damping * np.diag(np.diag(square)), -gradient)
            tried = np.clip(x + move, -3, 3)
            after = residuals(tried)
            if float(after @ after) < before:
                x, now, damping = tried, after, damping / 3
                break
            damping *= 3
        if before - float(now @ now) < 1e-3 * before:
            break
    values = values_of(x)
    machine = with_constants(cluster, values)
    return Fit(machine, values, np.asarray(errors_of(machine), np.float64))


# --- published runs --------------------------------------------------------------------------------------------------

#: Software whose times say little of the machine: nothing hides behind its collectives' latencies.
_OWN_LIMITS = ("zero3-2021",)
#: Quantities that fall when a step takes longer.
_RATES = ("tokens_per_s_per_gpu", "achieved_tflops_per_gpu", "MFU")


def runs_on(runs: Sequence[Run], cluster: str) -> list[Run]:
    """Rows that the shipped file ``cluster`` is for."""
    return [run for run in runs if isinstance(taken := setup(run), Setup) and taken.cluster == cluster]


def fit_runs(runs: Sequence[Run], cluster: str) -> Fit:
    """Constants of the shipped file ``cluster`` from published times of ``runs``; typical ones where there are none."""
    rows = [run for run in runs_on(runs, cluster) if _speaks(run)]

    def errors(machine: Cluster) -> list[float]:
        found = validate(rows, {cluster: machine}).chosen()
        signs = [-1.0 if row.run.quantity in _RATES else 1.0 for row in found]
        return [sign * float(np.log1p(row.error)) for sign, row in zip(signs, found, strict=True)]

    return fit(load_cluster(cluster), errors)


def _speaks(run: Run) -> bool:
    """Whether a run tells of its machine. Where the planner picks the layout by the constants, it does not."""
    taken = setup(run)
    if isinstance(taken, str) or taken.engine.name in _OWN_LIMITS:
        return False
    return run.counts["tp"] is not None and run.counts["pp"] is not None


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Runs of one source predicted by constants that were fitted without them."""

    source: str
    cluster: str
    by: str  #: what the constants come from
    rows: tuple[Row, ...]

    @property
    def mape(self) -> float:
        """Mean absolute error of step times and throughputs, one row a run."""
        return float(np.mean([abs(row.error) for row in self.rows]))


#: A device with one source: its runs in so many parts, each predicted by the others.
FOLDS = 3


def leave_one_out(runs: Sequence[Run]) -> list[HeldOut]:
    """Every source by constants of the other sources of its device. A device with one source is predicted twice: by the
    mean constants of all other devices, and in three parts, each by the other two."""
    clusters = sorted({taken.cluster for run in runs if isinstance(taken := setup(run), Setup)})
    fits = {cluster: fit_runs(runs, cluster) for cluster in clusters}
    found: list[HeldOut] = []
    for cluster in clusters:
        mine = [run for run in runs_on(runs, cluster) if _speaks(run)]
        sources = list(dict.fromkeys(run.source for run in mine))
        for source in sources if len(sources) > 1 else ():
            rest = [run for run in mine if run.source != source]
            held = [run for run in mine if run.source == source]
            others = " and ".join(name for name in sources if name != source)
            found.append(_held(source, cluster, others, held, fit_runs(rest, cluster).cluster))
        if len(sources) == 1:
            found += _one_source(sources[0], cluster, mine, [fits[c] for c in clusters if c != cluster])
    return [item for item in found if item.rows]


def _one_source(source: str, cluster: str, mine: list[Run], others: list[Fit]) -> list[HeldOut]:
    base = load_cluster(cluster)
    mean = {c.name: float(np.exp(np.mean([np.log(f.values[c.name]) for f in others]))) for c in CONSTANTS}
    found = [_held(source, cluster, "the mean of other devices", mine, with_constants(base, mean))] if others else []
    keys = list(dict.fromkeys(run.key for run in mine))
    if len(keys) < 2 * FOLDS:
        return found
    rows: list[Row] = []
    for fold in range(FOLDS):
        out = set(keys[fold::FOLDS])
        machine = fit_runs([run for run in mine if run.key not in out], cluster).cluster
        rows += _held(source, cluster, "", [run for run in mine if run.key in out], machine).rows
    return [*found, HeldOut(source, cluster, "its other runs, three parts", tuple(rows))]


def _held(source: str, cluster: str, by: str, held: list[Run], machine: Cluster) -> HeldOut:
    return HeldOut(source, cluster, by, tuple(validate(held, {cluster: machine}).chosen()))
