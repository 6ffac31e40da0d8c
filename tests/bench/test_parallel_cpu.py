"""The cost of the parallel engine is measured against peers that compute the same, and judged from its rows."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bench.common import Shape
from bench.hand_written import SplitTextbook, fused_qkv, weights_of
from bench.parallel_cpu import TOY, compare, first_weights, judge, require_equal_losses, rows_of
from bench.textbook import Textbook
from tests.parallel.ranks import PRELOAD

GROUPED = Shape("gqa", vocab=96, width=32, layers=2, heads=4, kv_heads=2, ffn=48, context=16, rows=3)


@pytest.mark.parametrize("shape", [TOY, GROUPED], ids=lambda shape: shape.name)
def test_the_peers_are_the_same_model(shape: Shape) -> None:
    decoder = first_weights(shape)
    batch = rows_of(shape, "tp", 0)[0]
    ids, labels = batch.input_ids_BT, batch.labels_BT
    expected = decoder.loss(ids, labels, batch.positions_BT, batch.doc_lens)[0] / batch.n_targets
    split, textbook = SplitTextbook(shape), Textbook(shape)
    split.load_state_dict(weights_of(decoder))
    textbook.load_state_dict(fused_qkv(weights_of(decoder)))
    torch.testing.assert_close(F.cross_entropy(split(ids).flatten(0, 1), labels.flatten()), expected)
    torch.testing.assert_close(textbook(ids, labels), expected)


def test_data_ranks_have_rows_of_their_own() -> None:
    rows = [rows_of(TOY, "fsdp2", rank)[i].input_ids_BT for rank in range(2) for i in range(2)]
    assert not any(torch.equal(a, b) for i, a in enumerate(rows) for b in rows[:i])
    assert torch.equal(rows_of(TOY, "tp", 0)[1].input_ids_BT, rows_of(TOY, "tp", 1)[1].input_ids_BT)


@pytest.mark.parametrize("layout", ["fsdp2", "tp"])
def test_both_sides_train_alike(layout: str) -> None:
    """The run itself compares the losses, step by step."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    ours, theirs = compare(layout, TOY, rounds=2, warmup=1, start="forkserver")
    assert ours["contender"] == "athanor" and theirs["contender"] == "hand-written"
    assert len(ours["steps_s"]) == len(theirs["steps_s"]) == 2
    assert ours["losses"][0] == pytest.approx(theirs["losses"][0], rel=1e-5)
    assert ours["losses"][1] < ours["losses"][0]


def test_other_work_is_no_comparison() -> None:
    with pytest.raises(RuntimeError, match="tp, step 1: losses differ"):
        require_equal_losses("tp", [2.0, 1.9], [2.0, 1.8])


def _row(layout: str, wall: list[float], cpu: list[float]) -> dict[str, Any]:
    return {"layout": layout, "steps_s": wall, "steps_cpu_s": cpu, "step_s": sorted(wall)[len(wall) // 2]}


def test_the_bar_follows_the_rounds() -> None:
    """The machine halves its speed in the third round: the ratio of each round stays what it is."""
    peer = _row("tp", [1.0, 1.0, 2.0], [1.0, 1.0, 1.0])
    slow, fast = _row("tp", [1.04, 1.04, 2.08], [1.0, 1.1, 1.2]), _row("tp", [1.02, 1.02, 2.04], [1.0, 1.0, 1.0])
    [bar] = judge([slow, peer])
    assert bar["ratio"] == pytest.approx(1.04) and not bar["met"] and bar["cpu_ratio"] == pytest.approx(1.1)
    assert judge([fast, peer])[0]["met"]
