"""Small linear models of the four axes: fit, score, keep as files.

A logistic model for each group of texts and axis over standardised figures and hashed class n-grams (``quality_text``),
fitted to values in 0 … 1 by cross-entropy with L2 (the fractional logit of Papke & Wooldridge 1996), L-BFGS, from zero:
the same examples give the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from athanor.data.steps.quality_examples import AXES, GROUPS, Example
from athanor.data.steps.quality_text import (
    FIGURES,
    N_BUCKETS,
    Language,
    figures,
    hashed_counts,
    kinds_of,
    tokens_of,
    windows,
)
from athanor.errors import AthanorError
from athanor.files import atomic_path

Floats = npt.NDArray[np.float32]

#: Grows with any change of the figures or classes: a stored model of another version is not used.
VERSION = 1
#: Strength of L2 on the weights of figures and of n-grams, for a mean loss.
_L2_FIGURES, _L2_GRAMS = 2e-3, 1e-3


def group_of(text: str, domain: str) -> str:
    """Which models judge a text: of code by its domain, else of Chinese by its characters, else of Latin script."""
    if domain == "code":
        return "code"
    if text.isascii():
        return "en"
    few = windows(text)
    han = sum("一" <= c <= "鿿" for c in few)
    return "zh" if han > 0.15 * max(len(few), 1) else "en"


@dataclass(frozen=True)
class Features:
    """Of some texts: standardised later; ``grams`` as (buckets, values) each."""

    dense: Floats
    grams: list[tuple[npt.NDArray[np.int64], Floats]]

    @classmethod
    def of(cls, texts: Sequence[str], languages: Sequence[Language]) -> Features:
        """Figures and hashed n-grams of each text's windows, each beside the language of its group."""
        dense = np.zeros((len(texts), len(FIGURES)), dtype=np.float32)
        grams = []
        for i, (text, language) in enumerate(zip(texts, languages, strict=True)):
            few = windows(text)
            tokens = tokens_of(few)
            numbers = kinds_of(tokens)
            dense[i] = figures(few, tokens, numbers, language)
            grams.append(hashed_counts(numbers))
        return cls(dense, grams)


@dataclass
class QualityModel:
    """``weights`` [groups, axes, 1 + figures + buckets], the figures' ``mean`` and ``std`` [groups, figures], each
    group's :class:`Language` (``letters`` [27³] of all, ``counts`` [groups, 3, buckets]), and ``facts``: what
    it was fitted on and how well it agrees."""

    weights: Floats
    mean: Floats
    std: Floats
    letters: Floats
    counts: Floats
    facts: dict[str, Any] = field(default_factory=dict)

    def languages(self) -> dict[str, Language]:
        """By group."""
        return {group: Language(self.letters, self.counts[g]) for g, group in enumerate(GROUPS)}

    @property
    def unlearnt(self) -> list[str]:
        """Axes that no example was labelled on: their score is ½ for every text."""
        return [axis for a, axis in enumerate(AXES) if not self.weights[:, a].any()]

    def score(self, texts: Sequence[str], groups: Sequence[str]) -> Floats:
        """Scores in 0 … 1 [texts, axes]."""
        languages = self.languages()
        features = Features.of(texts, [languages[group] for group in groups])
        out = np.zeros((len(texts), len(AXES)), dtype=np.float32)
        for i, group in enumerate(groups):
            g = GROUPS.index(group)
            # Figures beyond four spreads say no more than at four: texts unlike any example are not judged to extremes.
            x = np.clip((features.dense[i] - self.mean[g]) / self.std[g], -4, 4)
            buckets, values = features.grams[i]
            weights = self.weights[g]
            logits = (
                weights[:, 0] + weights[:, 1 : 1 + len(FIGURES)] @ x + weights[:, 1 + len(FIGURES) + buckets] @ values
            )
            out[i] = 1 / (1 + np.exp(-logits))
        return out

    def save(self, folder: Path) -> None:
        """``quality.safetensors`` and ``quality.json``."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / "quality.safetensors") as path:
            tensors = {
                "weights": self.weights,
                "mean": self.mean,
                "std": self.std,
                "letters": self.letters,
                "counts": self.counts,
            }
            save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, str(path))
        with atomic_path(folder / "quality.json") as path:
            facts = {"version": VERSION, "axes": AXES, "groups": GROUPS, "figures": FIGURES, **self.facts}
            path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> QualityModel:
        """AthanorError where the folder holds no model of this version."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            facts = json.loads((folder / "quality.json").read_text("utf-8"))
            tensors = load_file(str(folder / "quality.safetensors"))
            tensors = {name: tensors[name] for name in ("weights", "mean", "std", "letters", "counts")}
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise AthanorError(f"no quality model here: {error}", where=str(folder), fix="train one") from None
        if facts.get("version") != VERSION:
            raise AthanorError("a quality model of another version", where=str(folder), fix="train it again")
        return cls(**tensors, facts=facts)


def fit(examples: Sequence[Example], prose: Sequence[str], whole: Mapping[str, Sequence[str]]) -> QualityModel:
    """Models of all groups and axes. ``prose``: English texts whose words' letters are learnt; ``whole``: undamaged
    texts of each group, whose order of words is. A group or axis without labels gets weights of zero: a score of ½."""
    n_figures, size = len(FIGURES), 1 + len(FIGURES) + N_BUCKETS
    letters = Language.learn(list(prose), [])
    languages = {group: letters.with_texts(list(whole.get(group, ()))) for group in GROUPS}
    model = QualityModel(
        np.zeros((len(GROUPS), len(AXES), size), np.float32),
        np.zeros((len(GROUPS), n_figures), np.float32),
        np.ones((len(GROUPS), n_figures), np.float32),
        languages[GROUPS[0]].letters,
        np.stack([languages[group].counts for group in GROUPS]),
    )
    for g, group in enumerate(GROUPS):
        mine = [example for example in examples if example.group == group]
        if not mine:
            continue
        features = Features.of([example.text for example in mine], [languages[group]] * len(mine))
        model.mean[g], model.std[g] = features.dense.mean(0), features.dense.std(0) + 1e-3
        x = _matrix(features, model.mean[g], model.std[g])
        for a in range(len(AXES)):
            known = np.array([example.labels[a] is not None for example in mine])
            if known.sum() >= 2:
                y = np.array([example.labels[a] for example in mine if example.labels[a] is not None], dtype=np.float64)
                model.weights[g, a] = _logistic(x[known], y)
    return model


def _matrix(features: Features, mean: Floats, std: Floats) -> Any:
    """[1, standardised figures, n-grams] as a sparse matrix, rows of texts."""
    from scipy import sparse

    dense = np.clip((features.dense - mean) / std, -4, 4)
    indptr = np.cumsum([0, *(len(buckets) for buckets, _ in features.grams)])
    grams = sparse.csr_matrix(
        (
            np.concatenate([values for _, values in features.grams]),
            np.concatenate([buckets for buckets, _ in features.grams]),
            indptr,
        ),
        shape=(len(dense), N_BUCKETS),
    )
    ones = np.ones((len(dense), 1), np.float32)
    return sparse.hstack([sparse.csr_matrix(np.concatenate([ones, dense], 1)), grams]).tocsr()


def _logistic(x: Any, y: npt.NDArray[np.float64]) -> Floats:
    from scipy.optimize import minimize

    n, size = x.shape
    penalty = np.full(size, _L2_GRAMS)
    penalty[: 1 + len(FIGURES)] = _L2_FIGURES
    penalty[0] = 0
    transposed = x.T.tocsr()

    def loss(w: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        z = x @ w
        value = np.mean(np.logaddexp(0, z) - y * z) + 0.5 * np.sum(penalty * w * w)
        return float(value), transposed @ (1 / (1 + np.exp(-z)) - y) / n + penalty * w

    result = minimize(loss, np.zeros(size), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return np.asarray(result.x, dtype=np.float32)


def auc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties half; nan if one side lacks."""
    from scipy.stats import rankdata

    s, p = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    n1, n0 = int(p.sum()), int((~p).sum())
    if not n1 or not n0:
        return float("nan")
    return float((rankdata(s)[p].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def agreement(model: QualityModel, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """For each group and axis with labels: examples, AUC of label ≥ ½, Spearman's rank correlation."""
    from scipy.stats import spearmanr

    rows = []
    for group in GROUPS:
        mine = [example for example in examples if example.group == group]
        if not mine:
            continue
        scores = model.score([example.text for example in mine], [group] * len(mine))
        for a, axis in enumerate(AXES):
            known = [i for i, example in enumerate(mine) if example.labels[a] is not None]
            y = np.array([mine[i].labels[a] for i in known], dtype=float)
            s = scores[known, a]
            varied = len(known) > 2 and np.ptp(y) > 0 and np.ptp(s) > 0
            rho = float(spearmanr(s, y).statistic) if varied else float("nan")
            rows.append(
                {"group": group, "axis": axis, "examples": len(known), "auc": auc(s, y >= 0.5), "spearman": rho}
            )
    return rows
