"""Quality on four axes, difficulty, and the weight that quality gives in sampling.

Measured, and kept, are the axes' scores and the text's own difficulty. What follows (the combined quality, the
sampling weight, levels of difficulty) is worked out for all rows at once from those columns, so that another curve or
other weights of the axes compute no score anew. Where a ``judge`` or ``perplexity`` step stands before this one, a
judge's scores take the place of the models', and perplexity is a part of difficulty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from athanor.data.steps.base import Columns, Docs, Step, Survey, Verdict
from athanor.data.steps.difficulty import level, text_difficulty, with_perplexity
from athanor.data.steps.quality_examples import AXES
from athanor.data.steps.quality_model import VERSION, QualityModel, group_of
from athanor.data.steps.quality_train import file_digest, model_for
from athanor.data.steps.weighting import combine, weights
from athanor.errors import AthanorError
from athanor.recipe.steps.quality import QualityOptions

#: Shares of replacement and NUL characters from which a text is less clean, and at which it is not clean at all.
_ODD = (0.02, 0.2)
_QUANTILES = (0.02, 0.25, 0.5, 0.75, 0.98)
_BINS = 20


class Quality(Step):
    """Scores by the small models, capped by rules that need no model."""

    name = "quality"
    fields = {**{axis: pa.float32() for axis in AXES}, "text_difficulty": pa.float32()}
    resolved = {"quality": pa.float32(), "weight": pa.float32(), "difficulty": pa.float32(), "level": pa.string()}
    exports = ("quality", "weight", "difficulty", "level")

    def __init__(self, options: QualityOptions) -> None:
        super().__init__(options)
        self._model: QualityModel | None = None

    def compute_key(self) -> Any:
        """The models' origin."""
        o = self.options
        if o.model is not None:
            return [VERSION, "model", file_digest(f"{o.model}/quality.safetensors")]
        if o.labels is not None:
            return [VERSION, "labels", file_digest(o.labels)]
        return [VERSION, "generated", o.examples, o.seed]

    def prepare(self) -> None:
        """Load the model; the first use trains it (some seconds) and keeps it."""
        self._loaded()

    def _loaded(self) -> QualityModel:
        if self._model is None:
            o = self.options
            self._model = model_for(o.model, o.labels, o.examples, o.seed, o.cache_dir)
            self._check(self._model.unlearnt)
        return self._model

    def _check(self, unlearnt: list[str]) -> None:
        for axis in unlearnt:
            if axis in self.options.min_axis:
                raise AthanorError(
                    f"the quality model has not learnt {axis}: no example was labelled on it",
                    where=f"data.steps: quality.min_axis.{axis}",
                    fix="label it, or take the threshold out",
                )

    def annotate(self, docs: Docs) -> Columns:
        """The axes and the text's difficulty of each document."""
        texts = docs.texts
        groups = [group_of(text, domain) for text, domain in zip(texts, docs.column("domain"), strict=True)]
        scores = self._loaded().score(texts, groups)
        scores[:, AXES.index("cleanliness")] *= np.array([_unspoilt(text) for text in texts], dtype=np.float32)
        hard = [text_difficulty(text, group) for text, group in zip(texts, groups, strict=True)]
        return {**{axis: scores[:, a] for a, axis in enumerate(AXES)}, "text_difficulty": np.array(hard, np.float32)}

    def resolve(self, survey: Survey) -> Columns:
        """Quality, weight, difficulty and level of all rows, from the scores and what earlier steps have measured."""
        unlearnt = [axis for axis in self._loaded().unlearnt if f"judge.{axis}" not in survey.names]
        of_axes = {axis: weight for axis, weight in self.options.axes.items() if axis not in unlearnt}
        if not sum(of_axes.values()) > 0:
            raise AthanorError(
                f"the quality model has not learnt what quality is to be made of: {', '.join(unlearnt)}",
                where="data.steps: quality.axes",
                fix="label these, or give weight to another axis",
            )
        quality = combine(_axes(survey), of_axes)
        difficulty = survey.numpy("text_difficulty").astype(np.float32)
        if "perplexity.bits_per_byte" in survey.names:
            languages = survey.column("language").to_pylist() if "language" in survey.names else [""] * survey.n_rows
            difficulty = with_perplexity(difficulty, survey.numpy("perplexity.bits_per_byte"), languages)
        return {
            "quality": quality,
            "weight": weights(quality, self.options.weight),
            "difficulty": difficulty,
            "level": [level(float(value), self.options.difficulty) for value in difficulty],
        }

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """Drops below the thresholds, if any are set."""
        reasons: list[str | None] = [None] * len(docs)
        least = {"quality": self.options.min_quality, **self.options.min_axis}
        for name, threshold in least.items():
            if threshold is None:
                continue
            values = np.asarray(columns[name])
            for i in np.flatnonzero(values < threshold):
                reasons[i] = reasons[i] or f"low {name}: {values[i]:.2f}"
        return Verdict(reasons)

    def report(self, survey: Survey) -> Mapping[str, Any]:
        """Histograms by domain, content keys of documents at quantiles, and the models' agreement with their labels."""
        names = [
            name for name in (*AXES, *self.resolved, "text_difficulty") if name in survey.names and name != "level"
        ]
        domains = np.array(survey.column("domain").to_pylist() if "domain" in survey.names else ["all"] * survey.n_rows)
        histograms: dict[str, dict[str, Any]] = {}
        for name in names:
            values = survey.numpy(name)
            top = max(1.0, float(values.max(initial=0.0)))
            by_domain = {
                str(domain): np.histogram(values[domains == domain], bins=_BINS, range=(0, top))[0].tolist()
                for domain in sorted(set(domains.tolist()))
            }
            histograms[name] = {"range": [0, top], "bins": _BINS, "documents": by_domain}
        keys = survey.column("key").to_pylist() if survey.n_rows else []
        examples = {name: _at_quantiles(survey.numpy(name), keys) for name in names}
        return {"histograms": histograms, "examples": examples, "model": self._loaded().facts}


def _axes(survey: Survey) -> dict[str, npt.NDArray[np.float32]]:
    """The four axes; a judge's score where there is one."""
    found = {}
    for axis in AXES:
        values = survey.numpy(axis).astype(np.float32)
        if f"judge.{axis}" in survey.names:
            judged = survey.numpy(f"judge.{axis}").astype(np.float32)
            values = np.where(np.isnan(judged), values, judged)
        found[axis] = values
    return found


def _at_quantiles(values: npt.NDArray[Any], keys: list[str]) -> list[dict[str, Any]]:
    """(quantile, value, key) of the documents that stand there; ties by key, so that the order of rows says nothing."""
    if not keys:
        return []
    order = sorted(range(len(keys)), key=lambda i: (float(values[i]), keys[i]))
    chosen = [(q, order[round(q * (len(order) - 1))]) for q in _QUANTILES]
    return [{"quantile": q, "value": round(float(values[i]), 4), "key": keys[i]} for q, i in chosen]


def _unspoilt(text: str) -> float:
    """1 for a text without replacement or NUL characters, falling to 0 where they are a fifth of it."""
    odd = text.count("\ufffd") + text.count("\x00")
    if not odd:
        return 1.0
    low, high = _ODD
    return float(min(1.0, max(0.0, 1 - (odd / len(text) - low) / (high - low))))
