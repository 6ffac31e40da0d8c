"""Whether a plan can be laid over these ranks, this model and this batch: every problem, with what would be right.

Nothing here imports torch: a plan is checked before the first rank does any work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, Protocol

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.parallel.plan import ParallelPlan, ScheduleName

#: The sizes whose product is the number of ranks.
SIZES = ("dp_replicate", "dp_shard", "cp", "pp", "tp")
#: Virtual stages a rank that a schedule wants: (at least, at most or None).
_VIRTUAL: dict[ScheduleName, tuple[int, int | None]] = {
    "gpipe": (1, 1),
    "1f1b": (1, 1),
    "interleaved_1f1b": (2, None),
    "zbv": (2, 2),
    "dualpipev": (2, 2),
}


class HasLayout(Protocol):
    """A recipe, or anything else with its key ``parallel``."""

    @property
    def parallel(self) -> ParallelPlan | Literal["auto"]: ...


def resolve_plan(recipe: HasLayout, world_size: int) -> ParallelPlan:
    """The plan of a recipe on ``world_size`` ranks.

    ``auto`` gives ZeRO-3 over all of them (stages of training have settled it before by the planner:
    ``athanor.train.planned``); a plan whose sizes are all 1 (as when the recipe says nothing) keeps its
    other settings and has ``dp_shard`` filled; any other plan must need exactly these ranks, else AthanorError.
    """
    if recipe.parallel == "auto":
        return ParallelPlan(dp_shard=world_size, zero=3)
    plan = recipe.parallel
    # By value, not by which keys were written: a recipe printed with its defaults must run as the short one did.
    if plan.world_size == 1:
        return plan.model_copy(update={"dp_shard": world_size})
    _raise(list(_product(plan, world_size)))
    return plan


def layers_per_stage(plan: ParallelPlan, n_layers: int) -> tuple[int, ...]:
    """How many blocks each of the pp · vpp stages has, in model order (their sum is ``n_layers``).

    Without a split in the plan: as even as possible. Where not all stages can have the same number, those that have
    one block fewer are the last and the first (they also hold head and embedding), then their neighbours inwards:
    94 layers on 48 stages are 1, 46 × 2, 1. AthanorError for a split that does not fit the model.
    """
    _raise(list(_split(plan, n_layers)))
    if plan.layers_per_stage is not None:
        return plan.layers_per_stage
    more = -(-n_layers // plan.stages)
    counts = [more] * plan.stages
    for i in range(more * plan.stages - n_layers):
        counts[-1 - i // 2 if i % 2 == 0 else i // 2] -= 1
    return tuple(counts)


def micro_batches(
    plan: ParallelPlan, *, seq_len: int, global_batch_tokens: int, micro_batch_tokens: int | None
) -> tuple[int, int]:
    """(micro-batches of a data rank in one step, rows of each). The last one may be shorter where dp = pp = 1.

    ``micro_batch_tokens``: of one rank, rounded down to whole rows (at least one); None: its whole share at once.
    AthanorError where the rows do not divide over data ranks and micro-batches, or are too few for the pipeline.
    """
    _raise(list(_batch(plan, seq_len, global_batch_tokens, micro_batch_tokens)))
    local = global_batch_tokens // seq_len // plan.dp
    rows = local if micro_batch_tokens is None else max(1, micro_batch_tokens // seq_len)
    return -(-local // rows), rows


def fill_rows(plan: ParallelPlan, n_rows: int, most_rows: int | None) -> tuple[int, int]:
    """(micro-batches over all data ranks, rows of each) for a step of any number of rows, as when rollouts make it.

    The two multiply to at least ``n_rows``; what is more must be filled with rows without labels. Every data rank has
    as many micro-batches, and as many as the pipeline's schedule wants; none has more than ``most_rows`` rows (None:
    as many as come), rounded up to the plan's ``copies``.
    """
    least, every = _least_and_every(plan)
    rows = -(-n_rows // (plan.dp * least))
    rows = _up(max(1, rows if most_rows is None else min(rows, most_rows)), plan.copies)
    return _up(max(least, -(-n_rows // (plan.dp * rows))), every) * plan.dp, rows


def check_plan(
    plan: ParallelPlan,
    config: ModelConfig,
    *,
    world_size: int,
    seq_len: int | None = None,
    global_batch_tokens: int | None = None,
    micro_batch_tokens: int | None = None,
) -> None:
    """Raise one AthanorError with all that is wrong with ``plan``, each with its key and what would be right.

    ``seq_len``: positions of a row (None: there is no training, as when decoding); ``global_batch_tokens``: of a step
    over all ranks (None: each step has its own, see ``fill_rows``), ``micro_batch_tokens``: of one forward pass of one
    rank (None: its whole share). Call it for every stage of training: lengths and batches change.
    """
    problems = [
        *_product(plan, world_size),
        *_tensor(plan, config),
        *_experts(plan, config),
        *_schedule(plan),
        *_split(plan, config.num_hidden_layers),
    ]
    if seq_len is not None:
        problems += _sequence(plan, config, seq_len)
    if seq_len is not None and global_batch_tokens is not None:
        problems += _batch(plan, seq_len, global_batch_tokens, micro_batch_tokens)
    _raise(problems)


def _raise(problems: list[AthanorError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        listed = "\n".join(str(problem) for problem in problems)
        raise AthanorError(f"the plan has {len(problems)} problems:\n{listed}")


def _product(plan: ParallelPlan, world_size: int) -> Iterator[AthanorError]:
    if plan.world_size != world_size:
        parts = " · ".join(f"{name} {getattr(plan, name)}" for name in SIZES)
        yield AthanorError(
            f"the plan needs {plan.world_size} ranks ({parts}), {world_size} {_were(world_size)} started",
            where="parallel",
            fix=f"start {plan.world_size} (athanor launch --nproc {plan.world_size} -- …), or sizes whose product is "
            f"{world_size}",
        )


def _were(n: int) -> str:
    return "was" if n == 1 else "were"


# --- the model's sizes -----------------------------------------------------------------------------------------------


def _tensor(plan: ParallelPlan, config: ModelConfig) -> Iterator[AthanorError]:
    tp, heads, kv = plan.tp, config.num_attention_heads, config.num_key_value_heads
    if tp == 1:
        return
    if heads % tp:
        yield _tp(f"num_attention_heads {heads} is not divisible by tp {tp}", f"tp {_listed(_divisors(heads))}")
    if kv % tp and tp % kv:
        good = [n for n in _divisors(heads) if kv % n == 0 or n % kv == 0]
        yield _tp(
            f"tp {tp} neither divides num_key_value_heads {kv} nor is a multiple of it",
            f"tp {_listed(good)}: key-value heads are shared out, or each is held by several ranks",
        )
    if config.hidden_size % tp:
        yield _multiple("hidden_size", config.hidden_size, tp)
    dense = config.moe is None or config.moe.first_k_dense > 0
    if dense and config.intermediate_size % tp:
        yield _multiple("intermediate_size", config.intermediate_size, tp)
    if config.moe is not None and config.moe.moe_intermediate_size % tp:
        yield _multiple("moe.moe_intermediate_size", config.moe.moe_intermediate_size, tp)
    if config.vocab_size % tp:
        padded = _up(config.vocab_size, tp)
        yield _tp(
            f"vocab_size {config.vocab_size} is not divisible by tp {tp}",
            f"model.vocab_size={padded}: rows beyond the tokenizer's tokens are padding",
        )


def _tp(what: str, fix: str) -> AthanorError:
    return AthanorError(what, where="parallel.tp", fix=fix)


def _multiple(name: str, size: int, tp: int) -> AthanorError:
    return _tp(
        f"{name} {size} is not divisible by tp {tp}",
        f"tp {_listed(_divisors(size))}, or model.{name}={_up(size, tp)}",
    )


def _experts(plan: ParallelPlan, config: ModelConfig) -> Iterator[AthanorError]:
    ep, spread = plan.ep, plan.dp_shard * plan.cp
    if ep == 1:
        return
    if config.moe is None:
        yield AthanorError(f"ep {ep}, but the model has no experts", where="parallel.ep", fix="parallel.ep=1")
    elif config.moe.num_experts % ep:
        n = config.moe.num_experts
        good = _listed([d for d in _divisors(n) if spread % d == 0])
        yield AthanorError(f"{n} experts are not divisible by ep {ep}", where="parallel.ep", fix=f"ep {good}")
    if spread % ep:
        yield AthanorError(
            f"ep {ep} does not divide dp_shard · cp = {spread}, the ranks that experts are folded over",
            where="parallel.ep",
            fix=f"ep {_listed(_divisors(spread))}",
        )


# --- the pipeline ----------------------------------------------------------------------------------------------------


def _schedule(plan: ParallelPlan) -> Iterator[AthanorError]:
    if plan.pp == 1:
        if plan.vpp > 1:
            yield AthanorError(
                f"vpp {plan.vpp} without a pipeline (pp 1)", where="parallel.vpp", fix="parallel.vpp=1, or pp > 1"
            )
        return
    least, most = _VIRTUAL[plan.schedule]
    if not least <= plan.vpp <= (most or plan.vpp):
        wanted = f"vpp {least}" if least == most else f"vpp {least} or more"
        other = "1f1b" if plan.vpp == 1 else "interleaved_1f1b"
        yield AthanorError(
            f"schedule {plan.schedule} needs {wanted}, not {plan.vpp}",
            where="parallel.vpp",
            fix=f"parallel.vpp={least}, or parallel.schedule={other}",
        )


def _split(plan: ParallelPlan, n_layers: int) -> Iterator[AthanorError]:
    stages, split, where = plan.stages, plan.layers_per_stage, "parallel.layers_per_stage"
    if split is None:
        if stages > n_layers:
            yield AthanorError(
                f"pp {plan.pp} · vpp {plan.vpp} = {stages} stages for {n_layers} layers",
                where="parallel.pp",
                fix=f"at most {n_layers} stages, or a layers_per_stage with 0 blocks in the first or last stage",
            )
        return
    if len(split) != stages:
        yield AthanorError(
            f"{len(split)} numbers for pp {plan.pp} · vpp {plan.vpp} = {stages} stages",
            where=where,
            fix=f"{stages} numbers whose sum is {n_layers}",
        )
    elif sum(split) != n_layers:
        yield AthanorError(
            f"the stages have {sum(split)} layers together, the model has {n_layers}",
            where=where,
            fix=f"{stages} numbers whose sum is {n_layers}",
        )
    empty = [i for i, n in enumerate(split) if n < 0 or (n == 0 and 0 < i < len(split) - 1)]
    if empty:
        yield AthanorError(
            f"stage {empty[0]} has {split[empty[0]]} layers",
            where=where,
            fix="1 or more; 0 only in the first stage (embedding alone) or the last (head alone)",
        )


# --- the batch -------------------------------------------------------------------------------------------------------


def _sequence(plan: ParallelPlan, config: ModelConfig, seq_len: int) -> Iterator[AthanorError]:
    cp, tp = plan.cp, plan.tp
    if cp > 1 and config.sliding_window is not None:
        yield AthanorError(
            f"cp {cp} with a sliding window ({config.sliding_window}): context parallel has full attention only",
            where="parallel.cp",
            fix="parallel.cp=1 (tp and pp work), or model.sliding_window=null",
        )
    # Whole rows are cut into 2 · cp equal chunks; odd tokens of documents are spread, so that only the row must divide.
    pieces = 2 * cp if cp > 1 and plan.cp_split == "sequence" else cp
    if seq_len % pieces:
        name = "2 · cp" if pieces > cp else "cp"
        yield AthanorError(
            f"seq_len {seq_len} is not divisible by {name} = {pieces}",
            where="parallel.cp",
            fix=f"for example seq_len {_up(seq_len, pieces * (tp if plan.sp else 1))}",
        )
    elif tp > 1 and plan.sp and seq_len // cp % tp:
        local = f"seq_len {seq_len}" if cp == 1 else f"seq_len {seq_len} / cp {cp} = {seq_len // cp}"
        yield AthanorError(
            f"{local} is not divisible by tp {tp} (sequence parallel)",
            where="parallel.sp",
            fix=f"for example seq_len {_up(seq_len, pieces * tp)}, or parallel.sp=false",
        )


def _batch(
    plan: ParallelPlan, seq_len: int, global_batch_tokens: int, micro_batch_tokens: int | None
) -> Iterator[AthanorError]:
    n_rows, rest = divmod(global_batch_tokens, seq_len)
    if rest or not n_rows:
        yield AthanorError(
            f"global_batch_tokens {global_batch_tokens} is not a multiple of seq_len {seq_len}",
            where="train.global_batch_tokens",
            fix=f"for example {_up(global_batch_tokens, seq_len)}",
        )
        return
    local, uneven = divmod(n_rows, plan.dp)
    size = max(1, local) if micro_batch_tokens is None else max(1, micro_batch_tokens // seq_len)
    # One process takes a shorter last micro-batch; ranks beside one another (or in a pipeline) must all have the same.
    if uneven or (local % size and (plan.dp > 1 or plan.pp > 1)):
        unit = seq_len * plan.dp * (1 if micro_batch_tokens is None else size)
        yield AthanorError(
            f"global_batch_tokens {global_batch_tokens} = {n_rows} rows over dp {plan.dp} in micro-batches of "
            f"{size} rows is not a whole number of micro-batches",
            where="train.global_batch_tokens",
            fix=f"for example {_up(global_batch_tokens, unit)}, a multiple of {unit}",
        )
    else:
        yield from _enough(plan, local, size, seq_len)
    if plan.copies == 2 and (size % 2 or local % size % 2):
        yield AthanorError(
            f"micro-batches of {size if size % 2 else local % size} rows cannot be halved into 2 copies",
            where="parallel.copies",
            fix=f"an even number of rows: micro_batch_tokens={_up(size, 2) * seq_len}, or parallel.copies=1",
        )


def _enough(plan: ParallelPlan, local: int, size: int, seq_len: int) -> Iterator[AthanorError]:
    """Whether ``local`` rows in micro-batches of ``size`` rows keep the pipeline going."""
    count = local // size
    least, every = _least_and_every(plan)
    if plan.pp == 1 or (count >= least and count % every == 0):
        return
    good = [n for n in _divisors(local) if local // n >= least and local // n % every == 0]
    tokens = _up(max(count, least), every) * size * plan.dp * seq_len
    fix = f"micro_batch_tokens={good[-1] * seq_len}, or " if good else ""
    wanted = f"at least {least}" if count < least else f"a multiple of pp {plan.pp}"
    yield AthanorError(
        f"{count} micro-batches a step, schedule {plan.schedule} over pp {plan.pp} needs {wanted}",
        where="parallel.pp",
        fix=f"{fix}global_batch_tokens={tokens}",
    )


def _least_and_every(plan: ParallelPlan) -> tuple[int, int]:
    """How many micro-batches a data rank needs in a step, and what must divide their number."""
    least = plan.stages if plan.schedule == "dualpipev" else plan.pp
    return least, plan.pp if plan.schedule == "interleaved_1f1b" else 1


def _up(size: int, unit: int) -> int:
    """The next multiple of ``unit`` from ``size`` on."""
    return -(-size // unit) * unit


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def _listed(numbers: list[int]) -> str:
    """``1, 2 or 4``; of many the first eight."""
    words = [str(n) for n in numbers[:8]] + (["…"] if len(numbers) > 8 else [])
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
