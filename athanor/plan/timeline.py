"""The timeline of one step of a pipeline: when each rank does what, what it waits for, and the memory it holds."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from athanor.errors import AthanorError
from athanor.parallel.plan import ScheduleName
from athanor.plan.event_graph import MESSAGES, EventGraph, Floats, Messages, circle, earliest_starts, event_graph
from athanor.plan.schedules import B, F, I, Ints, Order, W, pipeline_order


@dataclass(frozen=True, eq=False)
class PipelineWork:
    """What a pipeline has to do in one step. Per-stage values are in model order; a single number holds for all.

    Times in seconds of one micro-batch: ``*_s`` is computation, ``*_comm_s`` collectives inside the action that nothing
    hides (tensor, context, expert parallel). A full backward takes the input's and the weights' part. ``p2p_s`` [stages
    − 1]: a message between stage s and s + 1, either way; it takes none where both are on one rank.

    ``gather_s`` [stages]: the all-gather of a stage's parameters before its first forward, of which ``gather_hidden_s``
    may run beside that forward; ``reduce_s``, ``reduce_hidden_s``: the same for its gradients and its last backward.
    A rank's gathers run from the beginning, one after the other in order of use; reductions run beside other stages.

    Bytes: ``activation_bytes`` [stages] kept of a micro-batch from its forward to the end of its backward, of which
    ``weight_pass_bytes`` (None: all) stay between the halves of a split backward; ``forward_extra_bytes``,
    ``backward_extra_bytes`` only while an action runs; ``static_bytes`` [pp] all the time.

    ``messages`` (None: as torch does) and ``order`` (None: the schedule's) say what the ranks really run. AthanorError
    for a value of the wrong size, below zero or not finite.
    """

    schedule: ScheduleName
    pp: int
    vpp: int
    micro_batches: int
    _: KW_ONLY
    forward_s: ArrayLike
    backward_input_s: ArrayLike
    backward_weight_s: ArrayLike
    forward_comm_s: ArrayLike = 0.0
    backward_input_comm_s: ArrayLike = 0.0
    backward_weight_comm_s: ArrayLike = 0.0
    p2p_s: ArrayLike = 0.0
    gather_s: ArrayLike = 0.0
    gather_hidden_s: ArrayLike = 0.0
    reduce_s: ArrayLike = 0.0
    reduce_hidden_s: ArrayLike = 0.0
    activation_bytes: ArrayLike = 0.0
    weight_pass_bytes: ArrayLike | None = None
    forward_extra_bytes: ArrayLike = 0.0
    backward_extra_bytes: ArrayLike = 0.0
    static_bytes: ArrayLike = 0.0
    messages: Messages | None = None
    order: Order | None = None

    def __post_init__(self) -> None:
        order = self.order or pipeline_order(self.schedule, self.pp, self.vpp, self.micro_batches)
        put = object.__setattr__
        put(self, "order", order)
        put(self, "messages", self.messages or MESSAGES[self.schedule])
        if (order.pp, order.stages, order.micro_batches) != (self.pp, self.stages, self.micro_batches):
            raise AthanorError(
                f"an order of {order.pp} ranks, {order.stages} stages and {order.micro_batches} micro-batches for work "
                f"of {self.pp}, {self.stages} and {self.micro_batches}",
                where="pipeline order",
            )
        if self.weight_pass_bytes is None:
            put(self, "weight_pass_bytes", self.activation_bytes)
        sizes = {"p2p_s": self.stages - 1, "static_bytes": self.pp}
        for field in fields(self):
            if field.name.endswith(("_s", "_bytes")):
                size = sizes.get(field.name, self.stages)
                put(self, field.name, _values(field.name, getattr(self, field.name), size))

    @property
    def stages(self) -> int:
        """Stages of the whole model."""
        return self.pp * self.vpp


def _values(name: str, value: ArrayLike, size: int) -> Floats:
    values = np.asarray(value, dtype=np.float64)
    if values.ndim > 1 or values.ndim == 1 and len(values) != size:
        raise AthanorError(f"{values.shape} values", where=f"pipeline work: {name}", fix=f"one, or {size}")
    values = np.broadcast_to(values, (size,)).copy()
    if not np.isfinite(values).all() or (values < 0).any():
        raise AthanorError(f"{values.tolist()}", where=f"pipeline work: {name}", fix="finite and not negative")
    return values


@dataclass(frozen=True, eq=False)
class Transfers:
    """Messages between ranks [M]: the actions at both ends, and seconds from the beginning of the step."""

    producer: Ints
    consumer: Ints
    start_s: Floats
    end_s: Floats


@dataclass(frozen=True, eq=False)
class Collectives:
    """Gathers and reductions of the data-parallel group [C], one per stage and kind that takes any time.

    ``action`` is the first forward, or the last backward, that it belongs to.
    """

    gather: np.ndarray[Any, np.dtype[np.bool_]]
    stage: Ints
    rank: Ints
    action: Ints
    start_s: Floats
    end_s: Floats


@dataclass(frozen=True, eq=False)
class Timeline:
    """A simulated step. Arrays [N] belong to the actions of ``order``, arrays [pp] to ranks; float64.

    ``comm_s`` [N]: the part of an action that is exposed collectives. Between actions a rank waits: ``wait_p2p_s`` for
    a message that is on its way, ``wait_dp_s`` for a gather, ``wait_s`` for another rank's action: the bubble proper.
    """

    work: PipelineWork
    order: Order
    start_s: Floats
    end_s: Floats
    comm_s: Floats
    wait_s: Floats
    wait_p2p_s: Floats
    wait_dp_s: Floats
    transfers: Transfers
    collectives: Collectives

    @cached_property
    def wall_s(self) -> float:
        """From the beginning to the end of the last action or reduction."""
        return float(max(self.end_s.max(), self.collectives.end_s.max(initial=0.0)))

    @cached_property
    def busy_s(self) -> Floats:
        """Seconds in which each rank has an action running [pp]."""
        return self._sum(self.end_s - self.start_s)

    @cached_property
    def exposed_collective_s(self) -> Floats:
        """Of ``busy_s``, what are collectives inside actions [pp]."""
        return self._sum(self.comm_s)

    @cached_property
    def exposed_p2p_s(self) -> Floats:
        """Seconds in which each rank does nothing but wait for a message on its way [pp]."""
        return self._sum(self.wait_p2p_s)

    @cached_property
    def exposed_dp_s(self) -> Floats:
        """Seconds in which each rank waits for a gather, or for reductions behind its last action [pp]."""
        ends = np.zeros(self.order.pp)
        np.maximum.at(ends, self.collectives.rank, self.collectives.end_s)
        return self._sum(self.wait_dp_s) + np.maximum(0.0, ends - self._last_end_s)

    @cached_property
    def idle_s(self) -> Floats:
        """Seconds in which no action of the rank runs, to the end of the step [pp]: bubble and exposed messages."""
        return self.wall_s - self.busy_s

    @cached_property
    def bubble_s(self) -> Floats:
        """Of ``idle_s``, what no communication of the rank explains [pp]."""
        return self.idle_s - self.exposed_p2p_s - self.exposed_dp_s

    @property
    def idle_share(self) -> float:
        """Idle share of the wall time, over all ranks: (p − 1) / (m·v + p − 1) for equal stages and free messages."""
        return float(self.idle_s.sum() / (self.order.pp * self.wall_s)) if self.wall_s else 0.0

    @property
    def idle_ratio(self) -> float:
        """Idle over ideal time, over all ranks: (p − 1) / (m·v) for equal stages and free messages (arXiv 2104.04473,
        section 2.2). The ideal is what the ranks are busy."""
        busy_s = float(self.busy_s.sum())
        return float(self.idle_s.sum()) / busy_s if busy_s else 0.0

    @cached_property
    def _last_end_s(self) -> Floats:
        return np.array([self.end_s[b - 1] if b > a else 0.0 for a, b in self._spans])

    @property
    def _spans(self) -> list[tuple[int, int]]:
        offsets = self.order.offsets.tolist()
        return list(zip(offsets[:-1], offsets[1:], strict=True))

    def _sum(self, values: Floats) -> Floats:
        return np.bincount(self.order.rank, values, minlength=self.order.pp).astype(np.float64)

    # --- memory ------------------------------------------------------------------------------------------------------

    @cached_property
    def _held_bytes(self) -> Floats:
        """Above ``static_bytes`` while each action runs, and behind it: [N, 2]."""
        work, order = self.work, self.order
        kind, stage = order.kind, order.stage
        kept = np.asarray(work.activation_bytes)[stage]
        rest = np.asarray(work.weight_pass_bytes)[stage]
        extra = np.where(
            kind == F, np.asarray(work.forward_extra_bytes)[stage], np.asarray(work.backward_extra_bytes)[stage]
        )
        whole_in_w = (stage == 0) & ((kind == I) | (kind == W))  # as in _action_seconds
        extra[(kind == W) & ~whole_in_w | (kind == I) & whole_in_w] = 0.0
        rest = np.where(whole_in_w, kept, rest)
        change = np.choose(kind, (kept, -kept, rest - kept, -rest))
        after = np.cumsum(change)
        during = np.where(kind == F, after, after - change) + extra
        # Every rank ends with what it began with: one sum serves all, up to rounding.
        return np.maximum(np.stack((during, after), axis=1), 0.0)

    def memory(self, rank: int) -> tuple[Floats, Floats]:
        """(seconds, bytes) of a rank, each value holding until the next: what it holds from that moment on."""
        a, b = self._spans[rank]
        static = float(np.asarray(self.work.static_bytes)[rank])
        time_s = np.concatenate(([0.0], np.stack((self.start_s[a:b], self.end_s[a:b]), axis=1).ravel()))
        return time_s, np.concatenate(([static], static + self._held_bytes[a:b].ravel()))

    @cached_property
    def peak_bytes(self) -> Floats:
        """Most that each rank holds at once, ``static_bytes`` included [pp]."""
        static = np.asarray(self.work.static_bytes)
        return static + np.array([self._held_bytes[a:b].max(initial=0.0) for a, b in self._spans])

    @cached_property
    def peak_in_flight(self) -> Ints:
        """Most micro-batches (of any of its stages) whose backward pass is still to be ended, by rank [pp]."""
        counts = np.cumsum(np.where(self.order.kind == F, 1, np.where(self.order.kind == I, 0, -1)))
        return np.array([counts[a:b].max(initial=0) for a, b in self._spans])

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON: seconds, bytes and shares, lists by rank."""
        per_rank = ("busy_s", "bubble_s", "exposed_p2p_s", "exposed_dp_s", "exposed_collective_s", "peak_bytes")
        return {
            "schedule": self.work.schedule,
            "pp": self.work.pp,
            "vpp": self.work.vpp,
            "micro_batches": self.work.micro_batches,
            "actions": len(self.order),
            "wall_s": self.wall_s,
            "idle_share_of_wall": self.idle_share,
            "idle_over_ideal": self.idle_ratio,
            **{name: getattr(self, name).tolist() for name in per_rank},
            "peak_micro_batches": self.peak_in_flight.tolist(),
        }


def simulate(work: PipelineWork) -> Timeline:
    """The timeline of ``work``. AthanorError with the circle of waiting where the ranks' order never ends."""
    order, messages = work.order, work.messages
    assert order is not None and messages is not None
    graph = event_graph(order, messages)
    compute_s, comm_s = _action_seconds(work, order)
    duration_s = compute_s + comm_s
    hop = np.minimum(order.stage[graph.producer], order.stage[graph.consumer])
    travel_s = np.asarray(work.p2p_s)[hop]
    lane = _dp_lane(work, order, duration_s)
    n, m = len(order), len(graph.producer)
    all_s = np.concatenate((duration_s, travel_s, lane.duration_s))
    before = np.concatenate((graph.before, np.where(lane.before >= 0, lane.before, n + m - 1 - lane.before)))
    after = np.concatenate((graph.after, np.where(lane.after >= 0, lane.after, n + m - 1 - lane.after)))
    starts_s, stuck = earliest_starts(all_s, before, after)
    if stuck.any():
        raise AthanorError(
            f"the ranks wait for each other for ever: {circle(graph, stuck)}",
            where="pipeline order",
            fix="let one of them come earlier on its rank",
        )
    start_s, end_s = starts_s[:n], (starts_s + all_s)[:n]
    sent_s = starts_s[n : n + m]
    transfers = Transfers(graph.producer, graph.consumer, sent_s, sent_s + travel_s)
    waits = _waits(graph, start_s, end_s, transfers)
    collectives = lane.collectives(starts_s[n + m :], starts_s[n + m :] + lane.duration_s)
    return Timeline(work, order, start_s, end_s, comm_s, *waits, transfers, collectives)


def _action_seconds(work: PipelineWork, order: Order) -> tuple[Floats, Floats]:
    """Computation and exposed collectives of each action [N].

    The first stage has no input to give a gradient for: where the backward is split, torch does all of it in W.
    """

    def table(forward_s: Any, input_s: Any, weight_s: Any) -> Floats:
        by_kind = np.empty((4, work.stages))
        by_kind[F], by_kind[B], by_kind[I], by_kind[W] = forward_s, input_s + weight_s, input_s, weight_s
        by_kind[W, 0], by_kind[I, 0] = by_kind[B, 0], 0.0
        return by_kind[order.kind, order.stage]

    return (
        table(work.forward_s, work.backward_input_s, work.backward_weight_s),
        table(work.forward_comm_s, work.backward_input_comm_s, work.backward_weight_comm_s),
    )


def _waits(graph: EventGraph, start_s: Floats, end_s: Floats, transfers: Transfers) -> tuple[Floats, Floats, Floats]:
    """What a rank waits for before each action [N]: another rank's action, messages, gathers.

    A message is on its way, or in the queue of its link, once its sender gets to it and its receive is posted; until
    then its receiver waits for the other rank.
    """
    order = graph.order
    posted = np.where(graph.posted_after >= 0, end_s[graph.posted_after], 0.0)
    ready_s = np.maximum(end_s[graph.sent_after], posted)
    free_s = np.concatenate(([0.0], end_s[:-1]))
    free_s[order.offsets[:-1][np.diff(order.offsets) > 0]] = 0.0
    made, came = free_s.copy(), free_s.copy()
    for message in (graph.arrives, graph.sent):
        has = message >= 0
        made[has] = np.maximum(made[has], ready_s[message[has]])
        came[has] = np.maximum(came[has], transfers.end_s[message[has]])
    return made - free_s, came - made, np.maximum(start_s - came, 0.0)


@dataclass(frozen=True, eq=False)
class _Lane:
    """The data-parallel collectives as events behind all others; edges name them −1, −2, … (actions: their number)."""

    duration_s: Floats
    before: Ints
    after: Ints
    rows: list[tuple[bool, int, int, int, int, int]]  # gather?, stage, rank, action, first and last event

    def collectives(self, start_s: Floats, end_s: Floats) -> Collectives:
        columns = [np.array(c) for c in zip(*self.rows, strict=True)] if self.rows else [np.empty(0, np.int64)] * 6
        gather, stage, rank, action, first, last = columns
        return Collectives(gather.astype(bool), stage, rank, action, start_s[first], end_s[last])


def _dp_lane(work: PipelineWork, order: Order, duration_s: Floats) -> _Lane:
    """Each rank's gathers in order of use, then its reductions in order of need, on one lane.

    A gather has a part before its forward starts and one before it ends, a reduction one that may run beside its
    backward and one behind it. "Before it ends" and "beside" are events of negative duration.
    """
    duration: list[float] = []
    edges: list[tuple[int, int]] = []
    rows: list[tuple[bool, int, int, int, int, int]] = []

    def event(seconds: float, *waits_for: int) -> int:
        duration.append(float(seconds))
        edges.extend((w, -len(duration)) for w in waits_for)
        return -len(duration)

    gather_s, reduce_s = np.asarray(work.gather_s), np.asarray(work.reduce_s)
    gather_hidden_s = np.minimum(gather_s, work.gather_hidden_s)
    reduce_hidden_s = np.minimum(reduce_s, work.reduce_hidden_s)
    if not gather_s.any() and not reduce_s.any():
        return _Lane(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64), rows)
    first, last = _first_and_last(order)
    for rank in range(order.pp):
        here = np.flatnonzero(order.place == rank)
        lane: tuple[int, ...] = ()
        for s in here[np.argsort(first[here])].tolist():
            if gather_s[s]:
                lead = event(gather_s[s] - gather_hidden_s[s], *lane)
                rest = event(gather_hidden_s[s], lead)
                by_its_end = event(-duration_s[first[s]], rest)
                edges.extend(((lead, first[s]), (by_its_end, first[s])))
                rows.append((True, s, rank, first[s], -lead - 1, -rest - 1))
                lane = (rest,)
        for s in here[np.argsort(last[here])].tolist():
            if reduce_s[s]:
                hidden_s = min(float(reduce_hidden_s[s]), float(duration_s[last[s]]))
                beside = event(-hidden_s, last[s])
                early = event(hidden_s, beside, *lane)
                tail = event(reduce_s[s] - hidden_s, early, last[s])
                rows.append((False, s, rank, last[s], -early - 1, -tail - 1))
                lane = (tail,)
    before, after = (np.array(column, dtype=np.int64) for column in zip(*edges, strict=True))
    return _Lane(np.array(duration), before, after, rows)


def _first_and_last(order: Order) -> tuple[Ints, Ints]:
    """The first and the last action of each stage [stages]."""
    at = np.arange(len(order))
    first, last = np.full(order.stages, len(order)), np.zeros(order.stages, dtype=np.int64)
    np.minimum.at(first, order.stage, at)
    np.maximum.at(last, order.stage, at)
    return first, last
