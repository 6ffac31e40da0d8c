"""Which event of a pipeline waits for which: actions and messages as a graph, and the earliest time of each event.

Nodes 0 … N − 1 are the actions of an ``Order``, then come the messages between ranks. A node starts when all that it
waits for has ended, so its start is the longest path to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from athanor.errors import AthanorError
from athanor.parallel.plan import ScheduleName
from athanor.plan.schedules import B, F, I, Ints, Order, W

Floats = NDArray[np.float64]

#: When a message travels. ``overlapped``: as soon as it is made. ``posted``: and its receive has been posted, which
#: torch's runtime does beside computations. ``on_demand``: and the receiver has nothing else left to do before it.
#: ``blocking``: the same, and the sender waits for its arrival too.
Messages = Literal["overlapped", "posted", "on_demand", "blocking"]

#: What torch does (torch.distributed.pipelining.schedules, 2.11–2.13): GPipe receives just before it computes, 1F1B
#: pairs each send with the next receive and waits for both, the runtime of all others posts receives early.
MESSAGES: dict[ScheduleName, Messages] = {
    "gpipe": "on_demand",
    "1f1b": "blocking",
    "interleaved_1f1b": "posted",
    "zbv": "posted",
    "dualpipev": "posted",
}


@dataclass(frozen=True, eq=False)
class EventGraph:
    """The events of one step: N actions and M messages, a message for each action that another rank waits for.

    ``producer``, ``consumer`` [M]: the actions at both ends; ``sent_after`` [M]: the sender's action that must have
    ended, ``posted_after`` [M]: the receiver's (−1: none). ``arrives`` [N]: the message an action takes in; ``sent``
    [N]: the message that must have been delivered before it, where sends block (−1: none). ``before``, ``after``
    [edges]: what ends, what it lets start.
    """

    order: Order
    producer: Ints
    consumer: Ints
    sent_after: Ints
    posted_after: Ints
    arrives: Ints
    sent: Ints
    before: Ints
    after: Ints


@lru_cache(maxsize=16)
def event_graph(order: Order, messages: Messages) -> EventGraph:
    """The graph of ``order``; AthanorError where a rank is to do something before its own input is there."""
    n = len(order)
    source, rank = _sources(order), order.rank
    consumer = np.flatnonzero((source >= 0) & (rank[source] != rank))
    by_sender = np.lexsort((consumer, source[consumer]))
    consumer = consumer[by_sender]
    producer = source[consumer]
    arrives, leaves = np.full(n, -1), np.full(n, -1)
    arrives[consumer] = leaves[producer] = np.arange(len(consumer))
    if messages == "posted":
        posted = _posted_after(order, producer, consumer)
    elif messages == "overlapped":
        posted = np.full(len(consumer), -1)
    else:
        posted = _previous(order)[consumer]
    sent_after = _group_ends(order)[producer]
    sent, paired = _blocking_sends(order, messages, leaves)
    waits = np.flatnonzero(sent >= 0)
    receives_later = ~paired[waits] & (arrives[waits] >= 0)

    edges = [
        (np.flatnonzero(np.diff(rank) == 0), np.flatnonzero(np.diff(rank) == 0) + 1),  # a rank does one thing at a time
        (sent_after, n + np.arange(len(producer))),
        (n + np.arange(len(producer)), consumer),
        (posted[posted >= 0], n + np.flatnonzero(posted >= 0)),
        _link_order(order, producer, consumer, n),
        (n + sent[waits], np.where(receives_later, n + arrives[waits], waits)),
    ]
    before, after = (np.concatenate(column) for column in zip(*edges, strict=True))
    return EventGraph(order, producer, consumer, sent_after, posted, arrives, sent, before, after)


def _sources(order: Order) -> Ints:
    """The action whose result each action works on, −1 for the first stage's forward."""
    last, shape = order.stages - 1, (order.stages, order.micro_batches)
    forward, backward = np.full(shape, -1), np.full(shape, -1)
    kind, stage, micro = order.kind, order.stage, order.micro
    at = np.arange(len(order))
    is_forward, is_backward = kind == F, (kind == B) | (kind == I)
    forward[stage[is_forward], micro[is_forward]] = at[is_forward]
    backward[stage[is_backward], micro[is_backward]] = at[is_backward]
    source = np.full(len(order), -1)
    deep = is_forward & (stage > 0)
    source[deep] = forward[stage[deep] - 1, micro[deep]]
    inner, outer = is_backward & (stage < last), is_backward & (stage == last)
    source[inner] = backward[stage[inner] + 1, micro[inner]]
    source[outer] = forward[last, micro[outer]]
    weights = kind == W
    source[weights] = backward[stage[weights], micro[weights]]
    own = np.where(is_backward, forward[stage, micro], source)  # a backward pass needs its own forward pass, too
    for needed in (own, source):
        early = np.flatnonzero((needed > at) & (order.rank[needed] == order.rank))
        if len(early):
            a = int(early[0])
            raise AthanorError(
                f"rank {order.rank[a]} waits for itself: {order.name(a)} comes before {order.name(int(needed[a]))}",
                where="pipeline order",
            )
    return source


def _previous(order: Order) -> Ints:
    """The action before each one on its rank, −1 for the first."""
    previous = np.arange(len(order)) - 1
    previous[order.offsets[:-1][np.diff(order.offsets) > 0]] = -1
    return previous


def _group_ends(order: Order) -> Ints:
    """The last action of each action's pair: what a pair has made is sent behind both."""
    return np.arange(len(order)) + order.joined


def _link_order(order: Order, producer: Ints, consumer: Ints, n: int) -> tuple[Ints, Ints]:
    """A directed link carries one message after the other, in the order they are sent."""
    link = order.rank[producer] * order.pp + order.rank[consumer]
    by_link = np.argsort(link, kind="stable")
    same = np.diff(link[by_link]) == 0
    return n + by_link[:-1][same], n + by_link[1:][same]


def _blocking_sends(order: Order, messages: Messages, leaves: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """The message each action needs delivered before it starts [N], and whether the action's own receive is posted
    together with that send (else behind it) [N].

    1F1B: from the first backward to the one behind the last forward a rank waits for the send of the action just done,
    paired with the receive; before and after, for the one before that. GPipe: no backward pass until all forward
    sends, so the last one, are delivered.
    """
    n = len(order)
    sent, paired = np.full(n, -1), np.zeros(n, dtype=bool)
    if messages not in ("blocking", "on_demand"):
        return sent, paired
    for r in range(order.pp):
        low, high = (int(x) for x in order.offsets[r : r + 2])
        forward = order.kind[low:high] == F
        if forward.all() or not forward.any():
            continue
        first_backward, last_forward = low + int(np.argmin(forward)), low + int(np.flatnonzero(forward)[-1])
        if messages == "on_demand":
            sent[first_backward] = leaves[first_backward - 1] if first_backward > low else -1
            continue
        paired[first_backward : last_forward + 2] = True
        at = np.arange(low, high)
        done = at - np.where(paired[low:high], 1, 2)
        sent[low:high] = np.where(done >= low, leaves[done], -1)
    return sent, paired


def _posted_after(order: Order, producer: Ints, consumer: Ints) -> Ints:
    """For each message the receiver's action behind which torch's runtime posts its receive, −1 for none [M].

    The runtime's list is made by sweeps over the ranks: each puts down its next action (or pair) if what it works on
    is there, and the receives of what it sends go to the end of the receivers' lists as they are (``_add_send_recv``).
    """
    n = len(order)
    takes, gives = np.full(n, -1), np.full(n, -1)
    takes[consumer] = gives[producer] = np.arange(len(producer))
    ends = _group_ends(order).tolist()
    waits, goes, receiver = takes.tolist(), gives.tolist(), order.rank[consumer].tolist()
    posted = [-1] * len(producer)
    put_down = [False] * len(producer)
    starts, stops = order.offsets[:-1].tolist(), order.offsets[1:].tolist()
    at, moved = list(starts), True
    while moved:
        moved = False
        for r, stop in enumerate(stops):
            first = at[r]
            if first == stop:
                continue
            group = range(first, ends[first] + 1)
            if not all(waits[a] < 0 or put_down[waits[a]] for a in group):
                continue
            at[r], moved = group.stop, True
            for a in group:
                message = goes[a]
                if message >= 0:
                    put_down[message] = True
                    q = receiver[message]
                    posted[message] = at[q] - 1 if at[q] > starts[q] else -1
    return np.array(posted, dtype=np.int64)


# --- the earliest times -----------------------------------------------------------------------------------------------


def earliest_starts(duration_s: Floats, before: Ints, after: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    """When each node starts at the earliest (seconds [nodes], float64), and which never do (bool [nodes]): those on a
    circle of waiting, and behind one. A duration may be negative: the next one then starts that much before the end.

    One pass over the graph in topological order (Kahn, Commun. ACM 5(11), 1962).
    """
    n = len(duration_s)
    by_source = np.argsort(before, kind="stable")
    targets = after[by_source].tolist()
    first = np.searchsorted(before[by_source], np.arange(n + 1)).tolist()
    missing = np.bincount(after, minlength=n).tolist()
    takes = duration_s.tolist()
    start = [0.0] * n
    ready = [node for node in range(n) if not missing[node]]
    while ready:
        node = ready.pop()
        end = start[node] + takes[node]
        for target in targets[first[node] : first[node + 1]]:
            if end > start[target]:
                start[target] = end
            missing[target] -= 1
            if not missing[target]:
                ready.append(target)
    return np.array(start), np.array(missing) > 0


def circle(graph: EventGraph, stuck: NDArray[np.bool_]) -> str:
    """A circle of actions that wait for each other, for a person: ``0B0 on rank 0 waits for 1B0 on rank 1, …``."""
    order, n = graph.order, len(graph.order)
    held = stuck[graph.before] & stuck[graph.after]
    waits_for = dict(zip(graph.after[held].tolist(), graph.before[held].tolist(), strict=True))
    node, seen = next(iter(waits_for)), []
    while node not in seen:
        seen.append(node)
        node = waits_for[node]
    nodes = [*seen[seen.index(node) :], node]
    actions = [a for a in nodes if a < n] or [int(graph.producer[m - n]) for m in nodes]
    if len(actions) < 2 or actions[0] != actions[-1]:
        actions.append(actions[0])
    told = [f"{order.name(a)} on rank {order.rank[a]}" for a in actions]
    return " waits for ".join(told)
