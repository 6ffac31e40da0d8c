"""The best layouts of a model on a machine: every combination of all axes, bounded or evaluated, in seconds.

Branch and bound. ``bounds.py`` bounds each (unit, pipeline) and way of data parallel from below; those whose bound is
above the K-th best plan found so far are left out, all others are evaluated by the cost model. Where a layout does not
fit, the least recomputation that makes it fit is found; a small integer programme then mixes choices block by block
(``recompute_choice.py``), and the timeline decides among the best (``estimate.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from athanor.errors import AthanorError
from athanor.parallel.plan import ParallelPlan
from athanor.plan.bounds import Bounds
from athanor.plan.cost import Costs, evaluate
from athanor.plan.enumerate import UNIT, Space, layouts_of
from athanor.plan.layouts import OFFLOADS, SCHEDULES, Bools, Floats, Ints
from athanor.plan.recompute_choice import NONE, Choice, Rungs, columns

#: Layouts that one call of the cost model takes: arrays that stay in cache.
BLOCK = 1024
#: Plans of every schedule that are kept for the timeline to decide among.
KEEP = 12
#: Cores that are tried first, evenly over the better part of all, so that the search begins with a good plan.
SAMPLE = 128
#: Cores that are bounded together while nothing that fits is known.
MOST_CORES = 8192


@dataclass(frozen=True, slots=True)
class Found:
    """Layouts that fit, as arrays [F]: core, way of data parallel, choice of recomputation; seconds of the
    step with that choice for all blocks, and about that of the best mix; bytes of the fullest rank."""

    core: Ints
    option: Ints
    choice: Ints
    step_s: Floats
    mixed_s: Floats
    peak_bytes: Floats

    def take(self, index: Ints | Bools | slice) -> Found:
        """Those at ``index``."""
        return Found(*(getattr(self, name)[index] for name in self.__slots__))

    @classmethod
    def joined(cls, parts: list[Found]) -> Found:
        """One after another."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.__slots__))


@dataclass(frozen=True)
class Candidate:
    """A layout that fits, with what the closed form says of it."""

    plan: ParallelPlan
    rows: int  #: of a micro-batch
    micro_batches: int
    choice: Choice  #: for all blocks; ``estimate`` mixes
    step_s: float
    mixed_s: float
    peak_bytes: float


@dataclass(frozen=True, slots=True)
class _Brief:
    """What the search needs of layouts' costs [n]. ``moving``: activations of the fullest rank with what is lost
    between their blocks; ``micro_bytes``: what one micro-batch keeps in all stages together."""

    step_s: Floats
    peak_bytes: Floats
    moving: Floats
    micro_bytes: Floats
    memory_bytes: float

    @classmethod
    def of(cls, costs: Costs, fragmentation: float) -> _Brief:
        """From the cost model's result."""
        held = costs.memory
        fullest = (held.allocated + fragmentation * held.moving).argmax(axis=1)[:, None]
        activations = (1 + fragmentation) * np.take_along_axis(held.activations, fullest, axis=1)[:, 0]
        kept = costs.activation_bytes.sum(axis=1)
        return cls(costs.step_s, costs.peak_bytes, activations, kept, costs.memory_bytes)

    @property
    def fits(self) -> Bools:
        """Whether the fullest rank does."""
        return np.asarray(self.peak_bytes <= self.memory_bytes)

    def take(self, index: Ints | Bools) -> _Brief:
        """Those at ``index``."""
        step_s, peak, moving, micro = (x[index] for x in (self.step_s, self.peak_bytes, self.moving, self.micro_bytes))
        return _Brief(step_s, peak, moving, micro, self.memory_bytes)


@dataclass
class Search:
    """A search over ``space``. ``slack``: plans up to this share slower than the fastest are all kept (for another
    objective than time)."""

    space: Space
    keep: int = KEEP
    slack: float = 0.0
    evaluations: int = 0
    bounded: int = 0  #: layouts that were bounded, evaluated or not
    _found: list[Found] = field(default_factory=list)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> Found:
        """Layouts that fit: the fastest of each group of sizes, ``keep`` of every schedule, fastest first; none where
        nothing fits. Each schedule has its own bound, because the closed form is not equally near to all of them.
        AthanorError: there is no layout at all (what stands in the way)."""
        units, _, bound_s = self._bounds.cores
        if not len(units):
            raise self.space.empty() or AthanorError("no layout", where="search")
        self.bounded = len(units)
        found = []
        for schedule in sorted({s for _, _, s in self._pipelines.tolist()}):
            self._found = []
            self._descend(np.flatnonzero(self._pipelines[:, 2][self._bounds.cores[1]] == schedule))
            if self._found:
                found.append(self._best().take(slice(None if self.slack else self.keep)))
        if not found:
            return _NOTHING
        every = Found.joined(found)
        return every.take(np.argsort(every.mixed_s, kind="stable"))

    def fits(self) -> bool:
        """Whether any layout does."""
        return bool(len(self.run().core))

    def _descend(self, cores: Ints) -> None:
        """The best of these cores, which are sorted by their bounds."""
        bound_s = self._bounds.cores[2][cores]
        near = max(len(cores) // 4, min(len(cores), SAMPLE))
        if near:
            self._visit(cores[np.unique(np.linspace(0, near - 1, min(SAMPLE, near)).astype(np.int64))], first=3)
        at, size = 0, 4 * SAMPLE
        while at < len(cores) and bound_s[at] < self.most_s:
            # All of them together once there is a bound: the best come first then, of whatever core.
            end = min(at + size, len(cores)) if np.isinf(self.most_s) else int(np.searchsorted(bound_s, self.most_s))
            self._visit(cores[at:end])
            at, size = end, min(2 * size, MOST_CORES)

    @cached_property
    def _bounds(self) -> Bounds:
        return Bounds(self.space)

    @property
    def most_s(self) -> float:
        """A layout that takes longer is of no use: the K-th best group's time, or the fastest with its slack."""
        if not self._found:
            return np.inf
        best = self._best()
        if self.slack:
            return float(best.mixed_s[0] * (1 + self.slack))
        return float(best.mixed_s[self.keep - 1]) if len(best.core) >= self.keep else np.inf

    def _best(self) -> Found:
        """The fastest of every group, sorted; what is found is cut down to it (with a slack: nothing is cut)."""
        found = Found.joined(self._found)
        found = found.take(np.argsort(found.mixed_s, kind="stable"))
        if not self.slack:
            _, first = np.unique(self.group(found.core), axis=0, return_index=True)
            found = found.take(np.sort(first))
        self._found = [found]
        return found

    def group(self, core: Ints) -> Ints:
        """[C, 7] what tells plans apart for a person: tp, cp, ep, rows of a micro-batch, pp, vpp, schedule. Of those
        that differ in nothing else the fastest stands for all."""
        units, pipes, _ = self._bounds.cores
        names = [UNIT.index(name) for name in ("tp", "cp", "ep", "rows")]
        return np.concatenate((self.space.units[units[core]][:, names], self._pipelines[pipes[core]]), axis=1)

    @cached_property
    def _pipelines(self) -> Ints:
        rows = [(pp, vpp, SCHEDULES.index(name)) for pp, vpp, name in self.space.pipelines]
        return np.array(rows, np.int64).reshape(-1, 3)

    @cached_property
    def _groups(self) -> tuple[Ints, Floats]:
        """Which group of units each unit is in, and the best seconds so far by it and pipeline."""
        names = [UNIT.index(name) for name in ("tp", "cp", "ep", "rows")]
        unique, where = np.unique(self.space.units[:, names], axis=0, return_inverse=True)
        return where.reshape(-1), np.full((len(unique), len(self.space.pipelines)), np.inf)

    def _limit_s(self, core: Ints) -> Floats:
        """What each core must beat to be of use: the worst plan kept, and the best of its own group."""
        units, pipes, _ = self._bounds.cores
        where, best_s = self._groups
        own = np.inf if self.slack else best_s[where[units[core]], pipes[core]]
        return np.minimum(own, self.most_s)

    def _visit(self, cores: Ints, first: int = 0) -> None:
        """Evaluate these cores with every way of data parallel (``first``: the most promising ones of each): before all
        others the most promising one of each group, then in the order of their bounds."""
        core, option, bound = self._bounds.pairs(cores, self.most_s)
        self.bounded += len(core)
        units, pipes, _ = self._bounds.cores
        if first:
            chosen = _nth(core) < first
        else:
            at = cores[core]
            group = self._groups[0][units[at]] * len(self.space.pipelines) + pipes[at]
            chosen = _nth(group) < 1
            self._run_down(cores[core[chosen]], option[chosen], bound[chosen])
            chosen = ~chosen
        self._run_down(cores[core[chosen]], option[chosen], bound[chosen])

    def _run_down(self, core: Ints, option: Ints, bound: Floats) -> None:
        at, size = 0, BLOCK // 4
        while at < len(core) and bound[at] < self.most_s:
            part = slice(at, at + size)
            chosen = bound[part] < self._limit_s(core[part])
            if chosen.any():
                self._settle(core[part][chosen], option[part][chosen])
            at, size = at + size, min(2 * size, 4 * BLOCK)

    # --- one block of layouts ----------------------------------------------------------------------------------------

    def _settle(self, core: Ints, option: Ints) -> None:
        """Note those that fit; make those that do not fit by the least recomputation, or by offloading."""
        nothing = NONE in self._choices
        costs = self.costs(core, option)
        limit = self._limit_s(core)
        kept = (costs.step_s < limit) & costs.fits & nothing
        self._note(core[kept], option[kept], 0, costs.step_s[kept], costs.step_s[kept], costs.peak_bytes[kept])
        left = (costs.step_s < limit) & ~(costs.fits & nothing)
        if left.any():
            self._again(core[left], option[left], costs.take(left))

    def _again(self, core: Ints, option: Ints, plain: _Brief) -> None:
        """The first rung that can fit by its bytes, then leaner ones until one does. Of those found, ``mixed_s`` is
        what a mix with the rung before would take: it needs less than all blocks to make that much again."""
        rungs, at = self._rungs(self._bounds.cores[0][core])
        unit_bytes = rungs.bytes[at]
        # Activations of the fullest rank shrink in proportion with what a block keeps.
        free = plain.memory_bytes - (plain.peak_bytes - plain.moving)
        room = free / np.maximum(plain.moving, 1.0) * plain.micro_bytes
        rung = (unit_bytes > room[:, None]).sum(axis=1)
        alive = rung < rungs.count[at]
        while alive.any():
            index = np.flatnonzero(alive)
            choice = rungs.choice[at[index], rung[index]]
            costs = self.costs(core[index], option[index], choice)
            limit = self._limit_s(core[index])
            mixed = self._mixed_s(rungs, at[index], rung[index], room[index], plain.step_s[index], costs.step_s)
            good = costs.fits & (mixed < limit)
            at_good = index[good]
            self._note(
                core[at_good], option[at_good], choice[good], costs.step_s[good], mixed[good], costs.peak_bytes[good]
            )
            go_on = ~costs.fits & (costs.step_s < limit)
            rung[index] += 1
            alive[index] = go_on & (rung[index] < rungs.count[at[index]])

    @staticmethod
    def _mixed_s(rungs: Rungs, unit: Ints, rung: Ints, room: Floats, plain_s: Floats, step_s: Floats) -> Floats:
        """Seconds where as many blocks as can stay on the rung before (or make nothing again)."""
        before = np.maximum(rung - 1, 0)
        lean, more = rungs.bytes[unit, rung], rungs.bytes[unit, before]
        share = np.where(rung > 0, np.clip((room - lean) / np.maximum(more - lean, 1.0), 0, 1), 0.0)
        again = rungs.again_s[unit, rung]
        less = share * (again - rungs.again_s[unit, before]) / np.maximum(again, 1e-12)
        return np.asarray(step_s - less * np.maximum(step_s - plain_s, 0.0))

    def _note(
        self, core: Ints, option: Ints, choice: Ints | int, step_s: Floats, mixed_s: Floats, peak: Floats
    ) -> None:
        if len(core):
            units, pipes, _ = self._bounds.cores
            where, best_s = self._groups
            np.minimum.at(best_s, (where[units[core]], pipes[core]), mixed_s)
            chosen = np.broadcast_to(np.asarray(choice, np.int64), core.shape).copy()
            self._found.append(Found(core, option, chosen, step_s, mixed_s, peak))

    # --- from indices to layouts -------------------------------------------------------------------------------------

    @property
    def _choices(self) -> list[Choice]:
        return self._bounds.choices

    def _rungs(self, units: Ints) -> tuple[Rungs, Ints]:
        """Rungs of the different units among these, and which of them each has."""
        unique, where = np.unique(units, return_inverse=True)
        unknown = np.array([u for u in unique.tolist() if u not in self._known_rungs], np.int64)
        if len(unknown):
            table, n = self._choices, len(self._choices)
            index = np.tile(np.arange(n), len(unknown))
            costs = self._bounds.evaluate_units(np.repeat(unknown, n), **columns(table, index))
            self.evaluations += len(index)
            kept = costs.activation_bytes.sum(axis=1).reshape(-1, n)
            again = costs.backward_input_s.sum(axis=1).reshape(-1, n)
            again = again - self._bounds.unit_costs.backward_input_s[unknown].sum(axis=1)[:, None]
            self._known_rungs.update({u: (k, a) for u, k, a in zip(unknown.tolist(), kept, again, strict=True)})
        rows = [self._known_rungs[u] for u in unique.tolist()]
        kept, again = (np.stack(part) for part in zip(*rows, strict=True))
        return Rungs.of(self._choices, kept, again), where.reshape(-1)

    @cached_property
    def _known_rungs(self) -> dict[int, tuple[Floats, Floats]]:
        return {}

    def costs(self, core: Ints, option: Ints, choice: Ints | None = None) -> _Brief:
        """The cost model on these layouts, in blocks of like numbers of stages."""
        pipes = self._bounds.cores[1][core]
        stages = self._pipelines[pipes, 0] * self._pipelines[pipes, 1]
        order = np.argsort(stages, kind="stable")
        parts, problem = [], self.space.problem
        for at in range(0, len(core), BLOCK):
            index = order[at : at + BLOCK]
            values = self._columns(core[index], option[index])
            if choice is not None:
                values |= columns(self._choices, choice[index])
            blocks = self._bounds.splits(*(x[core[index]] for x in self._bounds.cores[:2]))
            costs = evaluate(problem, layouts_of(values, blocks, self.space.switches))
            parts.append(_Brief.of(costs, problem.cluster.device.fragmentation))
        self.evaluations += len(core)
        joined = _Brief(
            np.concatenate([p.step_s for p in parts]),
            np.concatenate([p.peak_bytes for p in parts]),
            np.concatenate([p.moving for p in parts]),
            np.concatenate([p.micro_bytes for p in parts]),
            problem.cluster.device.memory_bytes,
        )
        return joined.take(np.argsort(order, kind="stable"))

    def _columns(self, core: Ints, option: Ints) -> dict[str, Ints]:
        units, pipes = (x[core] for x in self._bounds.cores[:2])
        pp, vpp, schedule = self._pipelines[pipes].T
        replicate, shard, zero, offload = np.array(self._bounds.options, np.int64)[option].T
        values = {name: self.space.units[units, i] for i, name in enumerate(UNIT)}
        values |= {"pp": pp, "vpp": vpp, "schedule": schedule, "offload": offload, "zero": zero}
        values |= {"dp_replicate": replicate, "dp_shard": shard}
        return values | {"micro_batches": self._bounds.micro_batches(units, pp)}

    def candidates(self, found: Found) -> Iterator[Candidate]:
        """As values."""
        values = self._columns(found.core, found.option)
        blocks = self._bounds.splits(*(x[found.core] for x in self._bounds.cores[:2]))
        for i in range(len(found.core)):
            at = {name: int(column[i]) for name, column in values.items()}
            split = tuple(int(n) for n in blocks[i] if n >= 0)
            choice = self._choices[int(found.choice[i])]
            yield Candidate(
                plan=_plan(at, split, choice), rows=at["rows"], micro_batches=at["micro_batches"], choice=choice,
                step_s=float(found.step_s[i]), mixed_s=float(found.mixed_s[i]), peak_bytes=float(found.peak_bytes[i]),
            )  # fmt: skip


def _nth(of: Ints) -> Ints:
    """How many equal values stand before each."""
    order = np.argsort(of, kind="stable")
    ordered = of[order]
    start = np.searchsorted(ordered, ordered)
    out = np.empty(len(of), np.int64)
    out[order] = np.arange(len(of)) - start
    return out


_NONE, _EMPTY = np.empty(0, np.int64), np.empty(0)
_NOTHING = Found(_NONE, _NONE, _NONE, _EMPTY, _EMPTY, _EMPTY)


def _plan(at: dict[str, int], split: tuple[int, ...], choice: Choice) -> ParallelPlan:
    sizes = ("dp_replicate", "dp_shard", "tp", "cp", "pp", "vpp", "ep", "copies", "chunks", "zero")
    values: dict[str, Any] = {name: at[name] for name in sizes}
    return ParallelPlan(
        **values,
        sp=bool(at["sp"]) if at["tp"] > 1 else True,
        cp_split="document" if at["by_document"] else "sequence",
        cp_kv="ring" if at["ring"] else "all_gather",
        schedule=SCHEDULES[at["schedule"]],
        layers_per_stage=split if at["pp"] > 1 else None,
        offload=OFFLOADS[at["offload"]],
        recompute=choice.plan,
    )
