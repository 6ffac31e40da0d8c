"""How shares follow losses: the update, apart from where losses come from and when it is applied."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from athanor.errors import AthanorError
from athanor.files import read_json
from athanor.recipe.mixing import ReweightRecipe

Float64s = npt.NDArray[np.float64]
#: Losses are taken to so many decimals: layouts sum in another order, and their decisions should be the same.
LOSS_DECIMALS = 4
#: Shares are recorded to so many decimals, and what is recorded is what is used.
SHARE_DECIMALS = 6
#: No share falls below this, or its source's loss could not be seen any more.
LEAST_SHARE = 1e-4


@dataclass(slots=True)
class Reweighter:
    """Shares of sources from the mean losses of the steps between two updates.

    ``excess``: αᵢ ← αᵢ · exp(η · min(max(Lᵢ − refᵢ, 0), max_excess)), normalised, then α ← (1 − c)·α + c·prior
    (DoReMi, arXiv 2305.10429, algorithm 1, with the excess by source instead of by token, and smoothed towards the
    stage's own mixture instead of the uniform one). ``bandit``: π ← softmax of η · Lᵢ, smoothed likewise (the policy of
    ODM, arXiv 2312.02406, algorithm 1, with a fixed η and exploration rate).

    Lᵢ is a running mean: ``loss_memory`` of the one before. A source that was not read keeps its own.
    """

    rule: ReweightRecipe
    prior: dict[str, float]
    reference: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    #: sum of the shares after each update, and how many updates: their mean is what is exported
    total: dict[str, float] = field(default_factory=dict)
    updates: int = 0

    def __post_init__(self) -> None:
        whole = sum(self.prior.values())
        self.prior = {name: share / whole for name, share in self.prior.items()}
        self.shares = self.shares or dict(self.prior)
        if self.rule.method == "excess":
            missing = [name for name in self.prior if name not in self.reference]
            if missing:
                raise AthanorError(
                    f"no reference loss of {', '.join(missing)}",
                    where="reweight.reference",
                    fix=f"a loss for each of: {', '.join(self.prior)}",
                )

    def update(self, losses: Mapping[str, float]) -> dict[str, float]:
        """New shares from the mean loss (nats a token) of each source that was read."""
        for name, loss in losses.items():
            if name in self.prior and np.isfinite(loss):
                before = self.losses.get(name, loss)
                kept = self.rule.loss_memory
                self.losses[name] = round(kept * before + (1 - kept) * loss, LOSS_DECIMALS)
        names = list(self.prior)
        prior = np.array([self.prior[name] for name in names])
        raised = self._raised(names)
        target = (1 - self.rule.smoothing) * raised / raised.sum() + self.rule.smoothing * prior
        target = np.maximum(target, LEAST_SHARE)
        target /= target.sum()
        self.shares = {name: round(float(x), SHARE_DECIMALS) for name, x in zip(names, target, strict=True)}
        self.updates += 1
        self.total = {name: self.total.get(name, 0.0) + share for name, share in self.shares.items()}
        return self.shares

    def _raised(self, names: list[str]) -> Float64s:
        """Shares before smoothing, of any sum."""
        if self.rule.method == "excess":
            gain = np.array([self.excess().get(name, 0.0) for name in names])
            start = np.array([self.shares[name] for name in names])
        else:
            known = [self.losses[name] for name in names if name in self.losses]
            mean = sum(known) / len(known) if known else 0.0
            gain = np.array([self.losses.get(name, mean) for name in names])
            start = np.array([self.prior[name] for name in names])
        raised: Float64s = start * np.exp(self.rule.eta * (gain - gain.max()))
        return raised

    def excess(self) -> dict[str, float]:
        """Loss above the reference loss, within 0 … ``max_excess``, of the sources that have been read."""
        top = self.rule.max_excess
        return {name: min(max(loss - self.reference.get(name, loss), 0.0), top) for name, loss in self.losses.items()}

    def mean_shares(self) -> dict[str, float]:
        """Mean of the shares over all updates (DoReMi's final mixture); the stage's own before the first."""
        if not self.updates:
            return dict(self.prior)
        return {name: total / self.updates for name, total in self.total.items()}

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {name: getattr(self, name) for name in ("losses", "shares", "total", "updates")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state_dict`` gave."""
        for name in ("losses", "shares", "total"):
            setattr(self, name, dict(state[name]))
        self.updates = int(state["updates"])


def reference_losses(reference: str | Mapping[str, float] | None) -> dict[str, float]:
    """Loss by source: as given, or those at the end of a finished run, given by its directory.

    Training losses by source (mean over the last tenth of the lines that have them) where the run wrote them: they are
    of the same text as the losses they are compared with. Else its held-out losses.
    """
    if reference is None:
        return {}
    if not isinstance(reference, str):
        return dict(reference)
    path = Path(reference)
    if found := _training_losses(path / "metrics.jsonl"):
        return found
    file = path / "DONE"
    if not file.is_file():
        where, fix = f"reweight.reference: {reference}", "the directory of a finished run"
        raise AthanorError("no finished run here", where=where, fix=fix)
    value = read_json(file)
    losses = value.get("held_out_loss") if isinstance(value, dict) else None
    if not isinstance(losses, dict) or not losses:
        fix = "a reference run with `reweight: {method: watch}`, or sources with holdout above 0"
        raise AthanorError("the run has no losses by source", where=str(path), fix=fix)
    return {str(name): float(loss) for name, loss in losses.items() if isinstance(loss, int | float)}


def _training_losses(metrics: Path) -> dict[str, float]:
    if not metrics.is_file():
        return {}
    found: dict[str, list[float]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        for key, value in json.loads(line).items():
            if key.startswith("loss/") and isinstance(value, int | float):
                found.setdefault(key.removeprefix("loss/"), []).append(float(value))
    return {name: float(np.mean(values[-max(1, len(values) // 10) :])) for name, values in found.items()}


def recorded(events: str | Path, stage: str) -> list[tuple[int, dict[str, float]]]:
    """(row of the stage, shares) of every switch that a run's ``events.jsonl`` records of a stage, in order of rows.

    A run that was killed and resumed has some twice (the same); the last one counts.
    """
    path = Path(events)
    if not path.is_file():
        raise AthanorError("no such file", where=str(path), fix="events.jsonl of a run with `reweight`")
    found: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event.get("kind") == "mixture" and event.get("stage") == stage:
            found[int(event["from_row"])] = {str(name): float(x) for name, x in event["shares"].items()}
    return sorted(found.items())
