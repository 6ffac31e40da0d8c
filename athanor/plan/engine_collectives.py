"""Every collective of one rank's step, counted: (kind, axis, bytes of a call) → calls.

Bytes: an all-reduce's tensor, an all-gather's whole result, a reduce-scatter's whole input, an all-to-all's input, a
message. ``axis`` is what the group spans (``athanor.plan.workload.axis_of``). Setting up is not counted, but for the
vote that torch's pipeline takes before its first step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from athanor.model.head import CHUNK_ELEMENTS
from athanor.plan.engine_schedule import Action, actions, choice_of, gathers, keeps_input
from athanor.plan.engine_states import WIDE, Param, Stage, States, is_expert_layer, shard
from athanor.plan.routing import received_rows
from athanor.plan.workload import Workload, axis_of, coordinates, group_of

Call = tuple[str, str, int]
_DIMS = {
    "tp": ("tp",), "cp": ("cp",), "pp": ("pp",), "ep": ("ep",), "dp": ("dp_replicate", "dp_shard"),
    "loss": ("dp_replicate", "dp_shard", "cp"), "fsdp": ("dp_shard", "cp"), "dp_replicate": ("dp_replicate",),
    "expert_fsdp": ("expert_fsdp",), "expert_copies": ("dp_replicate", "expert_fsdp"),
    "world": ("pp", "dp_replicate", "dp_shard", "cp", "tp"),
}  # fmt: skip


class Collectives:
    """Counts for one rank."""

    def __init__(self, work: Workload, rank: int, states: States | None = None) -> None:
        self.work, self.plan, self.config, self.rank = work, work.plan, work.config, rank
        self.states = states or States(work.config, work.plan, rank)
        self.at = coordinates(work.plan, rank)
        self.c = work.dtype.itemsize
        self.wide = max(self.c, 4)

    @cached_property
    def order(self) -> list[Action]:
        """What this rank computes."""
        return actions(self.plan, self.at["pp"], self.work.micro_batches)

    def _axis(self, name: str) -> str:
        return axis_of(self.plan, group_of(self.plan, self.rank, _DIMS[name]))

    def count(self) -> Counter[Call]:
        """All of a step."""
        total: Counter[Call] = Counter()
        m = self.work.micro_batches
        for stage in self.states.stages:
            self._add(total, self._ends(stage), m)
            for layer in stage.layers:
                self._add(total, self._block(layer), m)
            self._add(total, self._messages(stage), 1)
        self._add(total, self._data_parallel(), 1)
        self._add(total, self._once(), 1)
        return Counter({call: n for call, n in total.items() if call[1] != "none" and n})

    def _add(self, total: Counter[Call], calls: Sequence[tuple[str, str, int]], times: int) -> None:
        for kind, name, n_bytes in calls:
            total[kind, self._axis(name), n_bytes] += times

    # --- tensor parallel ---------------------------------------------------------------------------------------------

    @property
    def _stream(self) -> int:
        """Bytes of the whole stream of a micro-batch: what a gather gives, a scatter takes, a sum moves."""
        return self.work.local_tokens * self.config.hidden_size * self.c

    def _summed(self, *n_elements: int) -> list[Call]:
        """Gradients of replicated weights, parts of a sum."""
        return [("all_reduce", "tp", n * self.c) for n in n_elements]

    def _norm(self, width: int, on_stream: bool = True) -> list[Call]:
        if self.plan.tp == 1 or (on_stream and not self.work.spread):
            return []
        return self._summed(*([width] * (2 if self.config.norm_type == "layernorm" else 1)))

    def _enter(self, again: bool) -> list[Call]:
        """Into a half-block: forward, backward, and forward again where it is recomputed."""
        if self.plan.tp == 1:
            return []
        if not self.work.spread:
            return [("all_reduce", "tp", self._stream)]  # backward only
        gather, scatter = ("all_gather", "tp", self._stream), ("reduce_scatter", "tp", self._stream)
        return [gather, scatter] + ([gather] if again else [])

    def _leave(self, again: bool) -> list[Call]:
        if self.plan.tp == 1:
            return []
        if not self.work.spread:
            return [("all_reduce", "tp", self._stream)] * (2 if again else 1)  # forward only
        gather, scatter = ("all_gather", "tp", self._stream), ("reduce_scatter", "tp", self._stream)
        return [scatter, gather] + ([scatter] if again else [])

    def _ends(self, stage: Stage) -> list[Call]:
        """Embedding, final norm, head; the router loss is a number beside the hidden states."""
        if self.plan.tp == 1:
            return []
        out: list[Call] = []
        d = self.config.hidden_size
        if stage.is_first:
            out += self._leave(again=False)
            if self.config.position_embedding == "learned" and self.work.spread:
                out += self._summed(self.config.max_position_embeddings * d)
        if stage.is_last:
            out += self._norm(d)
            if self.work.spread:
                out.append(("all_gather", "tp", self._stream))
            out += self._cross_entropy()
        return out

    def _cross_entropy(self) -> list[Call]:
        n, size = self.work.local_tokens, max(64, CHUNK_ELEMENTS // -(-self.config.vocab_size // self.plan.tp))
        chunks = [min(size, n - start) for start in range(0, n, size)]
        out: list[Call] = [("all_reduce", "tp", rows * self.wide) for rows in chunks]  # the greatest logit
        out += [("all_reduce", "tp", 2 * rows * self.wide) for rows in chunks]  # sums and labels' logits
        return [*out, ("all_reduce", "tp", self._stream)]  # the gradient of the hidden states

    # --- a block -----------------------------------------------------------------------------------------------------

    def _block(self, layer: int) -> list[Call]:
        """Forward and backward of one block and micro-batch."""
        config, d = self.config, self.config.hidden_size
        sandwich, choice = config.norm_placement != "pre", choice_of(self.plan, layer)
        full = choice == "full"
        names: set[str] = set() if isinstance(choice, str) else set(choice)
        kept = self.plan.recompute.communication == "save"  # results of tp's and ep's collectives, not of cp's
        out: list[Call] = []
        for _ in range(4 if sandwich else 2):
            out += self._norm(d)
        # A region runs again up to the last tensor that somebody kept: to its end where its result is a norm's input.
        attention, ffn = full or "attention" in names, full or "ffn" in names
        asked = full or (sandwich and keeps_input(self.work, names))
        out += self._enter(again=choice == "gathers" or (attention and not kept))
        out += self._leave(again=attention and not kept and asked)
        out += self._attention_weights() + self._context(attention)
        out += self._enter(again=choice == "gathers" or (ffn and not kept))
        out += self._leave(again=ffn and not kept and sandwich and asked)
        if is_expert_layer(config, layer):
            return out + self._experts(ffn, kept)
        if config.mlp_bias and self.work.spread:
            out += self._summed(d)
        return out

    def _attention_weights(self) -> list[Call]:
        config, tp = self.config, self.plan.tp
        if tp == 1:
            return []
        out: list[Call] = []
        if tp > config.num_key_value_heads:
            rows = config.num_key_value_heads * config.head_size
            out += self._summed(*[rows * config.hidden_size] * 2)
            out += self._summed(rows, rows) if config.attention_bias else []
        if config.attention_output_bias and self.work.spread:
            out += self._summed(config.hidden_size)
        if config.qk_norm:
            out += self._summed(config.head_size, config.head_size)
        return out

    def _context(self, again: bool) -> list[Call]:
        """Keys and values over cp: gathered in both passes, or sent round; their gradients in at least float32."""
        cp, config = self.plan.cp, self.config
        if cp == 1:
            return []
        heads = max(1, config.num_key_value_heads // self.plan.tp)
        elements = self.work.local_tokens * 2 * heads * config.head_size
        if self.plan.cp_kv == "all_gather":
            forward: list[Call] = [("all_gather", "cp", elements * cp * self.c)]
            return forward * (3 if again else 2) + [("reduce_scatter", "cp", elements * cp * self.wide)]
        forward = [(kind, "cp", elements * self.c) for kind in ("send", "recv")] * (cp - 1)
        return forward * (3 if again else 2) + [(k, "cp", elements * self.wide) for k in ("send", "recv")] * cp

    def _experts(self, again: bool, kept: bool) -> list[Call]:
        config, moe, plan = self.config, self.config.moe, self.plan
        assert moe is not None
        out: list[Call] = []
        if plan.tp > 1:
            out += self._summed(moe.num_experts * config.hidden_size)
        if plan.cp > 1 and moe.balance == "loss":
            rest, p_sum = ("all_reduce", "cp", (moe.num_experts + 1) * self.wide), (
                "all_reduce", "cp", moe.num_experts * self.wide,
            )  # fmt: skip
            out += [rest, p_sum] * (2 if again else 1) + [p_sum]
        if plan.ep > 1:
            sent = self.work.local_tokens * moe.num_experts_per_tok
            there = ("all_to_all", "ep", sent * config.hidden_size * self.c)
            home = (
                "all_to_all", "ep",
                received_rows(sent, moe.num_experts, plan.ep, self.at["ep"]) * config.hidden_size * self.c,
            )  # fmt: skip
            counts: Call = ("all_to_all", "ep", 8 * moe.num_experts)
            out += [counts, there, home] + [home, there]
            # Results of exchanges are functional collectives, so they are kept where communication is.
            out += ([counts] if again else []) + ([there, home] if again and not kept else [])
        return out

    # --- pipeline ----------------------------------------------------------------------------------------------------

    def _messages(self, stage: Stage) -> list[Call]:
        plan, m = self.plan, self.work.micro_batches
        if plan.pp == 1:
            return []
        stream = self._stream // (plan.tp if self.work.spread else 1)
        moe = self.config.moe
        with_aux = moe is not None and moe.balance == "loss" and moe.first_k_dense < self.config.num_hidden_layers
        parts = [stream] + ([self.wide] if with_aux else [])
        out: list[Call] = []
        for there in (not stage.is_first, not stage.is_last):
            if there:
                out += [(kind, "pp", n_bytes) for kind in ("send", "recv") for n_bytes in parts] * m
                out += [("send", "pp", 4), ("recv", "pp", 4)]  # the vote: an int32 there, the answer back
        return out

    # --- data parallel -----------------------------------------------------------------------------------------------

    def _data_parallel(self) -> list[Call]:
        plan, out = self.plan, list[Call]()
        times = self.work.micro_batches if plan.zero >= 2 and plan.pp == 1 else 1
        for unit, count in gathers(self.states, self.order).items():
            shards = "expert_fsdp" if unit.expert else "fsdp"
            if unit.n_ranks > 1:
                out += [("all_gather", shards, unit.gathered * self.c)] * count
                out += [("reduce_scatter", shards, unit.gathered * WIDE)] * times
            if plan.zero == 0:
                out += [("all_reduce", "expert_copies" if unit.expert else "loss", unit.padded * WIDE)] * times
            elif plan.dp_replicate > 1:
                out += [("all_reduce", "dp_replicate", unit.padded * WIDE)] * times
        return out

    def _once(self) -> list[Call]:
        """The step's weight and counts, the gradient's norm, metrics, routers' load, a tied matrix's gradient."""
        config, moe = self.config, self.config.moe
        out: list[Call] = [("all_reduce", "dp", 4 * 8), ("all_reduce", "world", 8)]
        loss = moe is not None and moe.balance == "loss" and moe.first_k_dense < config.num_hidden_layers
        out.append(("all_reduce", "loss", 8 * (4 if loss else 2)))
        for stage in self.states.stages:
            routers = sum(is_expert_layer(config, layer) for layer in stage.layers)
            if moe is not None and moe.balance == "bias" and routers:
                out.append(("all_reduce", "loss", 8 * routers * moe.num_experts))
        ends = [stage for stage in self.states.stages if stage.is_first or stage.is_last]
        if config.tie_word_embeddings and self.plan.pp > 1 and len(ends) == 1:
            param = Param("embed_tokens.weight", (config.vocab_size, config.hidden_size), 0, "root")
            n_bytes = shard(param, self.plan, self.rank).real * WIDE
            out += [("send", "pp", n_bytes), ("recv", "pp", n_bytes)]
        return out
