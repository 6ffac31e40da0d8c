"""The batches that the contenders train on: full rows, documents of mixed length, standard-library text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from athanor.data.loader import PackedLoader
from athanor.data.packing import best_fit_decreasing
from athanor.data.shards import ShardSet, ShardWriter
from athanor.data.stdlib_corpus import stdlib_documents
from athanor.data.types import IGNORE, Batch, Document
from athanor.tokenizer.train import train_tokenizer
from bench.common import Shape


@dataclass(slots=True)
class Work:
    """One step's batch in every form a contender may want; ``batch.doc_lens`` says where documents lie.

    ``mask`` bool [B, 1, T, T]: causal and inside documents, for peers that isolate by an explicit mask (with the
    batch's positions). ``padding`` int64 [B, T]: 1 where real, for peers that ask for it. ``useful``: positions holding
    a document's token.
    """

    batch: Batch
    useful: int
    mask: torch.Tensor | None = None
    padding: torch.Tensor | None = None


def full_rows(shape: Shape, seed: int, device: torch.device) -> Work:
    """Random tokens, every row one document of the whole context."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, shape.vocab, (shape.rows, shape.context + 1), generator=generator)
    positions = torch.arange(shape.context).expand(shape.rows, -1).contiguous()
    ids, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    batch = Batch(ids.to(device), labels.to(device), positions.to(device), [[shape.context]] * shape.rows)
    return Work(batch, shape.tokens)


def mixed_lengths(shape: Shape, n: int, seed: int) -> np.ndarray:
    """``n`` log-normal document lengths: median a quarter of the context, σ = 0.9, cut to [8, context]."""
    draws = np.random.default_rng(seed).lognormal(np.log(shape.context / 4), 0.9, n)
    return np.clip(draws.round(), 8, shape.context).astype(np.int64)


def packed_works(shape: Shape, lens: np.ndarray, seed: int, device: torch.device, *, masked: bool) -> list[Work]:
    """The documents packed whole into rows (best fit), ``shape.rows`` rows a step; with the mask when ``masked``.

     Only whole steps are returned: the rest of the documents is left out
    .
    """
    order = np.argsort(-lens, kind="stable")
    row_of, n_rows = best_fit_decreasing(lens[order], shape.context)
    mixed = np.random.default_rng(seed).permutation(n_rows)
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    for document, row in zip(order.tolist(), row_of.tolist(), strict=True):
        rows[int(mixed[row])].append(int(lens[document]))
    steps = [rows[i : i + shape.rows] for i in range(0, n_rows - shape.rows + 1, shape.rows)]
    return [_packed_work(shape, step, seed + i, device, masked) for i, step in enumerate(steps)]


def _packed_work(shape: Shape, rows: list[list[int]], seed: int, device: torch.device, masked: bool) -> Work:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, shape.vocab, (len(rows), shape.context), generator=generator)
    labels = torch.full_like(ids, IGNORE)
    positions = torch.zeros_like(ids)
    doc_lens = []
    for r, lens in enumerate(rows):
        at = 0
        for n in lens:
            labels[r, at : at + n - 1] = ids[r, at + 1 : at + n]
            positions[r, at : at + n] = torch.arange(n)
            at += n
        if at < shape.context:
            positions[r, at:] = torch.arange(shape.context - at)
        doc_lens.append([*lens, shape.context - at] if at < shape.context else lens)
    mask = document_mask(doc_lens, shape.context).to(device) if masked else None
    batch = Batch(ids.to(device), labels.to(device), positions.to(device), doc_lens)
    return Work(batch, sum(map(sum, rows)), mask=mask)


def document_mask(doc_lens: list[list[int]], context: int) -> torch.Tensor:
    """Bool [B, 1, T, T]: True where a query may look, i.e. at earlier tokens of its own document."""
    owner = torch.stack([torch.repeat_interleave(torch.arange(len(x)), torch.tensor(x)) for x in doc_lens])
    same = owner[:, :, None] == owner[:, None, :]
    return (same & torch.ones(context, context, dtype=torch.bool).tril())[:, None]


def padded_works(shape: Shape, lens: np.ndarray, seed: int, device: torch.device) -> list[Work]:
    """Documents in random order, a fixed number a step, padded on the right to the longest of the step.

    The number of documents is such that a step holds about as many useful tokens as a full one.
    """
    each = max(1, round(shape.tokens / float(lens.mean())))
    order = np.random.default_rng(seed).permutation(len(lens))
    groups = [lens[order[i : i + each]] for i in range(0, len(lens) - each + 1, each)]
    return [_padded_work(shape, group.tolist(), seed + i, device) for i, group in enumerate(groups)]


def _padded_work(shape: Shape, lens: list[int], seed: int, device: torch.device) -> Work:
    generator = torch.Generator().manual_seed(seed)
    width = max(lens)
    ids = torch.randint(0, shape.vocab, (len(lens), width), generator=generator)
    real = torch.arange(width) < torch.tensor(lens)[:, None]
    labels = torch.full_like(ids, IGNORE)
    labels[:, :-1] = torch.where(real[:, 1:], ids[:, 1:], IGNORE)
    positions = torch.arange(width).expand(len(lens), -1).contiguous()
    doc_lens = [[n, width - n] if n < width else [n] for n in lens]
    batch = Batch(ids.to(device), labels.to(device), positions.to(device), doc_lens)
    return Work(batch, sum(lens), padding=real.long().to(device))


@dataclass(slots=True)
class Text:
    """Standard-library sources as tokens: a loader of packed rows, the same documents as one stream, held-out rows."""

    loader: PackedLoader
    stream: torch.Tensor
    held_out: Work
    n_train: int
    n_held_out: int


def stdlib_text(shape: Shape, folder: Path, max_bytes: int, held_out_rows: int, seed: int = 0) -> Text:
    """Train a tokenizer of ``shape.vocab`` entries on the text and prepare it for all; every tenth file is held out."""
    documents: list[Document] = []
    size = 0
    for document in stdlib_documents("code"):
        if isinstance(document, Document):
            documents.append(document)
            size += len(document.text)
            if size >= max_bytes:
                break
    tokenizer = train_tokenizer((d.text for d in documents), shape.vocab)
    encoded = tokenizer.encode_batch([d.text for d in documents])
    held_out = [ids for i, ids in enumerate(encoded) if i % 10 == 9 and len(ids) > 1]
    train = [ids for i, ids in enumerate(encoded) if i % 10 != 9 and ids]
    with ShardWriter(folder, tokenizer.fingerprint, tokenizer.vocab_size, eos_id=tokenizer.eos_id) as writer:
        for ids in train:
            writer.add(ids)
    loader = PackedLoader({"stdlib": ShardSet.open(folder)}, None, shape.context, seed, pad_id=tokenizer.pad_id)
    stream = torch.tensor([token for ids in train for token in [*ids, tokenizer.eos_id]])
    work = _first_tokens(held_out[:held_out_rows], shape.context, tokenizer.pad_id)
    return Text(loader, stream, work, len(train), len(held_out[:held_out_rows]))


def _first_tokens(documents: list[list[int]], context: int, pad: int) -> Work:
    """One row a document: its first ``context`` + 1 tokens, so that every contender sees the same beginning."""
    ids = torch.full((len(documents), context), pad)
    labels = torch.full((len(documents), context), IGNORE)
    doc_lens = []
    for row, tokens in enumerate(documents):
        part = torch.tensor(tokens[: context + 1])
        n = len(part) - 1
        ids[row, :n], labels[row, :n] = part[:-1], part[1:]
        doc_lens.append([n, context - n] if n < context else [n])
    positions = torch.arange(context).expand(len(documents), -1).contiguous()
    return Work(Batch(ids, labels, positions, doc_lens), int((labels != IGNORE).sum()))


def loader_works(text: Text, rows: int) -> Iterator[Work]:
    """Athanor's own batches: packed, isolated."""
    first = 0
    while True:
        batch = text.loader.rows(first, rows)
        yield Work(batch, int(batch.n_targets))
        first += rows


def stream_works(text: Text, shape: Shape, seed: int) -> Iterator[Work]:
    """What a plain pre-training loop does: documents joined by end tokens, cut into rows, no mask, shuffled."""
    n_rows = (len(text.stream) - 1) // shape.context
    generator = torch.Generator().manual_seed(seed)
    positions = torch.arange(shape.context).expand(shape.rows, -1).contiguous()
    while True:
        order = torch.randperm(n_rows, generator=generator)
        for i in range(0, n_rows - shape.rows + 1, shape.rows):
            starts = order[i : i + shape.rows, None] * shape.context + torch.arange(shape.context)
            batch = Batch(text.stream[starts], text.stream[starts + 1], positions, [[shape.context]] * shape.rows)
            yield Work(batch, shape.tokens)
