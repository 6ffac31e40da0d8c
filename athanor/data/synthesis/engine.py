"""Taxonomy × templates × difficulty → tasks, evenly over the cells, the same for the same seed whatever the workers.

A *cell* is a point at one difficulty. Its attempts 0, 1, 2, … are pure functions of (seed, cell, attempt). Rounds go
over all cells that still give something new; the parent alone decides what is a repetition, in the order of the cells.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import multiprocessing
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from athanor.data.synthesis.generators.base import generators
from athanor.data.synthesis.points import Point, Served, Taxonomy, load_taxonomy
from athanor.data.synthesis.telling import tell
from athanor.data.synthesis.types import Draft, Task, split_of
from athanor.errors import AthanorError
from athanor.recipe.synthesis import SynthesisOptions

#: At most this many attempts of a cell a round; a cell is exhausted after this many attempts that gave nothing new
#: (of those on the wanted side of the split).
_CHUNK, _PATIENCE = 64, 96


@dataclass(frozen=True)
class Cell:
    """A point at one difficulty."""

    point: str
    level: int


@dataclass
class Coverage:
    """What was made and what was not. Counters by cell, language, generator, kind of verification, split; ``usage`` is
    what a language model was asked, where there is one."""

    cells: Counter[tuple[str, int]] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    generators: Counter[str] = field(default_factory=Counter)
    verified_by: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    exhausted: list[tuple[str, int]] = field(default_factory=list)
    usage: Any = None

    @property
    def made(self) -> int:
        """Tasks so far."""
        return sum(self.cells.values())

    def count(self, task: Task, split: str) -> None:
        """Count one task in."""
        self.cells[task.point, task.difficulty] += 1
        self.languages[task.language] += 1
        self.generators[task.generator] += 1
        self.verified_by[task.verified_by] += 1
        self.splits[split] += 1

    def as_json(self) -> dict[str, Any]:
        """For the report file."""
        table: dict[str, dict[str, int]] = {}
        for (point, level), n in sorted(self.cells.items()):
            table.setdefault(point, {})[str(level)] = n
        return {
            "tasks": self.made,
            "points": len(table),
            "by_point_and_difficulty": table,
            **{
                name: dict(sorted(getattr(self, name).items()))
                for name in ("languages", "generators", "verified_by", "splits", "rejected")
            },
            **({"usage": vars(self.usage)} if self.usage is not None else {}),
            "exhausted": [f"{point} at {level}" for point, level in self.exhausted],
        }


def cells_of(points: Sequence[Point], options: SynthesisOptions, seed: int) -> list[Cell]:
    """The cells that generators serve, in an order drawn from the seed: a short run is spread over everything."""
    low, high = options.difficulty
    cells = [Cell(p.id, level) for p in points if p.served for level in p.levels if low <= level <= high]
    random.Random(f"cells:{seed}").shuffle(cells)
    return cells


def attempt(taxonomy: Taxonomy, options: SynthesisOptions, seed: int, cell: Cell, k: int) -> Task | None:
    """Attempt ``k`` of a cell: a pure function of its arguments (and of the code trees, for real code)."""
    point = taxonomy.points[cell.point]
    served = point.served[k % len(point.served)]
    r = random.Random(f"{seed}:{cell.point}:{cell.level}:{k}")
    language = r.choice(sorted(options.languages))
    made = _draft(served, options, r, cell.level)
    name = "own task" if served.own is not None else served.name
    return None if made is None else tell(made, point, cell.level, language, name, taxonomy, r)


def _draft(served: Served, options: SynthesisOptions, r: random.Random, level: int) -> Draft | None:
    if served.own is not None:
        return served.own.draw(r, level)
    arguments = dict(served.options)
    if options.code and "roots" not in arguments and _takes_roots(served.name):
        arguments["roots"] = options.code
    return generators()[served.name](r, level, **arguments)


@cache
def _takes_roots(name: str) -> bool:
    return "roots" in inspect.signature(generators()[name]).parameters


Unit = tuple[Cell, int, int]


def _work(options: SynthesisOptions, seed: int, unit: Unit) -> list[Task | None]:
    cell, start, end = unit
    taxonomy = load_taxonomy(options.taxonomy)
    return [attempt(taxonomy, options, seed, cell, k) for k in range(start, end)]


def synthesise(
    options: SynthesisOptions, n: int, seed: int, *, workers: int = 1, coverage: Coverage | None = None
) -> Iterator[Task]:
    """Up to ``n`` different tasks; fewer when every cell is exhausted (``coverage.exhausted`` says which).

    Memory holds a 16-byte key a task, not the tasks. ``AthanorError`` when the selection has no computed point at all.
    """
    taxonomy = load_taxonomy(options.taxonomy)
    cells = cells_of(taxonomy.select(options.subjects, options.points), options, seed)
    if not cells:
        raise AthanorError(
            "nothing here can be computed", where="synthesis", fix="other points or difficulty, or an endpoint"
        )
    coverage = coverage if coverage is not None else Coverage()
    work = partial(_work, options, seed)
    if workers <= 1:
        yield from _rounds(cells, n, options, coverage, lambda units: map(work, units))
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver")) as pool:
        yield from _rounds(cells, n, options, coverage, lambda units: pool.map(work, units, chunksize=8))


def _rounds(
    cells: list[Cell],
    n: int,
    options: SynthesisOptions,
    coverage: Coverage,
    run: Callable[[list[Unit]], Iterator[list[Task | None]]],
) -> Iterator[Task]:
    live = list(cells)
    following = dict.fromkeys(cells, 0)
    barren = dict.fromkeys(cells, 0)  # attempts since something new
    wanted = {"all": 1.0, "train": 1 - options.holdout, "heldout": options.holdout}[options.split]
    patience = _PATIENCE / wanted
    seen: set[bytes] = set()
    made = 0
    while made < n and live:
        share = max(1, (n - made) // len(live))
        span = math.ceil((share + 1) / wanted)
        # A short run needs no more cells than tasks: the rest would be worked in vain.
        turn = live[: max(1, n - made)]
        units = [(c, following[c], following[c] + min(_CHUNK, span + barren[c])) for c in turn]
        for (cell, start, _), tasks in zip(units, run(units), strict=True):
            new = 0
            for task in tasks:
                following[cell] += 1
                kept = _keep(task, options, seen, coverage)
                if kept is None:
                    continue
                yield kept
                new, made = new + 1, made + 1
                if made == n:
                    return
                if new == share:
                    break
            barren[cell] = 0 if new else barren[cell] + following[cell] - start
        coverage.exhausted += [(c.point, c.level) for c in live if barren[c] >= patience]
        live = [c for c in live if barren[c] < patience]


def _keep(task: Task | None, options: SynthesisOptions, seen: set[bytes], coverage: Coverage) -> Task | None:
    """The task, if it is new and on the wanted side of the split; counted either way."""
    if task is None:
        coverage.rejected["these numbers make no question"] += 1
        return None
    split = split_of(task.key, options.holdout)
    if options.split not in ("all", split):
        coverage.rejected["on the other side of the split"] += 1
        return None
    key = hashlib.blake2b(task.key.encode(), digest_size=16).digest()
    if key in seen:
        coverage.rejected["repeated question"] += 1
        return None
    seen.add(key)
    coverage.count(task, split)
    return task
