"""Quality on four axes, difficulty, and the weight that quality gives in sampling.

Measures are the four scores and the difficulty. What they are combined into (weights of the axes, the curve from quality
to sampling weight, thresholds, labels) is decided afterwards, and changing it computes no score anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from athanor.data.steps.base import Columns, Docs, Step, Survey, Verdict
from athanor.data.steps.difficulty import difficulty
from athanor.data.steps.quality_examples import AXES
from athanor.data.steps.quality_model import VERSION, QualityModel, group_of
from athanor.data.steps.quality_train import file_digest, model_for
from athanor.recipe.steps.quality import QualityOptions

#: Shares of characters above which a text is not clean, whatever the model says: replacement characters and controls.
_ODD = (0.02, 0.2)


class Quality(Step):
    """Scores by the small models, capped by rules that need no model."""

    name = "quality"
    fields = {**{axis: pa.float32() for axis in AXES}, "difficulty": pa.float32()}

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
        if self._model is None:
            o = self.options
            self._model = model_for(o.model, o.labels, o.examples, o.seed, o.cache_dir)

    def annotate(self, docs: Docs) -> Columns:
        """The axes and the difficulty of each document."""
        if self._model is None:
            self.prepare()
        assert self._model is not None
        texts = docs.texts
        groups = [group_of(text, domain) for text, domain in zip(texts, docs.column("domain"), strict=True)]
        scores = self._model.score(texts, groups)
        scores[:, AXES.index("cleanliness")] *= np.array([_unspoilt(text) for text in texts], dtype=np.float32)
        hard = [difficulty(text, group) for text, group in zip(texts, groups, strict=True)]
        return {**{axis: scores[:, a] for a, axis in enumerate(AXES)}, "difficulty": np.array(hard, dtype=np.float32)}

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """Drops below the thresholds, if any are set."""
        combined = combine(columns, self.options.axes)
        reasons: list[str | None] = [None] * len(docs)
        if self.options.min_quality is not None:
            for i in np.flatnonzero(combined < self.options.min_quality):
                reasons[i] = f"low quality: {combined[i]:.2f}"
        for axis, least in self.options.min_axis.items():
            values = np.asarray(columns[axis])
            for i in np.flatnonzero(values < least):
                reasons[i] = reasons[i] or f"low {axis}: {values[i]:.2f}"
        return Verdict(reasons)

    def report(self, survey: Survey) -> Mapping[str, Any]:
        """Histograms of the axes, and the models' agreement with their labels."""
        self.prepare()
        assert self._model is not None
        histograms = {}
        for name in (*AXES, "difficulty"):
            counts, _ = np.histogram(survey.numpy(name), bins=20, range=(0, 1))
            histograms[name] = counts.tolist()
        return {"histograms": histograms, "bins": 20, "model": self._model.facts}


def combine(columns: Columns, axes: Mapping[str, float]) -> Any:
    """Weighted mean of the axes [rows]."""
    total = sum(axes.values())
    return sum(np.asarray(columns[axis], dtype=np.float32) * (weight / total) for axis, weight in axes.items())


def _unspoilt(text: str) -> float:
    """1 for a text without replacement or control characters, falling to 0 where they are a fifth of it."""
    odd = text.count("\ufffd") + text.count("\x00")
    if not odd:
        return 1.0
    low, high = _ODD
    return float(min(1.0, max(0.0, 1 - (odd / len(text) - low) / (high - low))))
