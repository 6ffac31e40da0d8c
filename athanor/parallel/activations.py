"""What a block keeps for the backward pass, in bytes; what making parts of it again costs; the choice for a budget.

The formulas list the tensors that autograd saves in *this* model in eager mode (a test compares them with what is
alive after a forward pass). Shapes: N tokens of a rank, D hidden size, Q and K channels of queries and of keys, H
query heads, F inner features, E experts, k experts a token, M = N·k assignments. Parameters, RoPE tables and document
lengths belong to no block and are not counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.parallel.plan import RecomputeName
from athanor.train.flops import attended_pairs

#: ``none``, ``full`` (made again from the block's input), ``gathers`` (what all-gathers bring), or named parts
Choice = Literal["none", "full", "gathers"] | tuple[RecomputeName, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a micro-batch is spread over ranks, and how many of them a rank holds between forward and backward."""

    tp: int = 1
    sp: bool = True
    cp: int = 1
    in_flight: int = 1
    collectives_saved: bool = False  #: what is made again keeps its collectives (``apply_recompute`` sets it)


@dataclass(frozen=True, slots=True)
class RecomputeChoice:
    """What each block does. Bytes and operations are of one rank, and None where the tokens are not known."""

    blocks: dict[int, Choice]  #: by layer number in the whole model
    kept_bytes: int | None  #: held between forward and backward, all micro-batches in flight together
    peak_bytes: int | None  #: the same with what a block that is made again holds for its moment, at its worst
    extra_flops: int | None  #: repeated operations of one micro-batch

    def __str__(self) -> str:
        runs = [(str(choice), [i for i, _ in run]) for choice, run in itertools.groupby(self.blocks.items(), _second)]
        text = "; ".join(f"blocks {at[0]}–{at[-1]}: {what}" for what, at in runs)
        if self.kept_bytes is None or self.peak_bytes is None or self.extra_flops is None:
            return text
        return (
            f"{text} ({self.kept_bytes / 2**20:,.1f} MiB kept, {self.peak_bytes / 2**20:,.1f} MiB at most, "
            f"{self.extra_flops / 1e9:,.3g} GFLOP again)"
        )


def _second(item: tuple[int, Choice]) -> Choice:
    return item[1]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Elements of the tensors of one block on one rank; ``n`` tokens in a half-block, ``s`` in the stream."""

    config: ModelConfig
    n: int
    s: int
    tp: int
    c: int  # bytes of an activation
    w: int  # bytes of what is computed in at least float32

    @classmethod
    def of(cls, config: ModelConfig, tokens: int, dtype: torch.dtype, tp: int, sp: bool, cp: int) -> _Sizes:
        n = -(-tokens // cp)
        return cls(config, n, -(-n // tp) if sp else n, tp, dtype.itemsize, max(dtype.itemsize, 4))

    @property
    def stream(self) -> int:
        """Bytes of [N, D] in the stream between blocks."""
        return self.s * self.config.hidden_size * self.c

    @property
    def gathered(self) -> int:
        """Bytes of [N, D] inside a half-block."""
        return self.n * self.config.hidden_size * self.c

    def norm(self, rows: int, width: int) -> int:
        """What a norm keeps beside its input (which counts as kept even where a wider copy takes its place)."""
        return 2 * rows * self.c if self.config.norm_type == "layernorm" else self.rms_norm(rows, width)

    def rms_norm(self, rows: int, width: int) -> int:
        """The same of an RMSNorm, which those of q and k always are."""
        wider = 0 if self.c == self.w else rows * width * (self.w - self.c)
        return wider + rows * width * self.c + rows * self.w


def activation_bytes(
    config: ModelConfig,
    tokens: int,
    choice: Choice,
    dtype: torch.dtype,
    tp: int = 1,
    sp: bool = True,
    cp: int = 1,
    *,
    expert: bool | None = None,
    collectives_saved: bool = False,
) -> int:
    """Bytes that one block keeps on one rank between forward and backward, its input included.

    ``tokens`` of a micro-batch before context parallel; ``expert``: an expert block (None: if the config has experts).
    c bytes an activation of ``dtype``, w = max(c, 4). The plain block keeps, for RMSNorm in float32:

    * the stream: the block's input and what goes into ``mlp_norm``, c·N·D each (bfloat16: their float32 copies);
    * each norm: the normalised value c·N·D and 1/rms w·N; its output c·N·D, as the input of the products behind it.
      Post-norms (sandwich): their input c·N·D and the same, but no output; norms of q and k: likewise over heads;
    * attention: q, k, v as the core reads them c·N·(Q+2K), output c·N·Q, log-sum-exp w·N·H·5/4 (the operator pads it);
    * dense: gate, act(gate), up and their product, 4·c·N·F (without a gate 2·c·N·F); a shared expert likewise;
    * experts: the router's probabilities w·N·E, weights w·N·k and their sum w·N, three index lists 8·M each, sorted
      tokens, results and weighted results 3·c·M·D, weights by assignment c·M, 4·c·M·F with M even over ranks;
      bfloat16: float32 copies of the router's input and weight.

    tp divides Q, K, H, F; with sp the stream, its norms and their outputs too, while the gathered inputs of attention
    and feed-forward are whole. cp divides N; keys and values that cp gathers are not counted, and sliding windows, or
    kernels of other devices that keep more or less (log-sum-exp without padding), differ a little.

    ``collectives_saved``: parts that are made again keep what tp's collectives brought: with sp the gathered input
    c·N·D, and the sum that goes back to the stream. The exchange of expert parallel is not counted.
    """
    size = _Sizes.of(config, tokens, dtype, tp, sp, cp)
    saved_each = size.stream + (size.gathered if sp and tp > 1 else 0) if collectives_saved and tp > 1 else 0
    if choice == "full":
        return size.stream + 2 * saved_each
    args = config, tokens, choice, dtype, tp, sp, cp, expert, collectives_saved
    return half_bytes("attention", *args) + half_bytes("ffn", *args)


def half_bytes(
    half: Literal["attention", "ffn"],
    config: ModelConfig,
    tokens: int,
    choice: Choice,
    dtype: torch.dtype,
    tp: int = 1,
    sp: bool = True,
    cp: int = 1,
    expert: bool | None = None,
    collectives_saved: bool = False,
) -> int:
    """As :func:`activation_bytes` for one half of a block with its norms; not for choice ``full``."""
    size = _Sizes.of(config, tokens, dtype, tp, sp, cp)
    names: set[str] = set() if isinstance(choice, str) else set(choice)
    spread, gathers = sp and tp > 1, choice == "gathers"
    if half == "attention":
        total = _attention_half(size, names, spread, gathers)
    else:
        moe = config.moe is not None if expert is None else expert
        total = _half_input(size, names, "ffn", spread, gathers, uses_input=not moe or _reads_tokens(size))
        if "ffn" not in names:
            total += (_expert_part if moe else _dense_part)(size, names)
    if config.norm_placement != "pre":
        total += _post_norm(size, names, half)
    if collectives_saved and tp > 1 and half in names:
        total += size.stream + (size.gathered if spread else 0)
    return total


def _half_input(size: _Sizes, names: set[str], part: str, spread: bool, gathers: bool, uses_input: bool = True) -> int:
    """Stream, norm, and the norm's output as ``part`` keeps it."""
    d = size.config.hidden_size
    total = size.stream + (0 if "norms" in names else size.norm(size.s, d))
    if part in names or gathers:
        # The region's input, or what an all-gather starts from.
        return total + (0 if "norms" in names and not gathers else size.stream)
    if not uses_input:
        return total
    return total + (0 if "norms" in names and not spread else size.gathered)


def _reads_tokens(size: _Sizes) -> bool:
    """Whether an expert block keeps its input itself, beside sorted and widened copies."""
    assert size.config.moe is not None
    return size.c == size.w or size.config.moe.num_shared_experts > 0


def _attention_half(size: _Sizes, names: set[str], spread: bool, gathers: bool) -> int:
    config, n, c = size.config, size.n, size.c
    total = _half_input(size, names, "attention", spread, gathers)
    if "attention" in names:
        return total
    heads, kv_heads = -(-config.num_attention_heads // size.tp), -(-config.num_key_value_heads // size.tp)
    q, k = heads * config.head_size, kv_heads * config.head_size
    total += c * n * q + size.w * (n * heads * 5 // 4)
    if "qkv_proj" in names:
        return total
    total += c * n * (q + 2 * k)
    if config.qk_norm:
        total += c * n * (q + k)
        if "norms" not in names:
            total += size.rms_norm(n * heads, config.head_size) + size.rms_norm(n * kv_heads, config.head_size)
        elif config.position_embedding != "rope":
            total -= c * n * (q + k)
    return total


def _gated(size: _Sizes, names: set[str], rows: int, inner: int) -> int:
    """gate, act(gate), up, product; or up and act(up)."""
    if not size.config.mlp_gated:
        return rows * inner * size.c * (1 if "up_proj" in names else 2)
    kept = 4 - (2 if "gate_proj" in names else 0) - (1 if "up_proj" in names else 0)
    return rows * inner * size.c * kept


def _dense_part(size: _Sizes, names: set[str]) -> int:
    return _gated(size, names, size.n, -(-size.config.intermediate_size // size.tp))


def _expert_part(size: _Sizes, names: set[str]) -> int:
    moe, n, d, c, w = size.config.moe, size.n, size.config.hidden_size, size.c, size.w
    assert moe is not None
    m, inner = n * moe.num_experts_per_tok, -(-moe.moe_intermediate_size // size.tp)
    kept = 4 - (2 if "gate_proj" in names else 0) - (1 if "up_proj" in names else 0)
    total = w * n * moe.num_experts + 3 * 8 * m + 3 * c * m * d + c * m + kept * c * m * inner
    if moe.norm_topk_prob:
        total += w * (m + n)
    if c != w:
        total += w * (n + moe.num_experts) * d
    if moe.num_shared_experts:
        total += _gated(size, names, n, inner * moe.num_shared_experts)
    return total


def _post_norm(size: _Sizes, names: set[str], part: str) -> int:
    """A sandwich norm; its input is the result of ``part``, which is made again with it."""
    remade = part in names
    if "norms" in names:
        return 0 if remade else size.stream
    internals = size.norm(size.s, size.config.hidden_size)
    copied = size.c != size.w and size.config.norm_type == "rmsnorm"  # then the input itself is not what is kept
    return internals + (0 if remade and not copied else size.stream)


def extra_flops(
    config: ModelConfig,
    tokens: int,
    choice: Choice,
    tp: int = 1,
    cp: int = 1,
    *,
    seq_len: int | None = None,
    expert: bool | None = None,
) -> int:
    """Operations that one block repeats on one rank in the backward pass of a micro-batch of ``tokens``.

    A product costs 2 operations a weight and token; the core 4·Q a pair, with documents of ``seq_len`` (None: one of
    all tokens). A region is not run beyond the last tensor that is asked for, so ``full`` does not repeat the down
    product, nor does ``attention`` the output product, unless a norm behind it needs their result. Elementwise work
    counts 5 operations an element of a norm, so that a choice with it is never free.
    """
    d, n = config.hidden_size, -(-tokens // cp)
    names: set[str] = set() if isinstance(choice, str) else set(choice)
    full, sandwich = choice == "full", config.norm_placement != "pre"
    q, k = (x * config.head_size // tp for x in (config.num_attention_heads, config.num_key_value_heads))
    total = 0
    if full or names & {"attention", "qkv_proj"}:
        total += 2 * n * d * (q + 2 * k)
    if full or "attention" in names:
        length = min(seq_len or tokens, tokens)
        total += 4 * q * attended_pairs([length], sliding_window=config.sliding_window) * tokens // length // cp
        total += 2 * n * q * d if full or sandwich else 0
    if full or "norms" in names:
        total += 5 * n * d * (4 if sandwich else 2)
    return total + _feed_forward_flops(config, n, names, full, sandwich, tp, expert)


def _feed_forward_flops(
    config: ModelConfig, n: int, names: set[str], full: bool, sandwich: bool, tp: int, expert: bool | None
) -> int:
    moe = config.moe if expert or expert is None else None
    whole = full or "ffn" in names
    matrices = (1 if whole or "up_proj" in names else 0) + (
        1 if config.mlp_gated and (whole or "gate_proj" in names) else 0
    )
    last = 1 if whole and sandwich else 0
    d = config.hidden_size
    if moe is None:
        return 2 * n * d * (config.intermediate_size // tp) * (matrices + last)
    inner = moe.moe_intermediate_size // tp
    shared = 2 * n * d * inner * moe.num_shared_experts * (matrices + last)
    gate = 1 if whole or "gate_proj" in names else 0
    up = 1 if whole or "up_proj" in names else 0
    # The result of each expert is kept for the gradient of its weight, so a region makes it again.
    routed = 2 * n * moe.num_experts_per_tok * d * inner * (gate + up + (1 if whole else 0))
    return shared + routed + (2 * n * d * moe.num_experts if whole else 0)


def estimate(
    config: ModelConfig,
    experts: Mapping[int, bool],
    choices: dict[int, Choice],
    tokens: int | None,
    seq_len: int | None,
    dtype: torch.dtype,
    layout: Layout,
) -> RecomputeChoice:
    """Bytes and operations of given ``choices`` by layer; ``experts`` says which layers are expert blocks."""
    if tokens is None:
        return RecomputeChoice(choices, None, None, None)
    cost = _Costs(config, tokens, seq_len, dtype, layout)
    kept = [cost.kept(choice, experts[i]) for i, choice in choices.items()]
    plain = [cost.kept("none", experts[i]) for i in choices]
    flops = sum(cost.flops(choice, experts[i]) for i, choice in choices.items())
    return RecomputeChoice(choices, layout.in_flight * sum(kept), _peak(kept, plain, layout.in_flight), flops)


def _peak(kept: list[int], plain: list[int], in_flight: int) -> int:
    """Most bytes at once. When block i runs backward, those before it still hold what they kept, and i holds what the
    plain block does; the other micro-batches in flight hold what they kept."""
    before, worst = 0, 0
    for keeps, whole in zip(kept, plain, strict=True):
        worst = max(worst, before + max(keeps, whole))
        before += keeps
    return (in_flight - 1) * before + worst


class _Costs:
    """Bytes and operations by choice and kind of block, each computed once."""

    def __init__(
        self, config: ModelConfig, tokens: int, seq_len: int | None, dtype: torch.dtype, layout: Layout
    ) -> None:
        self.args = config, tokens, seq_len, dtype, layout
        self.memo: dict[tuple[Choice, bool], tuple[int, int]] = {}

    def _of(self, choice: Choice, expert: bool) -> tuple[int, int]:
        if (choice, expert) not in self.memo:
            config, tokens, seq_len, dtype, at = self.args
            how = {"expert": expert, "collectives_saved": at.collectives_saved}
            kept = activation_bytes(config, tokens, choice, dtype, at.tp, at.sp, at.cp, **how)
            flops = extra_flops(config, tokens, choice, at.tp, at.cp, seq_len=seq_len, expert=expert)
            self.memo[choice, expert] = kept, flops
        return self.memo[choice, expert]

    def kept(self, choice: Choice, expert: bool) -> int:
        return self._of(choice, expert)[0]

    def flops(self, choice: Choice, expert: bool) -> int:
        return self._of(choice, expert)[1]


def selections(config: ModelConfig) -> list[Choice]:
    """Every choice of a block that means something of its own, from ``none`` to ``full``."""
    norms: list[tuple[RecomputeName, ...]] = [(), ("norms",)]
    attention: list[tuple[RecomputeName, ...]] = [(), ("qkv_proj",), ("attention",)]
    gates: list[tuple[RecomputeName, ...]] = [(), ("up_proj",), ("ffn",)]
    if config.mlp_gated or config.moe is not None:
        gates += [("gate_proj",), ("gate_proj", "up_proj")]
    named: Iterable[Choice] = (tuple(sorted(sum(parts, ()))) for parts in itertools.product(norms, attention, gates))
    return ["none", *(names for names in named if names), "full"]


def choose(
    config: ModelConfig,
    experts: Mapping[int, bool],
    budget_bytes: int,
    tokens: int,
    seq_len: int | None,
    dtype: torch.dtype,
    layout: Layout,
) -> RecomputeChoice:
    """The fewest repeated operations whose ``peak_bytes`` fit ``budget_bytes``.

    Searched: the first n blocks make one choice and the others another, for all n and all pairs. Early blocks recompute
    more, because what they kept would lie there longest. Equal blocks need no third choice but for a remainder of less
    than one block. AthanorError where full recompute does not fit.
    """
    layers = sorted(experts)
    full = estimate(config, experts, {i: "full" for i in layers}, tokens, seq_len, dtype, layout)
    if (full.peak_bytes or 0) > budget_bytes:
        raise AthanorError(
            f"activations of {len(layers)} blocks need {full.peak_bytes:,} bytes when every block is made again from "
            f"its input; the budget is {budget_bytes:,}",
            where="parallel.recompute.budget_bytes",
            fix=f"give at least {full.peak_bytes:,}, fewer tokens a micro-batch, or more tp or cp",
        )
    cost = _Costs(config, tokens, seq_len, dtype, layout)
    plain = [cost.kept("none", experts[i]) for i in layers]
    table = _worthwhile(
        {c: ([cost.kept(c, experts[i]) for i in layers], [cost.flops(c, experts[i]) for i in layers])
         for c in selections(config)}
    )  # fmt: skip
    best: tuple[int, int, int, Choice, Choice] | None = None
    for (first, (kept_a, flops_a)), (rest, (kept_b, flops_b)) in itertools.product(table.items(), repeat=2):
        for n in range(len(layers) + 1):
            flops = sum(flops_a[:n]) + sum(flops_b[n:])
            if best is not None and flops > best[0]:
                continue
            peak = _peak(kept_a[:n] + kept_b[n:], plain, layout.in_flight)
            if peak <= budget_bytes and (best is None or (flops, peak) < best[:2]):
                best = flops, peak, n, first, rest
    assert best is not None
    _, _, n, first, rest = best
    choices = {i: first if at < n else rest for at, i in enumerate(layers)}
    return estimate(config, experts, choices, tokens, seq_len, dtype, layout)


def _worthwhile(table: dict[Choice, tuple[list[int], list[int]]]) -> dict[Choice, tuple[list[int], list[int]]]:
    """Without choices that keep as much as another one and cost as much, over all blocks together."""
    totals = {c: (sum(kept), sum(flops)) for c, (kept, flops) in table.items()}
    return {
        c: table[c]
        for c, (kept, flops) in totals.items()
        if not any((k <= kept and f <= flops and (k, f) != (kept, flops)) for k, f in totals.values())
    }


class _Made(TorchDispatchMode):
    """Every storage that an operation returns while the mode is on."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self.note(x)
        return out


def kept_bytes(forward: Callable[[], Any], *, given: Iterable[torch.Tensor] = ()) -> int:
    """Measured: bytes of the storages made by ``forward`` (eager, any device) that are alive after it, less those that
    nothing but its results holds. Every storage counts once. ``given``: tensors that were there before and that belong
    to no block (parameters, RoPE tables)."""
    with _Made() as made:
        out = forward()
    there = {x.untyped_storage()._cdata for x in given}
    results = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
    graph = [x.grad_fn for x in results]
    del out, results
    alive = sum(n for key, (ref, n) in made.storages.items() if key not in there and not ref.expired())
    del graph
    return alive
