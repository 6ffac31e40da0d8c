"""Lower bounds of a step's time for every layout of a space, without putting blocks into stages.

A unit (``enumerate.UNIT``) is evaluated once, as a model of three stages: embedding, all blocks, head. From its seconds
follow, for every pipeline, the least time of the slowest rank over all splits of blocks, and the closed form of
``cost.py`` from below; from the bytes of all parameters, what data-parallel collectives cannot hide. A search that
leaves out what is bounded above its worst kept plan leaves out nothing better.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from athanor.plan.cost import Costs, Problem, evaluate
from athanor.plan.enumerate import UNIT, Space, layouts_of
from athanor.plan.layouts import SCHEDULES, V_SHAPED, Bools, Floats, Ints, Layouts
from athanor.plan.memory import head_rank, in_flight, on_ranks, rank_parameters
from athanor.plan.recompute_choice import NONE, Choice, choices, columns
from athanor.plan.shape import parameters
from athanor.plan.splits import GRAIN, stage_split

_EPS = 1e-9
NEVER_S = 1e9


@dataclass
class Bounds:
    """Bounds for ``space``. Cores are pairs (unit, pipeline); arrays [C]."""

    space: Space

    @cached_property
    def unit_costs(self) -> Costs:
        """Every unit as stages embedding, blocks, head of one micro-batch."""
        return self.evaluate_units(np.arange(len(self.space.units)))

    def evaluate_units(self, index: Ints, **columns: Any) -> Costs:
        """Costs of units as three stages; ``columns``: other values (recomputation)."""
        problem, units = self.space.problem, self.space.units[index]
        layers = problem.config.num_hidden_layers
        values = {name: units[:, i] for i, name in enumerate(UNIT)}
        # With a network the stages are ranks, so that a hop between nodes is known, too.
        shape = {"pp": 3, "dp_shard": self.space.world} if problem.cluster.network is not None else {"vpp": 3}
        shape["zero"] = 0  # what a block's backward pass holds at least: nothing is gathered beside it
        blocks = np.broadcast_to(np.array([0, layers, 0], np.int64), (len(index), 3)).copy()
        return evaluate(problem, layouts_of({**values, **shape, **columns}, blocks, self.space.switches))

    @cached_property
    def seconds(self) -> tuple[Floats, Floats, Floats]:
        """[U]: of a micro-batch in the embedding, in one block (mean), in the head."""
        k = self.unit_costs
        stages = k.forward_s + k.backward_input_s + k.backward_weight_s
        return stages[:, 0], stages[:, 1] / self.space.problem.config.num_hidden_layers, stages[:, 2]

    @cached_property
    def kinds(self) -> tuple[Floats, Floats, Floats]:
        """[U, 3]: forward, input's and weights' gradients."""
        return self.unit_costs.forward_s, self.unit_costs.backward_input_s, self.unit_costs.backward_weight_s

    def ends(self, units: Ints) -> tuple[Floats, Floats]:
        """Extra work of first and last stage, in blocks."""
        first, block, last = self.seconds
        return first[units] / block[units], last[units] / block[units]

    @property
    def cores(self) -> tuple[Ints, Ints, Floats]:
        """Unit, pipeline and bound in seconds of every core: pipeline alone, nothing made again, all data parallel
        free. Sorted by the bound."""
        units, pipes, bound_s, _ = self._all
        return units, pipes, bound_s

    @property
    def most_s(self) -> Floats:
        """Seconds of one micro-batch on the slowest rank of every core, at least."""
        return self._all[3]

    @cached_property
    def _all(self) -> tuple[Ints, Ints, Floats, Floats]:
        parts: list[tuple[Ints, Ints, Floats, Floats]] = []
        for j, pipeline in enumerate(self.space.pipelines):
            units = np.flatnonzero(self.space.batch_fits(pipeline))
            if len(units):
                parts.append((units, np.full(len(units), j), *self._pipe_s(units, j)))
        if not parts:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)
        units, pipes, bound_s, most_s = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(bound_s, kind="stable")
        return units[order], pipes[order], bound_s[order], most_s[order]

    def _pipe_s(self, units: Ints, pipeline: int) -> tuple[Floats, Floats]:
        """Bound of the whole pipeline, and of one micro-batch on its slowest rank."""
        pp, vpp, name = self.space.pipelines[pipeline]
        first, block, last = (x[units] for x in self.seconds)
        m = self.micro_batches(units, np.full(len(units), pp))
        total = first + block * self.space.problem.config.num_hidden_layers + last
        if pp == 1:
            return m * total, total
        moe = self.space.problem.config.moe is not None  # blocks differ: no more than the mean is certain
        v_shaped = SCHEDULES.index(name) in V_SHAPED
        most = total / pp if moe else self._slowest_s(first, block, last, pp, v_shaped)
        hop = self.unit_costs.p2p_s[units] if self._far(pp) else 0.0
        overlap = self.space.switches.p2p_overlap and vpp > 1
        sends = hop * (2 * (pp - 1) + (0 if overlap else 2 * m * vpp))
        if v_shaped:
            # As in cost.py: what weights' gradients cannot fill.
            ahead, behind, weights = (x[units].sum(axis=1) / pp / vpp for x in self.kinds)
            open_s = ahead + behind - 2 * weights if name == "zbv" else ahead + 2 * behind - weights
            return m * most + (pp - 1) * np.maximum(open_s, 0.0) + sends, most
        return (m - 1 / vpp) * most + total / vpp + sends, most

    def _far(self, pp: int) -> bool:
        cluster = self.space.problem.cluster
        return cluster.network is not None and self.space.world // pp >= cluster.node.devices

    def _slowest_s(self, first: Floats, block: Floats, last: Floats, pp: int, v_shaped: bool) -> Floats:
        """Least time of the slowest of pp ranks that share equal blocks: the smallest of the times that a slowest rank
        can have (its extra and some blocks) at which all blocks have a place."""
        layers = self.space.problem.config.num_hidden_layers
        extras = [first + last, 0 * first] if v_shaped else [first, last, 0 * first]
        ranks = [1, pp - 1] if v_shaped else [1, 1, pp - 2]
        mean = (first + last + block * layers) / pp
        best = np.full(len(block), np.inf)
        for extra in extras:
            for more in (0, 1):
                time_s = extra + np.maximum(np.ceil((mean - extra) / block - _EPS) + more, 0) * block
                room = sum(
                    n * np.maximum(np.floor((time_s - e) / block + _EPS), 0) for n, e in zip(ranks, extras, strict=True)
                )
                good = (room >= layers) & (time_s >= mean * (1 - _EPS))
                best = np.where(good, np.minimum(best, time_s), best)
        return np.where(np.isfinite(best), best, mean)

    def micro_batches(self, units: Ints, pp: Ints) -> Ints:
        """Of a data rank in a step."""
        rows = self.space.units[units, UNIT.index("rows")]
        return np.asarray(self.space.problem.global_rows // (self.data_ranks(units, pp) * rows))

    def data_ranks(self, units: Ints, pp: Ints) -> Ints:
        """dp of cores."""
        tp, cp = (self.space.units[units, UNIT.index(name)] for name in ("tp", "cp"))
        return np.asarray(self.space.world // (tp * cp * pp))

    # --- how blocks lie on ranks -------------------------------------------------------------------------------------

    def _split_keys(self, units: Ints, pipes: Ints) -> tuple[list[tuple[int, ...]], Ints]:
        first, last = self.ends(units)
        grains = np.rint(np.stack((first, last), axis=1) * GRAIN).astype(np.int64)
        return _different(np.concatenate((pipes[:, None], grains), axis=1))

    def splits(self, units: Ints, pipes: Ints) -> Ints:
        """[n, S] blocks of each core's stages, −1 behind the last."""
        keys, where = self._split_keys(units, pipes)
        return np.asarray(self._split_table(keys)[where])

    def _split_table(self, keys: list[tuple[int, ...]]) -> Ints:
        rows = [self._split(*key) for key in keys]
        table = np.full((len(rows), max(map(len, rows), default=1)), -1, np.int64)
        for i, row in enumerate(rows):
            table[i, : len(row)] = row
        return table

    def _split(self, pipe: int, first: int, last: int) -> tuple[int, ...]:
        layers = self.space.problem.config.num_hidden_layers
        return stage_split(*self.space.pipelines[pipe], layers, first / GRAIN, last / GRAIN)

    def fullest(self, units: Ints, pipes: Ints, m: Ints) -> tuple[Floats, Floats, Floats]:
        """[n], of the rank whose activations are most: blocks times micro-batches in flight, its blocks, and all its
        parameters in those of a block."""
        rows = [(pp, vpp, SCHEDULES.index(name)) for pp, vpp, name in self.space.pipelines]
        keys, where = self._split_keys(units, pipes)
        pairs, which = _different(np.stack((where, m), axis=1))
        key, micro = np.array(pairs, np.int64).reshape(-1, 2).T
        pp, vpp, schedule = np.array(rows, np.int64)[np.array([pipe for pipe, _, _ in keys], np.int64)[key]].T
        columns_ = {"pp": pp, "vpp": vpp, "schedule": schedule, "micro_batches": micro}
        blocks = self._split_table(keys)[key]
        at = layouts_of(columns_, blocks, self.space.switches)
        on_rank = on_ranks(at, np.maximum(blocks, 0).astype(np.float64))
        held = on_rank * in_flight(at)
        most = held.argmax(axis=1)[:, None]
        p = parameters(self.space.problem.config)
        size = p.attention + p.dense + p.norms
        head = p.head or np.where(at.stages > 1, p.embedding, 0)
        with_ends = on_rank + head_rank(at) * np.broadcast_to(head / size, (len(at),))[:, None]
        with_ends[:, 0] += p.embedding / size
        held_, blocks_, all_ = (np.take_along_axis(x, most, axis=1)[which, 0] for x in (held, on_rank, with_ends))
        return held_, blocks_, all_

    # --- recomputation -----------------------------------------------------------------------------------------------

    @cached_property
    def choices(self) -> list[Choice]:
        """Recomputations that the axes allow."""
        return choices(self.space.problem.config, self.space.axes.recompute)

    @cached_property
    def _pieces(self) -> list[Choice]:
        """Choices that all others are made of (or all, where not all are allowed)."""
        whole = not self.space.axes.recompute
        return [c for c in self.choices if c != NONE and (not whole or c.full or len(c.names) == 1)]

    def _price(self, units: Ints) -> None:
        """Know the savings of these units."""
        new = np.array([u for u in np.unique(units).tolist() if u not in self._known_savings], np.int64)
        if not len(new) or not self._pieces:
            return
        n, layers = len(self._pieces), self.space.problem.config.num_hidden_layers
        costs = self.evaluate_units(np.repeat(new, n), **columns(self._pieces, np.tile(np.arange(n), len(new))))
        plain = self.unit_costs
        share = 1 - costs.activation_bytes[:, 1].reshape(-1, n) / plain.activation_bytes[new, 1][:, None]
        again = (costs.backward_input_s[:, 1].reshape(-1, n) - plain.backward_input_s[new, 1][:, None]) / layers
        share, again = _either(self._pieces, share, again)
        price = np.where(share > 0, again / np.maximum(share, _EPS), np.inf)
        order = np.argsort(price, axis=1)
        share, again = (np.take_along_axis(np.maximum(x, 0), order, axis=1) for x in (share, again))
        self._known_savings.update({u: (a, b) for u, a, b in zip(new.tolist(), share, again, strict=True)})

    def _savings(self, units: Ints) -> tuple[Floats, Floats]:
        """[n, I]: share of a block's bytes that each piece saves and seconds a block that it repeats, cheapest a byte
        first."""
        keys, where = _different(units[:, None])
        empty = (np.zeros(1), np.zeros(1))
        rows = [self._known_savings.get(u, empty) for (u,) in keys]
        share, again = (np.stack(part) for part in zip(*rows, strict=True))
        return share[where], again[where]

    @cached_property
    def _known_savings(self) -> dict[int, tuple[Floats, Floats]]:
        return {}

    @staticmethod
    def _again_s(need: Floats, share: Floats, again: Floats) -> Floats:
        """Least seconds a block that save this share of its bytes, any part of any piece; inf where all do not."""
        left, time_s = np.maximum(need, 0.0), np.zeros(need.shape)
        for i in range(share.shape[1]):
            width = share[:, i].reshape(-1, *(1,) * (need.ndim - 1))
            taken = np.minimum(left, width)
            time_s = time_s + taken * again[:, i].reshape(width.shape) / np.maximum(width, _EPS)
            left = left - taken
        most = share.max(axis=1).reshape(
            -1, *(1,) * (need.ndim - 1)
        )  # no mix saves more than the piece that saves most
        return np.asarray(np.where((left > _EPS) | (need > most + _EPS), np.inf, time_s))

    # --- data parallel -----------------------------------------------------------------------------------------------

    def pairs(self, cores: Ints, most_s: float) -> tuple[Ints, Ints, Floats]:
        """(place in ``cores``, row of ``self.options``, bound) of every core and way of data parallel that may take
        less than ``most_s``, sorted by the bound.

        The slowest rank waits for data-parallel collectives at least as long as ranks do on average, and hides at most
        its first forward and last backward pass. The rank with most activations repeats what does not fit.
        """
        units, pipes, bound_s = self.cores[0][cores], self.cores[1][cores], self.cores[2][cores]
        load = _CoreLoad.of(self, units, pipes, self.most_s[cores])
        sizes = self.space.units[units][:, [UNIT.index(name) for name in ("tp", "cp", "ep")]]
        keys, where = _different(np.stack((*sizes[:, :2].T, load.pp, sizes[:, 2]), axis=1))
        self._meet(keys)
        order = np.argsort(where, kind="stable")
        groups = np.split(order, np.searchsorted(where[order], np.arange(1, len(keys)))) if keys else []
        wanted: list[tuple[Ints, Floats, Floats, int, _Options]] = []
        for key, index in zip(keys, groups, strict=True):
            first, options = self._option_tables[key]
            bound = bound_s[index][:, None] + self._late_s(load, index, options) + options.update_s
            cheap = (bound < most_s).any(axis=1)
            index, bound = index[cheap], bound[cheap]
            need = np.where(bound < most_s, self._need(load, index, options), 0.0)
            wanted.append((index, bound, need, first, options))
        forced = [index[(need > 0).any(axis=1)] for index, _, need, _, _ in wanted]
        self._price(units[np.concatenate(forced)] if forced else np.empty(0, np.int64))
        found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        for index, bound, need, first, _ in wanted:
            bound = bound + self._forced_s(load, index, need)
            core, option = np.nonzero(bound < most_s)
            found.append((index[core], first + option, bound[core, option]))
        core, option, bound = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(bound, kind="stable")
        return core[order], option[order], bound[order]

    def _late_s(self, load: _CoreLoad, index: Ints, options: _Options) -> Floats:
        """[n, D]: seconds of data-parallel collectives that nothing hides."""
        every, zero = load.m[index][:, None], options.zero
        gathers = np.where(zero == 3, 2 * every, 1.0)
        often = self.space.problem.engine.sums_each(zero, load.pp[index][:, None])
        inner = load.inner[index][:, None]
        late = gathers * (options.gather_s - inner * np.minimum(options.gather_s, load.forward_s[index][:, None]))
        hidden = inner * np.minimum(options.reduce_s, load.backward_s[index][:, None])
        late = late + np.where(often, every, 1.0) * (options.reduce_s - hidden)
        return np.asarray(late / load.pp[index][:, None])

    def _need(self, load: _CoreLoad, index: Ints, options: _Options) -> Floats:
        """[n, D]: share of their activations that blocks of the fullest rank must give up to fit (0 or less: none)."""
        device = self.space.problem.cluster.device
        free = device.memory_bytes - device.reserved_bytes - load.moment_bytes[index][:, None]
        free = free - options.state_bytes * load.parameters[index][:, None]
        return 1 - free / (load.kept_bytes[index] * load.held[index] * (1 + device.fragmentation))[:, None]

    def _forced_s(self, load: _CoreLoad, index: Ints, need: Floats) -> Floats:
        """[n, D]: seconds of the step that the least recomputation adds; inf where blocks cannot fit at all."""
        rows = np.flatnonzero((need > 0).any(axis=1))
        out = np.zeros(need.shape)
        if len(rows):
            at = index[rows]
            again = self._again_s(need[rows], *self._savings(load.units[at]))
            blocks, m, vpp = (x[at][:, None] for x in (load.blocks, load.m, load.vpp))
            # Finite, as inf · 0 is no number where a pipeline of one rank has one micro-batch.
            again = np.minimum(again, NEVER_S)
            slower = np.maximum(blocks * (load.block_s[at][:, None] + again) - load.most_s[at][:, None], 0)
            others = np.where(load.v_shaped[at][:, None], 0.0, blocks * again / vpp)
            out[rows] = np.where(again == NEVER_S, np.inf, (m - 1 / vpp) * slower + others)
        return out

    @cached_property
    def options(self) -> list[tuple[int, int, int, int]]:
        """(dp_replicate, dp_shard, zero, offload) that ``pairs`` has met."""
        return []

    @cached_property
    def _option_tables(self) -> dict[tuple[int, ...], tuple[int, _Options]]:
        return {}

    def _meet(self, keys: list[tuple[int, ...]]) -> None:
        """Know the options of these sizes (tp, cp, pp, ep): where they begin in ``options``, and their costs."""
        new = [key for key in keys if key not in self._option_tables]
        layers, problem = self.space.problem.config.num_hidden_layers, self.space.problem
        for pp in sorted({key[2] for key in new}):  # like numbers of ranks together
            same = [key for key in new if key[2] == pp]
            each = [self.space.data_options(*key) for key in same]
            counts = [len(rows) for rows in each]
            rows, sizes = np.concatenate(each), np.repeat(np.array(same, np.int64), counts, axis=0)
            blocks = np.full((len(rows), pp), layers // pp, np.int64)
            blocks[:, : layers % pp] += 1
            names = ("dp_replicate", "dp_shard", "zero", "offload", "tp", "cp", "pp", "ep")
            columns_ = dict(zip(names, (*rows.T, *sizes.T), strict=True))
            known = _Options.of(problem, layouts_of(columns_, blocks, self.space.switches), rows)
            for key, end, count in zip(same, np.cumsum(counts).tolist(), counts, strict=True):
                self._option_tables[key] = len(self.options), known.take(slice(end - count, end))
                self.options.extend(tuple(row) for row in rows[end - count : end].tolist())


@dataclass(frozen=True, slots=True)
class _CoreLoad:
    """What ``pairs`` needs of cores [n]."""

    units: Ints
    pp: Ints
    vpp: Ints
    v_shaped: Bools
    m: Floats  #: micro-batches of a data rank
    inner: Floats  #: share of a rank's blocks whose collectives have something to run beside, at most
    forward_s: Floats  #: of one micro-batch in all stages
    backward_s: Floats
    block_s: Floats
    most_s: Floats  #: of the slowest rank, at least
    kept_bytes: Floats  #: of a block and micro-batch
    moment_bytes: Floats  #: held for a moment by a block's backward pass
    held: Floats  #: blocks times micro-batches in flight on the rank that has most
    blocks: Floats  #: on that rank
    parameters: Floats  #: on that rank, in those of a block

    @classmethod
    def of(cls, bounds: Bounds, units: Ints, pipes: Ints, most_s: Floats) -> _CoreLoad:
        """Of these cores."""
        space, costs = bounds.space, bounds.unit_costs
        rows = [(pp, vpp, SCHEDULES.index(name) in V_SHAPED) for pp, vpp, name in space.pipelines]
        pp, vpp, v_shaped = np.array(rows, np.int64)[pipes].T
        layers = space.problem.config.num_hidden_layers
        # The first gather and the last scatter of a rank have nothing to run beside: one of its blocks' share.
        inner = 1 - 1 / (layers / pp + 2) if space.switches.dp_overlap else np.zeros(len(pp))
        forward, behind, weights = (x[units].sum(axis=1) for x in bounds.kinds)
        m = bounds.micro_batches(units, pp)
        held = bounds.fullest(units, pipes, m)
        moment = np.zeros(len(units))
        if costs.memory.transient.shape[1] > 1:  # units were ranks of a pipeline
            beside = np.where(pp > 1, costs.memory.buffers[units, 1], 0.0)
            moment = (1 + space.problem.cluster.device.fragmentation) * (costs.memory.transient[units, 1] + beside)
        return cls(
            units, pp, vpp, v_shaped.astype(bool), m.astype(np.float64), inner, forward, behind + weights,
            bounds.seconds[1][units], most_s, costs.activation_bytes[units, 1] / layers, moment, *held,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Options:
    """Ways of data parallel of the same sizes [D]."""

    zero: Ints
    gather_s: Floats  #: all ranks' parameters once
    reduce_s: Floats  #: all ranks' gradients once
    update_s: Floats  #: the optimizer step of a mean rank
    state_bytes: Floats  #: of a block, at least

    @classmethod
    def of(cls, problem: Problem, at: Layouts, options: Ints) -> _Options:
        """From the cost model, with blocks spread evenly."""
        if not len(options):
            return cls(options[:, 2], *(np.empty(0) for _ in range(4)))
        costs = evaluate(problem, at)
        every, routed = rank_parameters(problem.config, at)
        held = costs.memory.parameters + costs.memory.gradients + costs.memory.optimizer
        mean = (every + routed).mean(axis=1) / np.maximum((every + routed).max(axis=1), 1.0)
        p = parameters(problem.config)
        block = (p.attention + (p.dense if problem.config.moe is None else 0)) / at.tp
        each = held.sum(axis=1) / every.sum(axis=1) if problem.config.moe is None else np.zeros(len(options))
        return cls(
            options[:, 2], costs.data.gather_s.sum(axis=1), costs.data.reduce_s.sum(axis=1), mean * costs.optimizer_s,
            each * block,
        )  # fmt: skip

    def take(self, index: slice) -> _Options:
        """Those at ``index``."""
        return _Options(*(getattr(self, name)[index] for name in self.__slots__))


def _either(pieces: list[Choice], share: Floats, again: Floats) -> tuple[Floats, Floats]:
    """Collectives kept or made again, whichever saves more and whichever takes less: one piece for both."""
    kinds = sorted({(c.names, c.full) for c in pieces})
    same = [[i for i, c in enumerate(pieces) if (c.names, c.full) == kind] for kind in kinds]
    more = np.stack([share[:, index].max(axis=1) for index in same], axis=1)
    return more, np.stack([again[:, index].min(axis=1) for index in same], axis=1)


def _different(rows: Ints) -> tuple[list[tuple[int, ...]], Ints]:
    """The different rows, and which of them each is. One number a row, which sorts much faster than rows."""
    if not len(rows):
        return [], np.empty(0, np.int64)
    low = rows.min(axis=0)
    radix = np.concatenate(([1], np.cumprod(rows.max(axis=0)[:-1] - low[:-1] + 1)))
    _, first, where = np.unique((rows - low) @ radix, return_index=True, return_inverse=True)
    return [tuple(row) for row in rows[first].tolist()], where.reshape(-1)
