"""A trace is what Perfetto reads: whole, in order, and its slices add up to the timeline."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from athanor.errors import AthanorError
from athanor.parallel.plan import ScheduleName
from athanor.plan.timeline import PipelineWork, Timeline, simulate
from athanor.plan.trace import COLLECTIVES, COMPUTE, EXPOSED, LINKS, write_trace


def example(schedule: ScheduleName = "zbv", pp: int = 3, vpp: int = 2, n: int = 7) -> Timeline:
    random = np.random.default_rng(0)
    forward_s, input_s, weight_s = random.uniform(1e-3, 2e-3, (3, pp * vpp))
    return simulate(
        PipelineWork(
            schedule,
            pp,
            vpp,
            n,
            forward_s=forward_s,
            backward_input_s=input_s,
            backward_weight_s=weight_s,
            forward_comm_s=1e-4,
            p2p_s=2e-4,
            gather_s=1e-3,
            gather_hidden_s=5e-4,
            reduce_s=2e-3,
            reduce_hidden_s=1e-3,
            activation_bytes=random.integers(1, 2**30, pp * vpp),
            static_bytes=2**31,
        )
    )


def written(line: Timeline, path: Path) -> list[dict[str, Any]]:
    document = json.loads(write_trace(line, path).read_text())
    assert set(document) == {"displayTimeUnit", "traceEvents"}
    events: list[dict[str, Any]] = document["traceEvents"]
    return events


def of(events: list[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == phase]


@pytest.mark.parametrize("schedule", ["interleaved_1f1b", "zbv", "dualpipev"])
def test_slices_follow_each_other_and_add_up(schedule: ScheduleName, tmp_path: Path) -> None:
    line = example(schedule, n=6)
    events = written(line, tmp_path / "trace.json")
    lanes: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for event in of(events, "X"):
        assert event["ts"] >= 0 and event["dur"] >= 0 and event["name"]
        lanes[event["pid"], event["tid"]].append(event)
    for lane in lanes.values():  # in order, and none over another: each begins where the one before has ended
        for before, after in zip(lane[:-1], lane[1:], strict=True):
            assert before["ts"] + before["dur"] <= after["ts"] + 2e-3
    for rank in range(line.order.pp):
        busy_us = sum(event["dur"] for event in lanes[rank, COMPUTE])
        assert busy_us == pytest.approx(1e6 * line.busy_s[rank], abs=0.002 * len(lanes[rank, COMPUTE]))
        exposed_us = sum(event["dur"] for event in lanes[rank, EXPOSED])
        assert exposed_us == pytest.approx(1e6 * line.exposed_collective_s[rank], abs=0.1)
        assert len(lanes[rank, COLLECTIVES]) == 2 * 2  # a gather and a reduction for each of two stages
    sent = sum(len(lane) for (_, tid), lane in lanes.items() if tid >= LINKS)
    assert sent == len(line.transfers.producer) > 0
    assert max(e["ts"] + e["dur"] for e in of(events, "X")) == pytest.approx(1e6 * line.wall_s, abs=0.01)


def test_lanes_and_ranks_are_named(tmp_path: Path) -> None:
    events = written(example(), tmp_path / "trace.json")
    used = {(event["pid"], event["tid"]) for event in of(events, "X")}
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in of(events, "M") if e["name"] == "thread_name"}
    assert used == set(named)
    assert named[1, LINKS + 2] == "send to rank 2"
    ranks = {e["pid"]: e["args"]["name"] for e in of(events, "M") if e["name"] == "process_name"}
    assert ranks == {0: "rank 0 (stages 0, 5)", 1: "rank 1 (stages 1, 4)", 2: "rank 2 (stages 2, 3)"}


def test_every_arrow_goes_from_a_slice_to_a_later_one(tmp_path: Path) -> None:
    line = example()
    events = written(line, tmp_path / "trace.json")
    starts, ends = ({e["id"]: e for e in of(events, phase)} for phase in "sf")
    assert set(starts) == set(ends) and len(starts) == len(of(events, "s")) > 0
    slices = [e for e in of(events, "X") if e["tid"] == COMPUTE]
    for key, start in starts.items():
        end = ends[key]
        inside = [
            [s for s in slices if s["pid"] == e["pid"] and s["ts"] < e["ts"] < s["ts"] + s["dur"]] for e in (start, end)
        ]
        (made,), (taken,) = inside
        assert start["ts"] < end["ts"] and start["pid"] != end["pid"] and end["bp"] == "e"
        hop = taken["args"]["stage"] - made["args"]["stage"]
        assert abs(hop) == 1 and made["args"]["micro_batch"] == taken["args"]["micro_batch"]


def test_counter_is_the_memory(tmp_path: Path) -> None:
    line = example()
    events = of(written(line, tmp_path / "trace.json"), "C")
    for rank in range(line.order.pp):
        counter = [e for e in events if e["pid"] == rank]
        times = [e["ts"] for e in counter]
        assert times == sorted(set(times))
        assert max(e["args"]["bytes"] for e in counter) == line.peak_bytes[rank]
        assert counter[0]["args"]["bytes"] >= counter[-1]["args"]["bytes"] == 2**31


def test_compressed_is_the_same(tmp_path: Path) -> None:
    line = example()
    plain, packed = write_trace(line, tmp_path / "a.json"), write_trace(line, tmp_path / "a.json.gz")
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert packed.stat().st_size < plain.stat().st_size / 4


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AthanorError, match="cannot write the trace"):
        write_trace(example(), tmp_path / "file" / "trace.json")
