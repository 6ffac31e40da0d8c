"""Rows of a step in closed form, against a simulation that walks the steps one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyLoader

from athanor.errors import AthanorError
from athanor.recipe.schema import BatchStep
from athanor.train.sources import BatchPlan, PackedSource


def walk(seq_len, batch, ramp, steps):
    """(first row, rows) of each step: the batch is that of the last ramp entry whose tokens have been seen."""
    out, seen = [], 0
    for _ in range(steps):
        size = batch
        for entry in ramp:
            if seen >= entry.after_tokens:
                size = entry.global_batch_tokens
        out.append((seen // seq_len, size // seq_len))
        seen += size
    return out


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 6),
    sizes=st.lists(st.integers(1, 9), max_size=3),
    gaps=st.lists(st.integers(0, 400), min_size=3, max_size=3),
)
def test_plan_equals_a_walk(batch, sizes, gaps):
    after, ramp = 0, []
    for size, gap in zip(sizes, gaps, strict=False):
        after += gap + 9 * 16  # at least a batch further on
        ramp.append(BatchStep(after_tokens=after, global_batch_tokens=size * 16))
    plan = BatchPlan(16, batch * 16, ramp)
    expected = walk(16, batch * 16, ramp, 60)
    assert [plan.rows(step) for step in range(60)] == expected
    for tokens in (1, 16, 17, 500, 1000):
        first_enough = next((n for n, (row, _) in enumerate(walk(16, batch * 16, ramp, 200)) if row * 16 >= tokens))
        assert plan.steps_for(tokens) == first_enough


def test_ramp_from_the_first_token_replaces_the_batch():
    plan = BatchPlan(8, 8, [BatchStep(after_tokens=0, global_batch_tokens=32)])
    assert plan.rows(0) == (0, 4) and plan.rows(3) == (12, 4)


def test_batches_that_do_not_fit_rows_and_ramps_out_of_order_are_refused():
    with pytest.raises(AthanorError, match="8000 is not a multiple of seq_len 512") as caught:
        BatchPlan(512, 8000, where="train.stages.general")
    assert "8192" in str(caught.value) and "train.stages.general" in str(caught.value)
    ramp = [BatchStep(after_tokens=a, global_batch_tokens=16) for a in (160, 16)]
    with pytest.raises(AthanorError, match="batch_ramp"):
        BatchPlan(16, 16, ramp)


@pytest.mark.parametrize(("micro", "sizes"), [(None, [5]), (32, [2, 2, 1]), (16, [1] * 5), (1, [1] * 5), (999, [5])])
def test_micro_batches_hold_every_row_once(micro, sizes):
    loader = TinyLoader(16)
    source = PackedSource(loader, BatchPlan(16, 80), micro)
    batches = source.micro_batches(2, None)
    assert [len(batch.input_ids_BT) for batch in batches] == sizes
    assert torch.equal(torch.cat([b.input_ids_BT for b in batches]), loader.rows(10, 5).input_ids_BT)
    assert [lens for b in batches for lens in b.doc_lens] == loader.rows(10, 5).doc_lens
    assert source.position(2) == {"row": 10, "data": "tiny-0"}
