"""The bars of memory: state and gradients over N, activations by the formulas' factors, on the real step's storages."""

from __future__ import annotations

import copy

import pytest

from bench.common import Shape
from bench.parallel_memory import ACTIVATIONS, measure, misses

SMALL = Shape("small", vocab=128, width=64, layers=2, heads=8, kv_heads=8, ffn=176, context=256, rows=1)
#: the other recompute choices are measured byte by byte in tests/parallel/test_recompute.py
CASES = ("one rank", "tp 4", "tp 2 + sp", "cp 2", "cp 4", "tp 2 + sp, cp 2", "full", "every 2nd block", "norms")
CASES += ("tp 2 + sp, full, communication saved", "tp 2 + sp, gathers again")


@pytest.fixture(scope="module")
def result():
    return measure(SMALL, cases=[case for case in ACTIVATIONS if case[0] in CASES])


def test_every_bar_is_met(result) -> None:
    assert [(row["ranks"], row["zero"]) for row in result["zero"]] == [(n, z) for n in (2, 4, 8) for z in range(4)]
    assert [row["what"] for row in result["activations"]] == [case[0] for case in ACTIVATIONS if case[0] in CASES]
    assert misses(result) == []


def test_levels_differ_where_they_should(result) -> None:
    """Below ZeRO-2 gradients are whole while micro-batches add up; below ZeRO-3 all parameters are gathered."""
    for n in (2, 4, 8):
        zero = {row["zero"]: row for row in result["zero"] if row["ranks"] == n}
        assert zero[1]["gradient_peak_bytes"] == n * zero[2]["gradient_peak_bytes"]
        assert zero[2]["gathered_bytes"] > zero[3]["gathered_bytes"]
        assert zero[0]["state_bytes"] == pytest.approx(n * zero[1]["state_bytes"], rel=0.005)


def test_a_rank_that_keeps_too_much_is_named(result) -> None:
    wrong = copy.deepcopy(result)
    wrong["zero"][3]["state_bytes"] *= 1.1
    wrong["activations"][1]["factor"] = 1.0
    assert [line.split(":")[0] for line in misses(wrong)] == ["ZeRO-3, 2 ranks", "tp 4"]
