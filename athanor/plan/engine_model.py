"""The cost model of Athanor's own engine: bytes, collectives and operations of one rank's step, by formula.

No process group, no tensor. ``athanor.dryrun`` runs the engine itself on fake tensors and compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from athanor.parallel.activations import Choice, activation_bytes, half_bytes
from athanor.plan.engine_collectives import Call, Collectives
from athanor.plan.engine_schedule import Action, actions, choice_of, keeps_input
from athanor.plan.engine_states import Stage, States, is_expert_layer
from athanor.plan.routing import received_rows
from athanor.plan.workload import NotModelled, Workload, coordinates

_HALVES = ("attention", "ffn")


@dataclass(frozen=True)
class Prediction:
    """Of one rank's step. Bytes; floating-point operations, 2 a multiply-add, matrix products only."""

    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_peak_bytes: int  #: the most that is held for backward passes at once, all micro-batches in flight
    collectives: Counter[Call]
    flops: dict[str, int]  #: forward, backward, recompute


def predict(work: Workload, rank: int) -> Prediction:
    """What rank ``rank`` does in one step of ``work``. NotModelled for what the formulas do not know."""
    _known(work)
    states = States(work.config, work.plan, rank)
    return Prediction(
        states.parameter_bytes,
        states.gradient_bytes,
        states.optimizer_bytes,
        Activations(work, rank).peak_bytes,
        Collectives(work, rank, states).count(),
        Flops(work, rank).count(),
    )


def _known(work: Workload) -> None:
    plan, window = work.plan, work.config.sliding_window
    what = None
    if window is not None and window < max(work.doc_lens):
        what = "a sliding window shorter than the documents"
    elif plan.chunks > 1 and plan.tp > 1:
        what = "products in chunks"
    elif plan.copies > 1:
        what = "two copies"
    elif plan.offload != "none":
        what = "offload"
    elif work.seq_len % plan.cp:
        what = "rows that cp does not divide"
    if what is not None:
        raise NotModelled(f"the engine's cost model does not know {what}", where="parallel")


class Flops:
    """Matrix products and attention of one rank."""

    def __init__(self, work: Workload, rank: int) -> None:
        self.work, self.config, self.plan = work, work.config, work.plan
        self.at = coordinates(work.plan, rank)
        self.rank = rank
        heads, kv_heads = self.config.num_attention_heads // self.plan.tp, self.config.num_key_value_heads
        self.q = heads * self.config.head_size
        self.kv = max(1, kv_heads // self.plan.tp) * self.config.head_size

    def count(self) -> dict[str, int]:
        """Of a step. The head's gradients are products of the forward pass (``athanor.model.head``)."""
        out = {"forward": 0, "backward": 0, "recompute": 0}
        for stage in States(self.config, self.plan, self.rank).stages:
            for layer in stage.layers:
                products, core = self._products(layer), 4 * self.q * self.pairs
                out["forward"] += products + core
                # of the core: 5 products of pairs instead of 2 (arXiv 2307.08691, algorithm 2)
                out["backward"] += 2 * products + core * 5 // 2
                out["recompute"] += self._again(layer, core)
            if stage.is_last:
                out["forward"] += 3 * 2 * self.work.local_tokens * self.config.hidden_size * self._vocabulary
        return {name: n * self.work.micro_batches for name, n in out.items()}

    @property
    def _vocabulary(self) -> int:
        block = -(-self.config.vocab_size // self.plan.tp)
        return min(block, self.config.vocab_size - block * self.at["tp"])

    @cached_property
    def pairs(self) -> int:
        """(query, key) pairs of one micro-batch that this rank's queries attend to: causal, inside documents."""
        if self.plan.cp == 1:
            return self.work.rows * sum(n * (n + 1) // 2 for n in self.work.doc_lens)
        from athanor.parallel.context import Layout

        layout = Layout.of([self.work.doc_lens] * self.work.rows, self.plan.cp, self.plan.cp_split)
        return int(layout.pairs_R[self.at["cp"]])

    def _matrix(self, rows: int, *sizes: int) -> int:
        product = 2 * rows
        for size in sizes:
            product *= size
        return product

    @property
    def _qkv(self) -> int:
        return self._matrix(self.work.local_tokens, self.config.hidden_size, self.q + 2 * self.kv)

    @property
    def _out(self) -> int:
        return self._matrix(self.work.local_tokens, self.config.hidden_size, self.q)

    def _feed_forward(self, layer: int) -> tuple[int, int, int, int]:
        """(router, one product of the routed experts, one of the dense or shared part, inputs of that)."""
        config, n, d = self.config, self.work.local_tokens, self.config.hidden_size
        inputs = 2 if config.mlp_gated else 1
        if not is_expert_layer(config, layer):
            return 0, 0, self._matrix(n, d, config.intermediate_size // self.plan.tp), inputs
        moe = config.moe
        assert moe is not None
        inner, sent = moe.moe_intermediate_size // self.plan.tp, n * moe.num_experts_per_tok
        rows = received_rows(sent, moe.num_experts, self.plan.ep, self.at["ep"]) if self.plan.ep > 1 else sent
        shared = self._matrix(n, d, inner * moe.num_shared_experts)
        return self._matrix(n, d, moe.num_experts), self._matrix(rows, d, inner), shared, inputs

    def _products(self, layer: int) -> int:
        router, routed, dense, inputs = self._feed_forward(layer)
        return self._qkv + self._out + router + 3 * routed + (inputs + 1) * dense

    def _again(self, layer: int, core: int) -> int:
        """Repeated in the backward pass: up to the last tensor of a region that somebody asks for."""
        choice, sandwich = choice_of(self.plan, layer), self.config.norm_placement != "pre"
        names: set[str] = set() if isinstance(choice, str) else set(choice)
        full, total = choice == "full", 0
        asked = full or keeps_input(self.work, names)
        if full or "attention" in names:
            total += self._qkv + core + (self._out if full or (sandwich and asked) else 0)
        elif "qkv_proj" in names:
            total += self._qkv
        router, routed, dense, inputs = self._feed_forward(layer)
        if full or "ffn" in names:
            moe = self.config.moe if router else None
            down = (sandwich and asked) or (
                moe is not None and moe.balance == "loss"
            )  # its loss is made behind the products
            return total + router + 3 * routed + (inputs + (1 if down else 0)) * dense
        gate = "gate_proj" in names
        parts = ("up_proj" in names) + (1 if gate and (routed or inputs == 2) else 0)
        return total + parts * routed + (("up_proj" in names) + (gate and inputs == 2)) * dense


class Activations:
    """What one rank keeps for its backward passes."""

    def __init__(self, work: Workload, rank: int) -> None:
        self.work, self.config, self.plan = work, work.config, work.plan
        self.at = coordinates(work.plan, rank)
        self.c, self.w = work.dtype.itemsize, max(work.dtype.itemsize, 4)
        self.stages = {stage.index: stage for stage in States(work.config, work.plan, rank).stages}
        self.rank = rank

    @property
    def _stream(self) -> int:
        """Bytes of the residual stream of a micro-batch on this rank."""
        n = self.work.local_tokens // (self.plan.tp if self.work.spread else 1)
        return n * self.config.hidden_size * self.c

    @property
    def _copied(self) -> bool:
        """Whether norms of the stream keep a wider copy of their input instead of itself."""
        return self.config.norm_type == "rmsnorm" and self.c != self.w

    def _args(self, layer: int, plain: bool) -> tuple[Choice, tuple[Any, ...]]:
        """What a block does, and what ``athanor.parallel.activations`` wants to know."""
        choice: Choice = "none" if plain else choice_of(self.plan, layer)
        saved = self.plan.recompute.communication == "save" and not plain
        layout = self.plan.tp, self.work.spread, self.plan.cp
        expert = is_expert_layer(self.config, layer)
        return choice, (self.config, self.work.tokens, choice, self.work.dtype, *layout, expert, saved)

    def _padding(self, choice: Choice) -> int:
        """Room that one device's attention leaves in its log-sum-exp, and context parallel does not."""
        if self.plan.cp == 1 or choice == "full" or (not isinstance(choice, str) and "attention" in choice):
            return 0
        elements = self.work.local_tokens * (self.config.num_attention_heads // self.plan.tp)
        return self.w * (elements * 5 // 4 - elements)

    def block(self, layer: int, plain: bool = False) -> int:
        """Bytes that a block keeps of a micro-batch; ``plain``: without recomputation."""
        choice, (*args, expert, saved) = self._args(layer, plain)
        total = activation_bytes(*args, expert=expert, collectives_saved=saved)
        return total - self._padding(choice) + self._arrivals(layer, choice)

    def halves(self, layer: int, plain: bool = False) -> tuple[int, int]:
        """The same of its attention and of its feed-forward; not for choice ``full``."""
        choice, args = self._args(layer, plain)
        ffn = half_bytes("ffn", *args) + self._arrivals(layer, choice)
        return half_bytes("attention", *args) - self._padding(choice), ffn

    def _arrivals(self, layer: int, choice: Choice) -> int:
        """Two lists of places (int64) of the rows that came from other ranks of expert parallel."""
        moe, ep = self.config.moe, self.plan.ep
        if ep == 1 or moe is None or not is_expert_layer(self.config, layer):
            return 0
        if choice == "full" or (not isinstance(choice, str) and "ffn" in choice):
            return 0
        sent = self.work.local_tokens * moe.num_experts_per_tok
        return 2 * 8 * received_rows(sent, moe.num_experts, ep, self.at["ep"])

    def ends(self, stage: Stage) -> tuple[int, int]:
        """(bytes in front of a stage's blocks, behind them) of a micro-batch."""
        n, d = self.work.local_tokens, self.config.hidden_size
        front = n * (8 + 1) if stage.is_first and self.plan.tp > 1 else 0  # rows of the vocabulary, and whose
        if not stage.is_last:
            return front, self._stream  # what was sent
        s = self._stream // (self.c * d)
        norm = 2 * s * self.c if self.config.norm_type == "layernorm" else s * d * self.c + s * self.w
        vocabulary = min(
            block := -(-self.config.vocab_size // self.plan.tp), self.config.vocab_size - block * self.at["tp"]
        )
        head = n * d * self.c + vocabulary * d * self.c  # gradients of hidden states and matrix, made beforehand
        return front, s * d * (self.w if self._copied else self.c) + norm + head

    @property
    def _rope(self) -> int:
        if self.config.position_embedding != "rope" or not any(stage.layers for stage in self.stages.values()):
            return 0
        width = int(self.config.head_size * self.config.partial_rotary_factor)
        return 2 * self.work.local_tokens * (width // 2) * self.c

    @cached_property
    def _kept(self) -> dict[int, list[int]]:
        """By stage: bytes in front, of every block, behind."""
        out = {}
        for index, stage in self.stages.items():
            front, behind = self.ends(stage)
            blocks = [self.block(layer) for layer in stage.layers]
            itself = not self._copied or (bool(blocks) and choice_of(self.plan, stage.first) == "full")
            if blocks and itself and not stage.is_first:
                blocks[0] -= self._stream  # what was received is itself what is kept: a buffer, counted as such
            out[index] = [front, *blocks, behind]
        return out

    @cached_property
    def peak_bytes(self) -> int:
        """Most at once over the step."""
        held, best, in_flight, seen = 0, 0, Counter[int](), set[int]()
        for action in self._order():
            if action.kind == "F":
                if self.plan.cp > 1 and action.micro_batch not in seen:
                    held += 8 * self.work.tokens  # where each token of the batch lies: kept with the batch
                    seen.add(action.micro_batch)
                held += sum(self._kept[action.stage]) + (0 if in_flight[action.micro_batch] else self._rope)
                in_flight[action.micro_batch] += 1
                best = max(best, held)
            elif action.kind == "B":
                best = max(best, held + max(self._more(action.stage), default=0))
                in_flight[action.micro_batch] -= 1
                held -= sum(self._kept[action.stage]) + (0 if in_flight[action.micro_batch] else self._rope)
        return best

    def _order(self) -> list[Action]:
        return actions(self.plan, self.at["pp"], self.work.micro_batches)

    def _more(self, index: int) -> Iterator[int]:
        """While a block that is made again runs backward: bytes beyond those held before the stage's backward pass."""
        kept, stage = self._kept[index], self.stages[index]
        for i, layer in enumerate(stage.layers):
            choice = choice_of(self.plan, layer)
            if choice in ("none", "gathers"):
                continue
            gone = sum(kept[2 + i : -1]) + (kept[-1] if stage.is_last else 0)  # of blocks behind and the head
            if choice == "full":
                # Its input is held beside wider copies of it; what else was kept is part of what is made again.
                again = self.block(layer) - (self._stream if self._copied else 0)
                yield self.block(layer, plain=True) - again - gone
                continue
            (attention, ffn), (attention_plain, ffn_plain) = self.halves(layer), self.halves(layer, plain=True)
            beside = [self._beside(half, set(choice)) for half in _HALVES]
            yield ffn_plain - ffn - gone + beside[1]
            yield attention_plain - attention - ffn - gone + beside[0]

    def _beside(self, half: str, names: set[str]) -> int:
        """What is there beside a half that is made again whole and what others keep; negative: what is gone already."""
        if half not in names:
            return 0
        total = self._stream if self.work.spread else 0  # the norm's output, of which the gathered one is another copy
        if "norms" in names and self._copied:
            total += self._stream  # the norm's input, of which a wider copy is kept
        if self.config.norm_placement != "pre" and not keeps_input(self.work, names):
            s = self._stream // (self.c * self.config.hidden_size)
            total -= s * self.config.hidden_size * (self.w + self.c) + s * self.w  # the norm behind it is done
        return total
