"""A language model as judge of the four axes, for a part of the documents.

Which documents are judged is decided by their content hash, the share and the budget, never by their order: they are
asked for in ``resolve``, where all are known, the first ``max_documents`` by hash. Answers are kept on disk by content,
so that a stopped build asks on where it was. A ``quality`` step behind this one uses the scores instead of its models';
the command ``athanor data quality judge`` writes them as labels that train those models.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from athanor.data.steps.base import Columns, Docs, Step, Survey, Verdict
from athanor.data.steps.judge_client import PROMPT_VERSION, Client
from athanor.data.steps.quality_examples import AXES
from athanor.data.steps.weighting import combine, weights
from athanor.errors import AthanorError
from athanor.recipe.steps.quality import JudgeOptions

#: Requests under way at a time: an endpoint batches them.
_AT_ONCE = 8
#: So many failures in a row, with no answer before, mean that there is no judge.
_GIVE_UP = 20


class Judge(Step):
    """Scores 0 … 1 of the judged documents, nan of the others."""

    name = "judge"
    fields = {"excerpt": pa.large_string()}
    resolved = {**{axis: pa.float32() for axis in AXES}, "quality": pa.float32(), "weight": pa.float32()}

    def compute_key(self) -> Any:
        """How much of a text the judge is shown."""
        return [PROMPT_VERSION, self.options.max_chars, self.options.share]

    def annotate(self, docs: Docs) -> Columns:
        """What a judge would be shown; empty for documents outside the share."""
        o: JudgeOptions = self.options
        return {
            "excerpt": [
                t[: o.max_chars] if _within(k, o.share) else "" for k, t in zip(docs.keys, docs.texts, strict=True)
            ]
        }

    def resolve(self, survey: Survey) -> Columns:
        """Scores of the first ``max_documents`` by content hash. AthanorError where no answer comes at all."""
        keys = survey.column("key").to_pylist()
        texts = survey.column("excerpt").to_pylist()
        first: dict[str, int] = {}
        for i, key in enumerate(keys):
            if texts[i]:
                first.setdefault(key, i)
        chosen = sorted(first)[: self.options.max_documents]
        answers = judge_all(Client(self.options), [(key, texts[first[key]]) for key in chosen])
        scores = np.full((len(AXES), len(keys)), np.nan, dtype=np.float32)
        for i, key in enumerate(keys):
            for a, axis in enumerate(AXES):
                scores[a, i] = answers.get(key, {}).get(axis, np.nan)
        columns = {axis: scores[a] for a, axis in enumerate(AXES)}
        quality = combine(columns, self.options.axes)
        return {**columns, "quality": quality, "weight": weights(quality, self.options.weight)}

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """Drops judged documents below the threshold, if one is set."""
        reasons: list[str | None] = [None] * len(docs)
        if self.options.min_quality is not None:
            values = np.asarray(columns["quality"])
            for i in np.flatnonzero(values < self.options.min_quality):  # nan is not below
                reasons[i] = f"low judged quality: {values[i]:.2f}"
        return Verdict(reasons)

    def report(self, survey: Survey) -> Mapping[str, Any]:
        """How many were judged, and the mean of each axis."""
        values = {axis: survey.numpy(axis) for axis in AXES if axis in survey.names}
        known = next(iter(values.values())) if values else np.zeros(0)
        n = int(np.count_nonzero(~np.isnan(known)))
        return {"judged": n, "mean": {axis: float(np.nanmean(v)) for axis, v in values.items()} if n else {}}


def _within(key: str, share: float) -> bool:
    return int(key[:8], 16) < share * 2**32


def judge_all(client: Client, rows: list[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Scores by key of (key, text) rows, several asked at a time; rows without an answer are left out."""
    found: dict[str, dict[str, float]] = {}
    failed = 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for at in range(0, len(rows), _GIVE_UP):
            batch = rows[at : at + _GIVE_UP]
            for (key, _), answer in zip(batch, pool.map(lambda row: client.ask(*row), batch), strict=True):
                if answer.scores is not None:
                    found[key] = answer.scores
                else:
                    failed, reason = failed + 1, answer.reason
            if failed and not found:
                raise AthanorError(
                    f"no answer from the judge: {reason}",
                    where=client.options.endpoint,
                    fix="check endpoint, model and key",
                )
    return found
