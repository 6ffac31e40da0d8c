"""A simulated step as a Chrome trace, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

Format: "Trace Event Format", JSON object form: a process for each rank; lanes for computation, collectives and each
link the rank sends on; a counter of the memory it holds; an arrow for every message. Times in microseconds.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from athanor.errors import AthanorError
from athanor.files import atomic_path
from athanor.plan.schedules import LETTERS
from athanor.plan.timeline import Timeline

COMPUTE, EXPOSED, COLLECTIVES, LINKS = 0, 1, 2, 3  #: lanes (``tid``); a link to rank r is lane LINKS + r
NAMES = {"F": "forward", "B": "backward", "I": "backward of input", "W": "backward of weights"}
#: reserved colour names of the trace viewer (Perfetto takes its own)
COLORS = {"F": "thread_state_running", "B": "rail_animation", "I": "rail_response", "W": "rail_idle"}

Event = dict[str, Any]


def write_trace(line: Timeline, path: Path | str) -> Path:
    """Write ``line`` event by event; a name that ends in .gz is compressed (Perfetto opens that, too).

    Written to a temporary name, then renamed. AthanorError where the file cannot be written.
    """
    path = Path(path)
    try:
        with atomic_path(path) as part:
            open_text: Callable[[Path, str], Any] = gzip.open if path.suffix == ".gz" else open
            with open_text(part, "wt") as file:  # all ASCII: JSON escapes the rest
                file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
                for i, event in enumerate(events(line)):
                    file.write((",\n" if i else "") + json.dumps(event, separators=(",", ":")))
                file.write("\n]}\n")
    except OSError as error:
        raise AthanorError(f"cannot write the trace ({error.strerror})", where=str(path)) from error
    return path


def events(line: Timeline) -> Iterator[Event]:
    """The trace's events, rank by rank; inside a lane by time."""
    for rank in range(line.order.pp):
        yield from _names(line, rank)
        yield from _actions(line, rank)
        yield from _collectives(line, rank)
        yield from _memory(line, rank)
    yield from _messages(line)


def _names(line: Timeline, rank: int) -> Iterator[Event]:
    order = line.order
    stages = ", ".join(str(s) for s, at in enumerate(order.place.tolist()) if at == rank)
    yield _meta(rank, 0, "process_name", name=f"rank {rank} (stages {stages})")
    yield _meta(rank, 0, "process_sort_index", sort_index=rank)
    sends = order.rank[line.transfers.producer] == rank
    receivers = sorted(set(order.rank[line.transfers.consumer[sends]].tolist()))
    lanes = {COMPUTE: "compute"}
    if line.comm_s.any():
        lanes[EXPOSED] = "exposed collectives"
    if (line.collectives.rank == rank).any():
        lanes[COLLECTIVES] = "data-parallel collectives"
    lanes |= {LINKS + r: f"send to rank {r}" for r in receivers}
    for lane, name in lanes.items():
        yield _meta(rank, lane, "thread_name", name=name)
        yield _meta(rank, lane, "thread_sort_index", sort_index=lane)


def _meta(rank: int, lane: int, what: str, **args: Any) -> Event:
    return {"ph": "M", "pid": rank, "tid": lane, "name": what, "args": args}


def _slice(rank: int, lane: int, name: str, start_s: float, end_s: float, **more: Any) -> Event:
    """A slice. Both ends are rounded, so that two that touch still do."""
    ts, end = _us(start_s), _us(end_s)
    return {"ph": "X", "pid": rank, "tid": lane, "name": name, "ts": ts, "dur": round(end - ts, 3), **more}


def _us(seconds: float) -> float:
    """Microseconds, to the nanosecond."""
    return round(1e6 * seconds, 3)


def _actions(line: Timeline, rank: int) -> Iterator[Event]:
    """Every action; the collectives that it does not hide, of unknown place inside it, are drawn at its end."""
    order = line.order
    span = slice(*order.offsets[rank : rank + 2].tolist())
    columns = (order.kind, order.stage, order.micro, line.start_s, line.end_s, line.comm_s)
    for kind, stage, micro, start_s, end_s, comm_s in zip(*(c[span].tolist() for c in columns), strict=True):
        letter = LETTERS[kind]
        args = {"stage": stage, "micro_batch": micro}
        name = f"{stage}{letter}{micro}"
        yield _slice(rank, COMPUTE, name, start_s, end_s, cat=NAMES[letter], cname=COLORS[letter], args=args)
        if comm_s:
            yield _slice(rank, EXPOSED, f"collectives of {name}", end_s - comm_s, end_s, cat="collective", args=args)


def _collectives(line: Timeline, rank: int) -> Iterator[Event]:
    found = line.collectives
    rows = zip(found.start_s, found.end_s, found.gather, found.stage, found.rank, strict=True)
    for start_s, end_s, gather, stage, at in sorted(rows, key=lambda row: (row[0], row[1])):
        if at == rank:
            name = f"{'gather parameters' if gather else 'reduce gradients'} of stage {stage}"
            args = {"stage": int(stage)}
            yield _slice(rank, COLLECTIVES, name, float(start_s), float(end_s), cat="collective", args=args)


def _memory(line: Timeline, rank: int) -> Iterator[Event]:
    """The counter at each change. Of changes at one time only the last is written, but a peak is never lost: what is
    taken at a moment is given back later."""
    seconds, held = line.memory(rank)
    last: float | None = None
    for i, (time_s, nbytes) in enumerate(zip(seconds.tolist(), held.tolist(), strict=True)):
        if nbytes == last or (i + 1 < len(seconds) and seconds[i + 1] == time_s):
            continue
        last = nbytes
        args = {"bytes": nbytes}
        yield {"ph": "C", "pid": rank, "tid": COMPUTE, "name": "memory", "ts": _us(time_s), "args": args}


def _messages(line: Timeline) -> Iterator[Event]:
    """A slice on the sender's link and an arrow from the action that made it to the one that takes it in."""
    order, moved = line.order, line.transfers
    by_link = sorted(range(len(moved.producer)), key=lambda m: (int(order.rank[moved.producer[m]]), moved.start_s[m]))
    start_s, end_s = line.start_s.tolist(), line.end_s.tolist()
    for message in by_link:
        made, taken = int(moved.producer[message]), int(moved.consumer[message])
        sender, receiver = int(order.rank[made]), int(order.rank[taken])
        name = f"{order.name(made)} to rank {receiver}"
        begin_s, arrive_s = float(moved.start_s[message]), float(moved.end_s[message])
        args = {"from": order.name(made), "for": order.name(taken)}
        if arrive_s > begin_s:
            yield _slice(sender, LINKS + receiver, name, begin_s, arrive_s, cat="p2p", args=args)
        if end_s[made] > start_s[made] and end_s[taken] > start_s[taken]:  # an arrow needs a slice at both ends
            arrow = {"cat": "p2p", "name": "message", "id": message, "tid": COMPUTE}
            leaves, lands = _inside(start_s[made], end_s[made], 0.999), _inside(start_s[taken], end_s[taken], 0.001)
            yield {"ph": "s", "pid": sender, "ts": leaves, **arrow}
            yield {"ph": "f", "bp": "e", "pid": receiver, "ts": lands, **arrow}


def _inside(start_s: float, end_s: float, share: float) -> float:
    return _us(start_s + share * (end_s - start_s))
