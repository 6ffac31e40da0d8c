"""Prompts with sampled answers → packed batches: labels on answer tokens only, documents isolated, equal rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from athanor.data.packing import best_fit_decreasing
from athanor.data.types import IGNORE, Batch
from athanor.errors import AthanorError
from athanor.parallel.checks import fill_rows
from athanor.parallel.plan import ParallelPlan


@dataclass(frozen=True, slots=True)
class Episode:
    """One prompt with one answer; ``logprobs`` are those recorded while sampling, one an answer token."""

    prompt: list[int]
    answer: list[int]
    logprobs: list[float]
    advantage: float

    @property
    def positions(self) -> int:
        """Places it takes in a row: the last token is only ever a target."""
        return len(self.prompt) + len(self.answer) - 1


def pack_episodes(
    episodes: Sequence[Episode], seq_len: int, micro_batch_tokens: int | None, pad_id: int
) -> list[Batch]:
    """Best-fit rows of ``seq_len``, ``micro_batch_tokens`` (None: all) at a time; extras ``advantage_BT``,
    ``old_logprob_BT`` (float32). Padding at a row's end is one more document without labels.

    Raises AthanorError for an episode that is longer than a row: nothing is cut.
    """
    lens = np.array([e.positions for e in episodes], dtype=np.int64)
    if len(lens) and lens.max() > seq_len:
        raise AthanorError(f"an episode takes {lens.max()} positions, a row has {seq_len}", where="rollouts")
    order = np.argsort(-lens, kind="stable")
    row_of, n_rows = best_fit_decreasing(lens[order], seq_len)
    rows: list[list[Episode]] = [[] for _ in range(n_rows)]
    for place, row in zip(order.tolist(), row_of.tolist(), strict=True):
        rows[row].append(episodes[place])
    rows_each = max(1, (micro_batch_tokens or n_rows * seq_len) // seq_len)
    return [_batch(rows[i : i + rows_each], seq_len, pad_id) for i in range(0, n_rows, rows_each)]


def cut_rows(batches: Sequence[Batch], micro_batch_tokens: int | None, pad_id: int, plan: ParallelPlan) -> list[Batch]:
    """The labelled rows of ``batches`` anew in micro-batches as ``plan`` wants them: micro-batch i belongs to data rank
    i % dp. Rows of padding fill up the last ones; on a single rank there are none. ``meta`` stays behind."""
    rows = [(batch, b) for batch in batches for b in range(len(batch.doc_lens)) if (batch.labels_BT[b] != IGNORE).any()]
    seq_len = batches[0].input_ids_BT.shape[1]
    most = None if micro_batch_tokens is None else max(1, micro_batch_tokens // seq_len)
    if plan.world_size == 1:
        size = most or len(rows)
        count = -(-len(rows) // size)
    else:
        count, size = fill_rows(plan, len(rows), most)
        empty = _batch([[]], seq_len, pad_id)
        filler = replace(empty, extras={k: x.new_zeros(1, seq_len) for k, x in batches[0].extras.items()})
        rows += [(filler, 0)] * (count * size - len(rows))
    return [_joined(rows[i * size : (i + 1) * size]) for i in range(count)]


def _joined(rows: Sequence[tuple[Batch, int]]) -> Batch:
    """One batch of chosen rows."""

    def stack(of: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        return torch.stack([of(batch)[b] for batch, b in rows])

    extras = {name: stack(lambda batch, n=name: batch.extras[n]) for name in rows[0][0].extras}  # type: ignore[misc]
    tensors = (stack(lambda x: x.input_ids_BT), stack(lambda x: x.labels_BT), stack(lambda x: x.positions_BT))
    return Batch(*tensors, [batch.doc_lens[b] for batch, b in rows], extras)


def _batch(rows: list[list[Episode]], seq_len: int, pad_id: int) -> Batch:
    shape = (len(rows), seq_len)
    ids_BT = np.full(shape, pad_id, dtype=np.int64)
    labels_BT = np.full(shape, IGNORE, dtype=np.int64)
    positions_BT = np.zeros(shape, dtype=np.int64)
    advantage_BT, old_logprob_BT = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    doc_lens: list[list[int]] = []
    for b, row in enumerate(rows):
        at, lens = 0, []
        for episode in row:
            n, first = episode.positions, at + len(episode.prompt) - 1
            end = at + n
            ids_BT[b, at:end] = (episode.prompt + episode.answer)[:-1]
            labels_BT[b, first:end] = episode.answer
            positions_BT[b, at:end] = np.arange(n)
            advantage_BT[b, first:end] = episode.advantage
            old_logprob_BT[b, first:end] = episode.logprobs
            lens.append(n)
            at = end
        if at < seq_len:
            lens.append(seq_len - at)
            positions_BT[b, at:] = np.arange(seq_len - at)
        doc_lens.append(lens)
    ids, labels, positions = (torch.from_numpy(x) for x in (ids_BT, labels_BT, positions_BT))
    extras = {"advantage_BT": torch.from_numpy(advantage_BT), "old_logprob_BT": torch.from_numpy(old_logprob_BT)}
    return Batch(ids, labels, positions, doc_lens, extras)


def pack_state(batch: Batch) -> dict[str, Any]:
    """A batch as a checkpoint keeps it: tensors and lists. ``meta`` stays behind."""
    return {
        "ids": batch.input_ids_BT,
        "labels": batch.labels_BT,
        "positions": batch.positions_BT,
        "doc_lens": batch.doc_lens,
        "extras": batch.extras,
    }


def unpack_state(state: dict[str, Any]) -> Batch:
    """What :func:`pack_state` gave."""
    return Batch(state["ids"], state["labels"], state["positions"], state["doc_lens"], state["extras"])
