"""Documents → token shards, over processes, with the same bytes whatever their number.

The corpus file is cut into units of consecutive lines by its bytes alone. Each unit becomes a small directory of shards
of its own; at the end they are joined in order, as one writer would have written all documents. A unit that is finished
is kept, so a run that was stopped tokenises only what was missing.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from athanor.data.shards import INDEX, MEASURES, Block, ShardSet, ShardWriter
from athanor.errors import AthanorError
from athanor.files import digest, remove_tree
from athanor.tokenizer import Tokenizer

#: Bytes of corpus lines in one unit: what one worker holds, and what is lost when it is stopped.
UNIT_BYTES = 16_000_000
_SAY_EVERY_S = 10.0
#: Texts encoded at once, in characters.
_BATCH_CHARS = 1_000_000


@dataclass(frozen=True, slots=True)
class _Unit:
    """Where one unit of a corpus file goes, and by what it is known again."""

    path: str
    origin: str


def tokenise(
    lines: Iterator[bytes],
    tokenizer: Tokenizer,
    out: Path,
    *,
    origin: str = "",
    workers: int = 1,
    unit_bytes: int = UNIT_BYTES,
    say: Callable[[str], None] = lambda _: None,
    shard_tokens: int = 1 << 27,
) -> int:
    """Write shards of the documents in ``lines`` (one JSON object a line: ``text``, ``domain``, ``language``, ``meta``)
    to ``out``; returns how many bytes of lines there were.

    ``meta.weight`` and ``meta.difficulty``, where numbers, are stored beside the tokens. Documents without text are
    left out. With ``workers`` 1 all happens in this process, and encoding uses its cores. ``AthanorError`` when a
    worker is killed: what is finished stays, the next call goes on.
    """
    units = out.with_name(f"{out.name}.units")
    key = digest([origin, unit_bytes, tokenizer.fingerprint])
    progress = _Progress(say)
    found: list[_Unit] = []

    def jobs() -> Iterator[tuple[_Unit, list[bytes]]]:
        for number, unit in enumerate(_cut(lines, unit_bytes)):
            found.append(_Unit(str(units / f"{number:06d}"), f"{key}/{number}"))
            size = sum(map(len, unit))
            progress.read(size)
            if not _is_done(found[-1]):
                yield found[-1], unit
            progress.done()

    if workers == 1:
        for unit, part in jobs():
            _tokenise_unit(tokenizer, unit, part, threads=None)
    else:
        _over_processes(jobs(), tokenizer, workers, str(out))
    progress.close()
    _join(found, tokenizer, out, origin, shard_tokens)
    remove_tree(units)
    return progress.n_bytes


def _cut(lines: Iterator[bytes], unit_bytes: int) -> Iterator[list[bytes]]:
    """Consecutive lines of at least ``unit_bytes`` together."""
    unit: list[bytes] = []
    size = 0
    for line in lines:
        unit.append(line)
        size += len(line)
        if size >= unit_bytes:
            yield unit
            unit, size = [], 0
    if unit:
        yield unit


def _is_done(unit: _Unit) -> bool:
    path = Path(unit.path)
    if not (path / INDEX).is_file():
        return False
    try:
        done = ShardSet.open(path).index.get("origin") == unit.origin
    except AthanorError:  # damaged: made again
        done = False
    if not done:
        remove_tree(path)
    return done


class _Progress:
    """Tells now and then how far it is."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._begun = say, time.monotonic()
        self._told = self._begun
        self.n_bytes = self._units = 0

    def read(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes

    def done(self) -> None:
        self._units += 1
        now = time.monotonic()
        if now - self._told >= _SAY_EVERY_S:
            self._told = now
            rate = self.n_bytes / 1e6 / (now - self._begun)
            self._say(f"tokens: {self._units} units, {self.n_bytes / 1e6:,.0f} MB given out, {rate:.1f} MB/s")

    def close(self) -> None:
        now = time.monotonic()
        if now - self._begun >= _SAY_EVERY_S:
            self._say(f"tokens: {self.n_bytes / 1e6:,.0f} MB in {now - self._begun:.0f} s")


def _over_processes(jobs: Iterator[tuple[_Unit, list[bytes]]], tokenizer: Tokenizer, workers: int, where: str) -> None:
    # A fork server starts clean processes, without the threads of this one.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    running: set[Future[None]] = set()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(tokenizer,)) as pool:
        try:
            for unit, part in jobs:
                running.add(pool.submit(_work, unit, part))
                if len(running) >= 2 * workers:  # more would only fill the memory
                    running = _finished(running)
            while running:
                running = _finished(running)
        except BrokenProcessPool:
            raise AthanorError(
                "a tokenising process was killed (out of memory?)",
                where=where,
                fix="run again: finished units are kept; or fewer workers",
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _finished(running: set[Future[None]]) -> set[Future[None]]:
    ended, others = wait(running, return_when=FIRST_COMPLETED)
    for future in ended:
        future.result()
    return others


_tokenizer: Tokenizer | None = None


def _start(tokenizer: Tokenizer) -> None:
    global _tokenizer
    _tokenizer = tokenizer


def _work(unit: _Unit, lines: list[bytes]) -> None:
    assert _tokenizer is not None
    _tokenise_unit(_tokenizer, unit, lines, threads=1)


def _tokenise_unit(tokenizer: Tokenizer, unit: _Unit, lines: Sequence[bytes], threads: int | None) -> None:
    """Write one unit as a directory of one shard."""
    with ShardWriter(
        unit.path,
        tokenizer.fingerprint,
        tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        shard_tokens=1 << 60,
        origin=unit.origin,
    ) as writer:
        batch: list[dict[str, Any]] = []
        size = 0
        for line in lines:
            document = json.loads(line)
            if not document["text"]:
                continue
            batch.append(document)
            size += len(document["text"])
            if size >= _BATCH_CHARS:
                writer.extend(_encoded(tokenizer, batch, threads))
                batch, size = [], 0
        if batch:
            writer.extend(_encoded(tokenizer, batch, threads))


def _encoded(tokenizer: Tokenizer, documents: Sequence[dict[str, Any]], threads: int | None) -> Block:
    """Documents as a block: their tokens, each document closed by the end token, and what is known of them."""
    end = np.array([tokenizer.eos_id], dtype=np.int32)
    parts: list[Any] = []
    lens = []
    for ids in tokenizer.encode_batch_to_arrays([document["text"] for document in documents], threads):
        closed = ids[-1] == tokenizer.eos_id
        parts += [ids] if closed else [ids, end]
        lens.append(len(ids) + (not closed))
    labels: dict[tuple[str, str], int] = {}
    label_of = [
        labels.setdefault((d.get("domain") or "general", d.get("language") or "und"), len(labels)) for d in documents
    ]
    measures = {
        name: np.array([_number(document, name, default) for document in documents], dtype=np.float32)
        for name, default in MEASURES.items()
    }
    tokens = np.concatenate(parts)
    return Block(tokens, np.array(lens, dtype=np.int64), None, measures, list(labels), np.array(label_of, np.int64))


def _number(document: dict[str, Any], name: str, default: float) -> float:
    value = (document.get("meta") or {}).get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


def _join(units: Sequence[_Unit], tokenizer: Tokenizer, out: Path, origin: str, shard_tokens: int) -> None:
    """One directory of shards from those of all units, in order."""
    with ShardWriter(
        out,
        tokenizer.fingerprint,
        tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        shard_tokens=shard_tokens,
        origin=origin,
    ) as writer:
        for unit in units:
            shards = ShardSet.open(unit.path, verify=False)
            if shards.n_docs:
                writer.extend(shards.block())
