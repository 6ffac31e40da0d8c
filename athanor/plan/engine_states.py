"""Parameters of one rank, and what FSDP2 makes of them: bytes at rest, units that gather and reduce.

The layout is that of ``athanor.parallel``: tensor parallel cuts as ``parallel/tensor.py`` does, experts as
``parallel/expert.py``, and the rest is ``parallel/data.py``: every block is a unit, and so is what lies around blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.parallel.checks import layers_per_stage
from athanor.parallel.plan import ParallelPlan
from athanor.plan.workload import coordinates

#: bytes of a master weight, a gradient, a moment
WIDE = 4
V_SHAPED = ("zbv", "dualpipev")


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of the whole model, the dimension that tensor parallel cuts (None: none), its FSDP unit."""

    name: str
    shape: tuple[int, ...]
    tp_dim: int | None
    unit: str
    expert: bool = False

    @property
    def decayed(self) -> bool:
        """A matrix, as the optimizer groups them."""
        return len(self.shape) > 1 and "norm" not in self.name


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks ``first`` … ``last`` − 1 of a model and what lies at its ends."""

    index: int
    first: int
    last: int
    is_first: bool
    is_last: bool

    @property
    def layers(self) -> range:
        """Numbers of its blocks in the whole model."""
        return range(self.first, self.last)


def stages_of(config: ModelConfig, plan: ParallelPlan, pp_rank: int) -> list[Stage]:
    """The stages that a pipeline rank holds, in model order (as ``athanor.parallel.stages.placement`` has them)."""
    if plan.pp == 1:
        return [Stage(0, 0, config.num_hidden_layers, True, True)]
    ends = list(accumulate(layers_per_stage(plan, config.num_hidden_layers)))
    out = []
    for index, end in enumerate(ends):
        turn, place = divmod(index, plan.pp)
        back = plan.schedule in V_SHAPED and turn % 2 == 1
        if (plan.pp - 1 - place if back else place) == pp_rank:
            out.append(Stage(index, ends[index - 1] if index else 0, end, index == 0, index == plan.stages - 1))
    return out


def is_expert_layer(config: ModelConfig, layer: int) -> bool:
    """Whether a block's feed-forward is a mixture of experts."""
    return config.moe is not None and layer >= config.moe.first_k_dense


def parameters(config: ModelConfig, plan: ParallelPlan, stage: Stage) -> list[Param]:
    """Every parameter of a stage, with the names that the engine gives it."""
    d, v, tied = config.hidden_size, config.vocab_size, config.tie_word_embeddings
    out: list[Param] = []
    if stage.is_first or (stage.is_last and tied):
        out.append(Param("embed_tokens.weight", (v, d), 0, "root"))
    if stage.is_first and config.position_embedding == "learned":
        out.append(Param("embed_positions.weight", (config.max_position_embeddings, d), None, "root"))
    for layer in stage.layers:
        out += _block(config, plan, layer)
    if stage.is_last:
        out += _norm(config, "final_norm", d, "root")
        if not tied:
            out.append(Param("lm_head.weight", (v, d), 0, "root"))
    return out


def _norm(config: ModelConfig, name: str, width: int, unit: str) -> list[Param]:
    parts = ("weight", "bias") if config.norm_type == "layernorm" else ("weight",)
    return [Param(f"{name}.{part}", (width,), None, unit) for part in parts]


def _block(config: ModelConfig, plan: ParallelPlan, layer: int) -> Iterator[Param]:
    d, unit = config.hidden_size, f"layers.{layer}"
    norms = ["input_norm", "mlp_norm"]
    norms += ["post_attn_norm", "post_mlp_norm"] if config.norm_placement != "pre" else []
    for name in norms:
        yield from _norm(config, f"{unit}.{name}", d, unit)
    q, kv = (n * config.head_size for n in (config.num_attention_heads, config.num_key_value_heads))
    kv_dim = None if plan.tp > config.num_key_value_heads else 0  # ranks that share a head hold it whole
    for name, rows, dim in (("q", q, 0), ("k", kv, kv_dim), ("v", kv, kv_dim)):
        yield Param(f"{unit}.attn.{name}_proj.weight", (rows, d), dim, unit)
        if config.attention_bias:
            yield Param(f"{unit}.attn.{name}_proj.bias", (rows,), dim, unit)
    yield Param(f"{unit}.attn.o_proj.weight", (d, q), 1, unit)
    if config.attention_output_bias:
        yield Param(f"{unit}.attn.o_proj.bias", (d,), None, unit)
    if config.qk_norm:
        for name in ("q_norm", "k_norm"):
            yield Param(f"{unit}.attn.{name}.weight", (config.head_size,), None, unit)
    if is_expert_layer(config, layer):
        yield from _experts(config, plan, f"{unit}.mlp", unit)
    else:
        yield from _feed_forward(config, f"{unit}.mlp", config.intermediate_size, unit)


def _feed_forward(config: ModelConfig, name: str, inner: int, unit: str) -> Iterator[Param]:
    d = config.hidden_size
    for part in ("gate_proj", "up_proj") if config.mlp_gated else ("up_proj",):
        yield Param(f"{name}.{part}.weight", (inner, d), 0, unit)
        if config.mlp_bias:
            yield Param(f"{name}.{part}.bias", (inner,), 0, unit)
    yield Param(f"{name}.down_proj.weight", (d, inner), 1, unit)
    if config.mlp_bias:
        yield Param(f"{name}.down_proj.bias", (d,), None, unit)


def _experts(config: ModelConfig, plan: ParallelPlan, name: str, block: str) -> Iterator[Param]:
    moe, d, own = config.moe, config.hidden_size, plan.ep > 1
    assert moe is not None
    e, f = moe.num_experts, moe.moe_intermediate_size
    yield Param(f"{name}.router.weight", (e, d), None, f"{name}.router" if own else block)
    unit = name if own else block
    yield Param(f"{name}.w_gate", (e, d, f), 2, unit, expert=True)
    yield Param(f"{name}.w_up", (e, d, f), 2, unit, expert=True)
    yield Param(f"{name}.w_down", (e, f, d), 1, unit, expert=True)
    if moe.num_shared_experts:
        shared = f"{name}.shared"
        yield from _feed_forward(config, shared, f * moe.num_shared_experts, shared if own else block)


# --- shards ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """What a rank holds of a parameter: ``padded`` elements in memory, ``real`` of them, ``whole`` when gathered."""

    padded: int
    real: int
    whole: int  #: elements of the tensor-parallel part, which is what FSDP gathers


@lru_cache(maxsize=65536)
def shard(param: Param, plan: ParallelPlan, rank: int) -> Shard:
    """Cut by tp (⌈n/tp⌉ each, as DTensor does), ep, then FSDP (which pads the first dimension)."""
    at = coordinates(plan, rank)
    spread_experts = param.expert and plan.ep > 1
    n_ranks, place = fsdp_ranks(plan, spread_experts), at["expert_fsdp" if spread_experts else "fsdp"]
    if plan.zero == 0:
        place = 0
    local, pieces = list(param.shape), [1] * len(param.shape)
    if param.tp_dim is not None and plan.tp > 1:
        block = -(-local[param.tp_dim] // plan.tp)
        start = min(block * at["tp"], local[param.tp_dim])
        local[param.tp_dim] = min(block, local[param.tp_dim] - start)
        pieces[param.tp_dim] *= plan.tp
    if spread_experts:
        local[0] //= plan.ep
        pieces[0] *= plan.ep
    dim = _fsdp_dim(param, pieces, n_ranks)
    whole, rest = math.prod(local), math.prod(local[:dim] + local[dim + 1 :])
    chunk = -(-local[dim] // n_ranks)
    real = min(chunk, max(0, local[dim] - place * chunk))
    return Shard(chunk * rest, real * rest, whole)


def _fsdp_dim(param: Param, pieces: list[int], n_ranks: int) -> int:
    """As ``athanor.parallel.data`` chooses it."""
    if pieces[0] == 1:
        return 0
    for dim, n in enumerate(pieces):
        if param.shape[dim] % (n * n_ranks) == 0:
            return dim
    raise AthanorError(
        f"{param.name} {param.shape} in {' × '.join(map(str, pieces))} pieces does not divide evenly over "
        f"{n_ranks} more ranks",
        where="parallel",
        fix="choose dp_shard · cp so that it divides one of the cut sizes",
    )


def fsdp_ranks(plan: ParallelPlan, expert: bool) -> int:
    """Over how many ranks FSDP spreads ordinary parameters, or those of experts."""
    if plan.zero == 0:
        return 1
    return plan.dp_shard * plan.cp // (plan.ep if expert else 1)


@dataclass(frozen=True)
class Unit:
    """What FSDP gathers and reduces in one call. Elements; ``padded`` of one shard, over ``n_ranks``."""

    name: str
    padded: int
    whole: int
    n_ranks: int
    expert: bool  #: spread and copied over the expert dimensions
    stays: bool  #: gathered from a forward pass to its backward pass

    @property
    def gathered(self) -> int:
        """Elements of an all-gather's result, and of a reduce-scatter's input."""
        return self.padded * self.n_ranks


@dataclass(frozen=True)
class States:
    """Bytes that one rank holds between steps (gradients: at the end of the backward pass)."""

    config: ModelConfig
    plan: ParallelPlan
    rank: int

    @cached_property
    def stages(self) -> list[Stage]:
        """This rank's part of the pipeline."""
        return stages_of(self.config, self.plan, coordinates(self.plan, self.rank)["pp"])

    @cached_property
    def params(self) -> dict[int, list[Param]]:
        """By stage number."""
        return {stage.index: parameters(self.config, self.plan, stage) for stage in self.stages}

    def _shards(self) -> Iterator[Shard]:
        for params in self.params.values():
            for param in params:
                yield shard(param, self.plan, self.rank)

    @cached_property
    def parameter_bytes(self) -> int:
        """Master weights: float32, padded as FSDP2 pads them."""
        return WIDE * sum(part.padded for part in self._shards())

    @property
    def gradient_bytes(self) -> int:
        """Reduced gradients: a unit's lie side by side in the buffer that a reduce-scatter fills."""
        return self.parameter_bytes

    @cached_property
    def optimizer_bytes(self) -> int:
        """Two float32 moments of every real element."""
        return 2 * WIDE * sum(part.real for part in self._shards())

    @cached_property
    def units(self) -> dict[int, list[Unit]]:
        """FSDP units by stage number, in model order."""
        frees = self.plan.zero == 3 and not (self.plan.pp > 1 and self.plan.schedule in V_SHAPED)
        out: dict[int, list[Unit]] = {}
        for index, params in self.params.items():
            names = list(dict.fromkeys(param.unit for param in params))
            out[index] = [self._unit(name, [p for p in params if p.unit == name], frees) for name in names]
        return out

    def _unit(self, name: str, params: list[Param], frees: bool) -> Unit:
        expert = self.plan.ep > 1 and params[0].expert
        parts = [shard(param, self.plan, self.rank) for param in params]
        ranks = fsdp_ranks(self.plan, expert)
        stays = name == "root" or not frees
        return Unit(name, sum(p.padded for p in parts), sum(p.whole for p in parts), ranks, expert, stays)
