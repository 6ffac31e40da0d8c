"""Recompute: the bits of the plain model, the bytes and operations that the formulas say, and nothing else changed."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from athanor.errors import AthanorError
from athanor.model.cache import KVCache
from athanor.model.config import ModelConfig
from athanor.model.decoder import Block, Decoder
from athanor.model.init import init_weights
from athanor.parallel.activations import Layout, activation_bytes, estimate, extra_flops, kept_bytes, selections
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.parallel.recompute import apply_recompute
from athanor.parallel.tensor import apply_tensor_parallel
from tests.parallel.ranks import run_ranks

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
CONFIGS = {
    "dense": ModelConfig(**SHAPE),
    "sandwich": ModelConfig(**SHAPE, norm_placement="depth_scaled_sandwich", qk_norm=True, partial_rotary_factor=0.5),
    "older": ModelConfig(
        **SHAPE, norm_type="layernorm", mlp_gated=False, hidden_act="gelu", position_embedding="learned", mlp_bias=True
    ),
    "experts": ModelConfig(**SHAPE, moe={**EXPERTS, "balance": "bias", "num_shared_experts": 1, "first_k_dense": 1}),
    "aux_loss": ModelConfig(**SHAPE, qk_norm=True, moe={**EXPERTS, "balance": "loss", "norm_topk_prob": False}),
}
LENS = [[40, 88], [128]]
TOKENS = 256


def built(config: ModelConfig) -> Decoder:
    model = Decoder(config)
    init_weights(model, 1)
    return model


def plan_of(choice: Any, communication: Any = "recompute") -> RecomputePlan:
    if isinstance(choice, tuple):
        return RecomputePlan(mode="selective", names=choice, communication=communication)
    return RecomputePlan(mode="selective" if choice == "gathers" else choice, communication=communication)


def step(model: Decoder) -> tuple[list[torch.Tensor], int]:
    """Loss, gradients by name, router loads and bias buffers of one packed batch; operations of the backward pass."""
    ids = torch.arange(TOKENS).view(2, 128) * 7 % 97
    model.zero_grad()
    loss, aux = model.loss(ids, ids.roll(1, 1), doc_lens=LENS)
    with FlopCounterMode(display=False) as flops:
        (loss if aux is None else loss + aux).backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    loads = [b.clone() for name, b in model.named_buffers() if name.endswith("load")]
    for name, buffer in model.named_buffers():
        if name.endswith("load"):
            buffer.zero_()
    return [loss.detach(), *grads, *loads], flops.get_total_flops()


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_bits_of_the_plain_model_at_the_predicted_cost(name: str) -> None:
    """Every name alone, some together, whole blocks; then the products that were repeated are those of the formula."""
    config = CONFIGS[name]
    model = built(config)
    expected, plain_flops = step(model)
    experts = {i: config.moe is not None and i >= config.moe.first_k_dense for i in range(3)}
    names = ["attention", "ffn", "norms", "up_proj", "qkv_proj", *(["gate_proj"] if config.mlp_gated else [])]
    products = {"ffn", "up_proj", "gate_proj", "qkv_proj"}  # FlopCounterMode sees neither the core nor pointwise work
    choices: list[Any] = [(n,) for n in names] + [("norms", "qkv_proj", "up_proj"), ("attention", "ffn", "norms")]
    for choice in [*choices, "gathers", "full"]:
        apply_recompute(model, plan_of(choice))
        found, flops = step(model)
        assert same(found, expected), choice
        if isinstance(choice, tuple) and set(choice) <= products:
            again = sum(extra_flops(config, TOKENS, choice, expert=experts[i]) for i in experts)
            assert flops - plain_flops == again, choice
    apply_recompute(model, RecomputePlan(mode="every_k", every_k=2))
    assert same(step(model)[0], expected)
    apply_recompute(model, RecomputePlan())
    assert type(model.layers[0]) is Block and step(model)[1] == plain_flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_block_keeps_the_bytes_of_the_formula(name: str, dtype: torch.dtype) -> None:
    config = CONFIGS[name]
    model = built(config).to(dtype)
    block, expert = model.layers[2], config.moe is not None
    context = model.context(torch.zeros(2, 128, dtype=torch.int64), None, LENS)
    h_BTD = torch.randn(2, 128, 64, dtype=dtype).requires_grad_()
    given = [*model.parameters(), *model.buffers(), *(context.rope or ())]
    for choice in selections(config):
        if isinstance(choice, tuple) and len(choice) == 3:
            continue  # sums of what is seen in pairs
        apply_recompute(model, plan_of(choice))
        measured = kept_bytes(lambda: block(h_BTD * 1, context.rope, context.packing, None), given=given)
        predicted = activation_bytes(config, TOKENS, choice, dtype, expert=expert)
        # Experts also leave a few scalars; a dense block is exact.
        assert abs(measured - predicted) <= (64 if expert else 0), (choice, measured, predicted)


def test_the_whole_model_keeps_the_sum_of_its_blocks() -> None:
    config = CONFIGS["experts"]
    model = built(config)
    ids = torch.zeros(2, 128, dtype=torch.int64)
    context = model.context(ids, None, LENS)
    h_BTD = model.embed(ids, context).detach().requires_grad_()
    given = [*model.parameters(), *model.buffers(), *(context.rope or ())]
    before = None
    for plan in (RecomputePlan(), RecomputePlan(mode="every_k", every_k=2), RecomputePlan(mode="full")):
        chosen = apply_recompute(model, plan, micro_batch_tokens=TOKENS)
        measured = kept_bytes(lambda: model.blocks(h_BTD * 1, context), given=given)
        assert chosen.kept_bytes is not None and abs(measured / chosen.kept_bytes - 1) < 1e-3
        assert before is None or measured < 0.7 * before
        before = measured
    every_k = apply_recompute(model, RecomputePlan(mode="every_k", every_k=2))
    assert every_k.blocks == {0: "full", 1: "none", 2: "full"} and every_k.kept_bytes is None
    stage = built(config)
    stage.layers = torch.nn.ModuleDict({"1": stage.layers[1], "2": stage.layers[2]})  # type: ignore[assignment]
    assert apply_recompute(stage, RecomputePlan(mode="every_k", every_k=2)).blocks == {1: "none", 2: "full"}


def test_parallel_layouts_divide_the_bytes() -> None:
    config = CONFIGS["dense"]
    size = lambda choice="none", **at: activation_bytes(config, TOKENS, choice, torch.float32, **at)  # noqa: E731
    assert size(cp=2) * 2 == size()
    assert size("full", tp=2) * 2 == size("full", tp=2, sp=False) == size("full")
    whole_inputs = 2 * TOKENS * 64 * 4  # what attention and feed-forward read is gathered
    assert 2 * (size(tp=2) - whole_inputs) == size() - whole_inputs
    assert size("gathers", tp=2) == size() // 2


def test_nothing_else_changes() -> None:
    """Parameter names, types, copies; evaluation and decoding step aside; a graph may run backward twice."""
    config = CONFIGS["sandwich"]
    model, plain = built(config), built(config)
    for choice in ("full", ("attention", "ffn", "norms"), ("gate_proj", "norms", "qkv_proj", "up_proj")):
        apply_recompute(model, plan_of(choice))
        assert list(model.state_dict()) == list(plain.state_dict())
        assert all(isinstance(layer, Block) for layer in model.layers)
        ids = torch.arange(24).view(2, 12)
        with torch.no_grad():
            assert torch.equal(model(ids), plain(ids))
        caches = [KVCache(config, 2, 16, torch.float32, torch.device("cpu")) for _ in range(2)]
        for part in (ids[:, :8], ids[:, 8:9]):
            logits = [m(part, cache=cache) for m, cache in zip((model, plain), caches, strict=True)]
            assert torch.equal(*logits)
            for cache in caches:
                cache.advance(part.shape[1])
        twin = copy.deepcopy(model)
        for layer in twin.layers:
            layer.attn.q_proj.weight.data.zero_()
        assert same(step(model)[0], step(plain)[0]) and not same(step(twin)[0], step(plain)[0])
        loss = model(ids).square().sum()
        first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        assert same(list(first), list(torch.autograd.grad(loss, list(model.parameters()))))


@pytest.mark.parametrize("choice", ["full", ("up_proj", "norms")])
def test_under_compile(choice: Any) -> None:
    """As ``compile_blocks`` does, without the C++ compiler: tracing and the partitioner are what recompute meets."""
    torch._dynamo.reset()
    results, bytes_saved = [], []
    for plan in (RecomputePlan(), plan_of(choice)):
        model = built(CONFIGS["dense"].model_copy(update={"num_hidden_layers": 1}))
        apply_recompute(model, plan)
        model.layers[0].compile(dynamic=False, backend="aot_eager")
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        saved: dict[int, int] = {}

        def note(x: torch.Tensor, weights: Any = weights, saved: Any = saved) -> torch.Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in weights:
                saved[storage.data_ptr()] = storage.nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            results.append(step(model)[0])
        bytes_saved.append(sum(saved.values()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # the compiled graph is another one, in another order
    assert bytes_saved[1] < bytes_saved[0]


def test_a_budget_takes_the_cheapest_that_fits() -> None:
    """Against all pairs of choices for two blocks; the peak holds the block that is being made again."""
    config = CONFIGS["dense"].model_copy(update={"num_hidden_layers": 2})
    model, experts = built(config), {0: False, 1: False}
    all_pairs = [
        estimate(config, experts, {0: a, 1: b}, TOKENS, 128, torch.float32, Layout(in_flight=n))
        for n, a, b in itertools.product((1, 3), selections(config), selections(config))
    ]
    half = len(all_pairs) // 2
    for in_flight, pairs in ((1, all_pairs[:half]), (3, all_pairs[half:])):
        least, most = pairs[-1].peak_bytes, pairs[0].peak_bytes
        assert least is not None and most is not None and least < most
        for budget in (least, (3 * least + most) // 4, (least + most) // 2, (least + 9 * most) // 10, most, 2 * most):
            plan = RecomputePlan(mode="budget", budget_bytes=budget)
            chosen = apply_recompute(
                model, plan, micro_batch_tokens=TOKENS, seq_len=128, layout=Layout(in_flight=in_flight)
            )
            fitting = [p for p in pairs if p.peak_bytes is not None and p.peak_bytes <= budget]
            assert chosen.peak_bytes is not None and chosen.peak_bytes <= budget
            assert chosen.extra_flops == min(p.extra_flops for p in fitting if p.extra_flops is not None)
            assert (chosen.extra_flops == 0) == (budget >= most)
    plan = RecomputePlan(mode="budget", budget_bytes=1000)
    with pytest.raises(AthanorError, match=f"{all_pairs[half - 1].peak_bytes:,} bytes"):
        apply_recompute(model, plan, micro_batch_tokens=TOKENS, seq_len=128)
    with pytest.raises(AthanorError, match="micro_batch_tokens"):
        apply_recompute(model, plan)
    with pytest.raises(AthanorError, match="no gate"):
        apply_recompute(built(CONFIGS["older"]), plan_of(("gate_proj",)))


def test_a_deep_model_within_its_budget_recomputes_early_blocks_more() -> None:
    config = CONFIGS["dense"].model_copy(update={"num_hidden_layers": 24})
    with torch.device("meta"):
        model = Decoder(config)
    none, full = (apply_recompute(model, plan_of(c), micro_batch_tokens=TOKENS) for c in ("none", "full"))
    assert none.peak_bytes and full.peak_bytes and none.extra_flops == 0 and full.extra_flops
    chosen = apply_recompute(
        model, RecomputePlan(mode="budget", budget_bytes=none.peak_bytes // 2), micro_batch_tokens=TOKENS
    )
    assert chosen.peak_bytes and 0.45 * none.peak_bytes < chosen.peak_bytes <= none.peak_bytes // 2
    assert chosen.extra_flops and chosen.extra_flops < 0.5 * full.extra_flops
    costs = [extra_flops(config, TOKENS, choice) for choice in chosen.blocks.values()]
    assert costs == sorted(costs, reverse=True) and "MiB" in str(chosen)


class Collectives(TorchDispatchMode):
    """Counts functional collectives by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "_c10d_functional" and "wait" not in func.name():
            self.seen[func.name().partition("::")[2]] += 1
        return func(*args, **(kwargs or {}))


def tensor_parallel(choices: list[Any]) -> list[Any]:
    """By choice: all gradients, collectives of the backward pass, bytes kept by a block."""
    results = []
    config = CONFIGS["dense"]
    for choice, communication in choices:
        plan = ParallelPlan(tp=2, recompute=plan_of(choice, communication))
        ranks = Ranks.of(plan, torch.device("cpu"))
        model = built(config)
        apply_tensor_parallel(model, ranks, plan)
        apply_recompute(model, plan.recompute)
        ids = torch.arange(TOKENS).view(2, 128) * 7 % 97
        loss, _ = model.loss(ids, ids.roll(1, 1), doc_lens=LENS)
        with Collectives() as backward:
            loss.backward()
        grads = [p.grad.to_local().clone() for p in model.parameters()]  # type: ignore[union-attr]
        context = model.context(ids, None, LENS)
        h_BTD = torch.randn(2, 64, 64).requires_grad_()
        given = [*(p.to_local() for p in model.parameters()), *(context.rope or ())]  # type: ignore[attr-defined]
        kept = kept_bytes(lambda m=model, h=h_BTD, c=context: m.blocks(h * 1, c), given=given)  # type: ignore[misc]
        results.append(([loss.detach(), *grads], dict(backward.seen), kept))
    return results


def test_communication_saved_or_made_again() -> None:
    """Over tp 2 with sequence parallel: a block gathers twice and scatters twice; the last scatter is never repeated,
    because nothing behind it is asked for."""
    config, layers = CONFIGS["dense"], 3
    choices: list[Any] = [
        ("none", "recompute"),
        ("full", "recompute"),
        ("full", "save"),
        ("gathers", "recompute"),
        (("attention", "norms"), "recompute"),
    ]
    for results in run_ranks(2, tensor_parallel, choices):
        plain, _, _ = results[0]
        assert all(same(found, plain) for found, _, _ in results)
        counts = [Counter(seen) for _, seen, _ in results]
        more = [count - counts[0] for count in counts[1:]]
        assert more[0] == {"all_gather_into_tensor": 2 * layers, "reduce_scatter_tensor": layers}
        assert not more[1]
        assert more[2] == {"all_gather_into_tensor": 2 * layers}
        assert more[3] == {"all_gather_into_tensor": layers}
        expected = [
            layers
            * activation_bytes(config, TOKENS, choice, torch.float32, tp=2, collectives_saved=communication == "save")
            for choice, communication in choices
        ]
        for (_, _, kept), predicted in zip(results, expected, strict=True):
            assert abs(kept / predicted - 1) < 0.01, (kept, predicted)


def sharded(choice: Any) -> list[torch.Tensor]:
    """Gradients under FSDP2, whole."""
    ranks = Ranks.of(ParallelPlan(dp_shard=2), torch.device("cpu"))
    model = built(CONFIGS["experts"])
    apply_recompute(model, plan_of(choice))
    for part in (*model.layers, model):
        fully_shard(part, mesh=ranks.sub("fsdp"))
    ids = torch.arange(TOKENS).view(2, 128) * 7 % 97
    model(ids, doc_lens=LENS).square().sum().backward()
    return [p.grad.full_tensor() for p in model.parameters()]  # type: ignore[union-attr]


def test_under_sharded_parameters() -> None:
    plain = run_ranks(2, sharded, "none")[0]
    for choice in ("full", ("norms", "qkv_proj", "up_proj")):
        assert same(run_ranks(2, sharded, choice)[0], plain)
