"""A plan that cannot be laid out is refused before the first step, with every problem and what would be right."""

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig, MoEConfig
from athanor.parallel.checks import check_plan, layers_per_stage, micro_batches, resolve_plan
from athanor.parallel.plan import ParallelPlan
from athanor.recipe import Recipe, dump, load_text

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
MOE = MoEConfig(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24)


def check(sizes, shape=None, **batch):
    plan = ParallelPlan(**sizes)
    batch = {"seq_len": 64, "global_batch_tokens": 64 * 16, "micro_batch_tokens": 128, **batch}
    check_plan(plan, ModelConfig(**{**SHAPE, **(shape or {})}), **{"world_size": plan.world_size, **batch})


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, {}),
        ({"dp_shard": 2, "tp": 2, "pp": 2}, {}),
        ({"tp": 4}, {}),  # each of two KV heads on two ranks
        ({"tp": 3, "sp": False}, {"num_key_value_heads": 3}),
        ({"cp": 4, "tp": 2}, {}),
        ({"cp": 4, "cp_split": "sequence"}, {}),
        ({"pp": 4, "vpp": 1, "layers_per_stage": (0, 3, 3, 0)}, {}),
        ({"pp": 2, "vpp": 3, "schedule": "interleaved_1f1b"}, {}),
        ({"pp": 2, "vpp": 2, "schedule": "zbv"}, {}),
        ({"pp": 2, "vpp": 2, "schedule": "dualpipev"}, {}),
        ({"dp_shard": 2, "ep": 2}, {"moe": MOE}),
        ({"cp": 2, "dp_replicate": 2, "ep": 2}, {"moe": MOE}),
        ({"copies": 2, "tp": 2}, {}),
        ({}, {"sliding_window": 8}),
    ],
)
def test_plans_that_fit(sizes, shape):
    check(sizes, shape)


BAD = {
    "product": ({"tp": 2}, {}, {"world_size": 3}, "parallel: the plan needs 2 ranks (dp_replicate 1 · dp_shard 1 · "),
    "heads": ({"tp": 8, "sp": False}, {}, {}, "parallel.tp: num_attention_heads 12 is not divisible by tp 8\n  → tp 1"),
    "kv heads": ({"tp": 3, "sp": False}, {}, {}, "parallel.tp: tp 3 neither divides num_key_value_heads 2 nor is a"),
    "hidden": ({"tp": 4}, {"hidden_size": 90, "head_dim": 8}, {}, "hidden_size 90 is not divisible by tp 4\n  → tp 1"),
    "ffn": (
        {"tp": 4},
        {"intermediate_size": 90},
        {},
        "tp 1, 2, 3, 5, 6, 9, 10, 15 or …, or model.intermediate_size=92",
    ),
    "expert ffn": (
        {"tp": 2},
        {"moe": MOE.model_copy(update={"moe_intermediate_size": 25})},
        {},
        "model.moe.moe_intermediate_size=26",
    ),
    "vocabulary": ({"tp": 2}, {"vocab_size": 97}, {}, "→ model.vocab_size=98: rows beyond the tokenizer's tokens"),
    "no experts": ({"dp_shard": 2, "ep": 2}, {}, {}, "parallel.ep: ep 2, but the model has no experts"),
    "experts": ({"dp_shard": 4, "ep": 4}, {"moe": MOE}, {}, "6 experts are not divisible by ep 4\n  → ep 1 or 2"),
    "ep over": ({"tp": 2, "ep": 2}, {"moe": MOE}, {}, "ep 2 does not divide dp_shard · cp = 1"),
    "1f1b vpp": (
        {"pp": 2, "vpp": 2},
        {},
        {},
        "parallel.vpp: schedule 1f1b needs vpp 1, not 2\n  → parallel.vpp=1, or ",
    ),
    "gpipe vpp": ({"pp": 2, "vpp": 2, "schedule": "gpipe"}, {}, {}, "schedule gpipe needs vpp 1, not 2"),
    "zbv vpp": (
        {"pp": 2, "vpp": 1, "schedule": "zbv"},
        {},
        {},
        "needs vpp 2, not 1\n  → parallel.vpp=2, or parallel.s",
    ),
    "dualpipev vpp": ({"pp": 2, "vpp": 3, "schedule": "dualpipev"}, {}, {}, "schedule dualpipev needs vpp 2, not 3"),
    "interleaved vpp": ({"pp": 2, "schedule": "interleaved_1f1b"}, {}, {}, "needs vpp 2 or more, not 1"),
    "vpp alone": ({"vpp": 2}, {}, {}, "parallel.vpp: vpp 2 without a pipeline (pp 1)"),
    "stages": ({"pp": 8}, {}, {}, "parallel.pp: pp 8 · vpp 1 = 8 stages for 6 layers\n  → at most 6 stages"),
    "split length": ({"pp": 2, "layers_per_stage": (2, 2, 2)}, {}, {}, "3 numbers for pp 2 · vpp 1 = 2 stages"),
    "split sum": ({"pp": 2, "layers_per_stage": (2, 3)}, {}, {}, "have 5 layers together, the model has 6"),
    "split hole": ({"pp": 3, "layers_per_stage": (3, 0, 3)}, {}, {}, "stage 1 has 0 layers\n  → 1 or more; 0 only in"),
    "split negative": ({"pp": 2, "layers_per_stage": (-1, 7)}, {}, {}, "stage 0 has -1 layers"),
    "sequence sp": ({"tp": 4}, {}, {"seq_len": 66, "global_batch_tokens": 66}, "seq_len 66 is not divisible by tp 4"),
    "sequence cp sp": (
        {"tp": 4, "cp": 2},
        {},
        {"seq_len": 4, "global_batch_tokens": 64},
        "seq_len 4 / cp 2 = 2 is not",
    ),
    "document cp": ({"cp": 2}, {}, {"seq_len": 65, "global_batch_tokens": 65}, "65 is not divisible by cp = 2"),
    "sequence cp": (
        {"cp": 2, "cp_split": "sequence"},
        {},
        {"seq_len": 66, "global_batch_tokens": 66},
        "parallel.cp: seq_len 66 is not divisible by 2 · cp = 4\n  → for example seq_len 68",
    ),
    "rows": ({}, {}, {"global_batch_tokens": 100}, "100 is not a multiple of seq_len 64\n  → for example 128"),
    "data ranks": (
        {"dp_shard": 2},
        {},
        {"global_batch_tokens": 64 * 6},
        "384 = 6 rows over dp 2 in micro-batches of 2 rows is not a whole number of micro-batches\n"
        "  → for example 512, a multiple of 256",
    ),
    "one share": ({"dp_shard": 4}, {}, {"global_batch_tokens": 384, "micro_batch_tokens": None}, "for example 512"),
    "few micro-batches": (
        {"pp": 4},
        {},
        {"global_batch_tokens": 64 * 4},
        "parallel.pp: 2 micro-batches a step, schedule 1f1b over pp 4 needs at least 4\n"
        "  → micro_batch_tokens=64, or global_batch_tokens=512",
    ),
    "no micro-batches": (
        {"pp": 2},
        {},
        {"micro_batch_tokens": None},
        "1 micro-batches a step, schedule 1f1b over pp 2",
    ),
    "interleaved": (
        {"pp": 2, "vpp": 2, "schedule": "interleaved_1f1b"},
        {},
        {"global_batch_tokens": 64 * 6},
        "3 micro-batches a step, schedule interleaved_1f1b over pp 2 needs a multiple of pp 2",
    ),
    "dualpipev": (
        {"pp": 2, "vpp": 2, "schedule": "dualpipev"},
        {},
        {"global_batch_tokens": 64 * 6},
        "3 micro-batches a step, schedule dualpipev over pp 2 needs at least 4",
    ),
    "copies": (
        {"copies": 2},
        {},
        {"micro_batch_tokens": 64},
        "parallel.copies: micro-batches of 1 rows cannot be halved",
    ),
    "copies at the end": (
        {"copies": 2},
        {},
        {"global_batch_tokens": 64 * 3},
        "micro-batches of 1 rows cannot be halved",
    ),
    "window": ({"cp": 2}, {"sliding_window": 8}, {}, "parallel.cp: cp 2 with a sliding window (8)"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_problem_is_named_alone(name):
    sizes, shape, batch, says = BAD[name]
    with pytest.raises(AthanorError) as caught:
        check(sizes, shape, **batch)
    assert says in str(caught.value)
    assert caught.value.fix, "it says what would be right"
    assert "problems" not in str(caught.value)


def test_all_problems_in_one_message():
    with pytest.raises(AthanorError) as caught:
        check(
            {"tp": 5, "pp": 9, "cp": 2, "ep": 4, "vpp": 2, "copies": 2},
            {"sliding_window": 4},
            world_size=8,
            seq_len=63,
            global_batch_tokens=63 * 2,
            micro_batch_tokens=63,
        )
    text = str(caught.value)
    keys = ("parallel", "parallel.tp", "parallel.ep", "parallel.vpp", "parallel.pp", "parallel.cp", "parallel.copies")
    assert all(f"\n{key}: " in text for key in keys), text
    count = int(text.split("the plan has ")[1].split()[0])
    assert count == text.count("\n  → ") >= 12


def test_a_suggested_fix_is_one():
    """What the messages propose is accepted."""
    check({"pp": 4}, global_batch_tokens=256, micro_batch_tokens=64)
    check({"pp": 4}, global_batch_tokens=512)
    check({"dp_shard": 2}, global_batch_tokens=512)
    check({"tp": 2}, {"vocab_size": 98})
    check({"cp": 2, "cp_split": "sequence"}, seq_len=68, global_batch_tokens=68)
    check({"dp_shard": 4, "ep": 2}, {"moe": MOE})


def test_94_layers_on_8_by_6():
    split = layers_per_stage(ParallelPlan(pp=8, vpp=6, schedule="interleaved_1f1b"), 94)
    assert split == (1, *[2] * 46, 1)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 60))
def test_the_default_split_is_even_and_light_at_the_ends(pp, vpp, more):
    n_layers = pp * vpp + more
    split = layers_per_stage(ParallelPlan(pp=pp, vpp=vpp), n_layers)
    assert sum(split) == n_layers and len(split) == pp * vpp and min(split) >= 1
    assert max(split) - min(split) <= 1
    # from the ends inwards: no stage in the middle has fewer than one further out, and the head counts most
    middle = len(split) // 2
    left, right = list(split[:middle]), list(split[middle:])
    assert left == sorted(left) and right == sorted(right, reverse=True)
    assert split[-1] <= split[0] <= split[-1] + 1


def test_a_given_split_is_taken_and_checked():
    assert layers_per_stage(ParallelPlan(pp=3, layers_per_stage=(0, 6, 0)), 6) == (0, 6, 0)
    with pytest.raises(AthanorError, match="5 layers together, the model has 6"):
        layers_per_stage(ParallelPlan(pp=2, layers_per_stage=(2, 3)), 6)
    with pytest.raises(AthanorError, match="3 stages for 2 layers"):
        layers_per_stage(ParallelPlan(pp=3), 2)


def test_micro_batches_are_counted_by_data_rank():
    batch = {"seq_len": 64, "global_batch_tokens": 64 * 16}
    assert micro_batches(ParallelPlan(dp_shard=2), **batch, micro_batch_tokens=128) == (4, 2)
    assert micro_batches(ParallelPlan(dp_shard=2, tp=2), **batch, micro_batch_tokens=None) == (1, 8)
    assert micro_batches(ParallelPlan(), **batch, micro_batch_tokens=64 * 6) == (3, 6)  # the last of 4 rows
    assert micro_batches(ParallelPlan(), **batch, micro_batch_tokens=10) == (16, 1)


def test_plans_of_a_recipe():
    assert resolve_plan(Recipe(parallel="auto"), 4) == ParallelPlan(dp_shard=4)
    assert resolve_plan(Recipe(), 4) == ParallelPlan(dp_shard=4)
    assert resolve_plan(load_text(dump(Recipe(name="x"))), 4) == ParallelPlan(dp_shard=4)  # defaults written out
    assert resolve_plan(load_text("parallel: {zero: 1, copies: 2}"), 4) == ParallelPlan(dp_shard=4, zero=1, copies=2)
    assert resolve_plan(Recipe(), 1) == ParallelPlan()
    assert resolve_plan(Recipe(parallel=ParallelPlan(tp=2, pp=2)), 4) == ParallelPlan(tp=2, pp=2)
    with pytest.raises(AthanorError, match="needs 2 ranks .* tp 2\\), 1 was started\n  → start 2 .*--nproc 2"):
        resolve_plan(load_text("parallel: {tp: 2}"), 1)
    with pytest.raises(AthanorError, match="needs 2 ranks .* 4 were started"):
        resolve_plan(load_text("parallel: {tp: 2}"), 4)


def test_the_whole_set_of_axes_at_8():
    """Every way to write 8 = dp · cp · pp · tp passes for a model whose sizes are powers of two."""
    shape = {"hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 8}
    for sizes in itertools.product((1, 2, 4, 8), repeat=4):
        if sizes[0] * sizes[1] * sizes[2] * sizes[3] == 8:
            check(dict(zip(("dp_shard", "cp", "pp", "tp"), sizes, strict=True)), shape, global_batch_tokens=64 * 64)


def test_checking_needs_no_torch():
    code = "import sys, athanor.parallel.checks; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
