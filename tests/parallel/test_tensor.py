"""Tensor and sequence parallel against the single-process Decoder: float64, packed documents, every gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from athanor.errors import AthanorError
from athanor.inference.engine import generate
from athanor.inference.sampling import GREEDY
from athanor.model.cache import KVCache
from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import IGNORE, Decoder
from athanor.model.init import init_weights
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan
from athanor.parallel.tensor import Lane, apply_tensor_parallel, local_cache_config
from tests.parallel import ranks as harness

CPU = torch.device("cpu")
SMALL: dict[str, Any] = dict(
    vocab_size=67,  # 4 ranks hold 17, 17, 17 and 16 rows
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=64,
    initializer_range=0.3,
    init="normal",
)
MOE = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, num_shared_experts=1, first_k_dense=1)
OLD: dict[str, Any] = dict(
    attention_bias=True,
    attention_output_bias=True,
    mlp_bias=True,
    norm_type="layernorm",
    position_embedding="learned",
    hidden_act="gelu",
    mlp_gated=False,
    tie_word_embeddings=True,
)
CASES: dict[str, dict[str, Any]] = {
    "dense": {},
    "sandwich": {"norm_placement": "depth_scaled_sandwich", "num_key_value_heads": 2},
    "qk_norm": {"qk_norm": True, "num_key_value_heads": 2, "attention_bias": True, "head_dim": 12},
    "one_kv_head": {"num_key_value_heads": 1, "qk_norm": True, "sliding_window": 5},
    "old": OLD,
    "moe": {"moe": MOE},
    "moe_sandwich": {
        "moe": MOE.model_copy(update={"scoring": "sigmoid", "norm_topk_prob": False, "router_aux_loss_coef": 0.1}),
        "norm_placement": "sandwich",
        "mlp_bias": True,
    },
    "moe_bias": {"moe": MOE.model_copy(update={"balance": "bias", "num_shared_experts": 0})},
}
DOC_LENS = [[7, 1, 12], [4, 16]]  # 20 tokens a row: a multiple of 2 and of 4
ODD_LENS = [[7, 1, 11], [3, 16]]  # 19: the stream cannot be spread


def run_ranks(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    return harness.run_ranks(world, function, *args, timeout_s=500.0)  # many cases in one call, on a shared machine


def make(case: str) -> Decoder:
    """A float64 model whose every parameter, norms and biases too, is random, the same wherever it is made."""
    model = Decoder(ModelConfig(**{**SMALL, **CASES[case]})).double()
    init_weights(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, param in sorted(model.named_parameters()):
            param += 0.1 * torch.randn(param.shape, generator=generator, dtype=torch.float64)
    return model


def batch(doc_lens: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, labels with some places ignored, positions that begin anew in every document."""
    generator = torch.Generator().manual_seed(2)
    shape = (len(doc_lens), sum(doc_lens[0]))
    ids_BT, labels_BT = torch.randint(0, SMALL["vocab_size"], (2, *shape), generator=generator).unbind()
    labels_BT[:, ::5] = IGNORE
    return ids_BT, labels_BT, torch.stack([torch.cat([torch.arange(n) for n in lens]) for lens in doc_lens])


def full(x: torch.Tensor) -> torch.Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x.clone()


def grads(model: Decoder) -> dict[str, torch.Tensor]:
    """All gradients, gathered, and none left behind. A gradient lies as its parameter does."""
    found = {}
    for name, param in model.named_parameters():
        assert param.grad is not None, name
        if isinstance(param, DTensor):
            assert isinstance(param.grad, DTensor) and param.grad.placements == param.placements, name
        found[name] = full(param.grad)
    model.zero_grad()
    return found


def outcome(model: Decoder, doc_lens: list[list[int]]) -> dict[str, torch.Tensor]:
    """What a model computes and all gradients: of the loss, and of log-probabilities and logits together."""
    ids_BT, labels_BT, positions_BT = batch(doc_lens)
    loss, aux = model.loss(ids_BT, labels_BT, positions_BT, doc_lens)
    (loss if aux is None else loss + 3 * aux).backward()
    out = {"loss": loss.detach(), "aux": torch.zeros(()) if aux is None else aux.detach()}
    out |= {f"loss/{name}": grad for name, grad in grads(model).items()}
    logp_BT, entropy_BT = model.token_logprobs(ids_BT, labels_BT, positions_BT, doc_lens, 0.7)
    logits_BTV = model(ids_BT, positions_BT, doc_lens)
    (_mixed(logp_BT) + _mixed(logits_BTV)).backward()
    out |= {"logp": logp_BT.detach(), "entropy": entropy_BT, "logits": logits_BTV.detach()}
    return out | {f"outputs/{name}": grad for name, grad in grads(model).items()}


def _mixed(x: torch.Tensor) -> torch.Tensor:
    return (x.flatten() * torch.linspace(-1, 1, x.numel(), dtype=x.dtype)).sum()


def parallel(case: str, ranks: Ranks, sequence: bool | None = None) -> Decoder:
    model = make(case)
    apply_tensor_parallel(model, ranks, ranks.plan, sequence=sequence)
    return model


#: (ranks, sequence parallel, lengths): the stream spread, replicated as told, replicated because 19 does not divide
WAYS = {
    "2-spread": (2, True, DOC_LENS),
    "2-whole": (2, False, DOC_LENS),
    "4-spread": (4, None, DOC_LENS),
    "4-odd": (4, True, ODD_LENS),
}
#: 4 ranks without a spread stream differ from 2 only where heads or norms do
COMBINATIONS = [
    (case, way) for way in WAYS for case in CASES if way != "4-odd" or case in ("one_kv_head", "old", "moe_sandwich")
]


def on_ranks(tp: int) -> dict[Any, dict[str, torch.Tensor]]:
    ranks = Ranks.of(ParallelPlan(tp=tp), CPU)
    return {
        (case, way): outcome(parallel(case, ranks, WAYS[way][1]), WAYS[way][2])
        for case, way in COMBINATIONS
        if WAYS[way][0] == tp
    }


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict[Any, dict[str, torch.Tensor]]]]:
    return {tp: run_ranks(tp, on_ranks, tp) for tp in (2, 4)}


@pytest.mark.parametrize(("case", "way"), COMBINATIONS)
def test_equals_one_process(results: Any, case: str, way: str) -> None:
    tp, _, doc_lens = WAYS[way]
    want = outcome(make(case), doc_lens)
    for rank, got in enumerate(found[case, way] for found in results[tp]):
        assert got.keys() == want.keys()
        for name in want:
            bound = 1e-9 * max(1.0, float(want[name].abs().max()))
            assert (got[name] - want[name]).abs().max() < bound, f"rank {rank}, {name}"
    first = results[tp][0][case, way]
    for found in results[tp][1:]:  # ranks decide alike what is decoded, how tokens are routed and what is logged
        assert all(torch.equal(found[case, way][name], first[name]) for name in ("loss", "logits", "logp"))


def decoding(tp: int) -> list[Any]:
    """Greedy continuations of a ragged batch, and the size of a cache."""
    ranks = Ranks.of(ParallelPlan(tp=tp), CPU)
    out = []
    for case in DECODED:
        model = parallel(case, ranks)
        cache = KVCache(model.cache_config, 1, 8, torch.float64)
        assert model.cache_config == local_cache_config(make(case).config, ranks)
        out.append((generate(model, PROMPTS, GREEDY, STOPS, 12), cache.k[0].shape))
        loss, _ = model.loss(*batch(DOC_LENS), DOC_LENS)  # training goes on with the stream spread again
        out.append((float(loss.detach()), model.embed(batch(DOC_LENS)[0], model.context(*_ids_and_positions())).shape))
    return out


def _ids_and_positions() -> tuple[torch.Tensor, torch.Tensor, list[list[int]]]:
    ids_BT, _, positions_BT = batch(DOC_LENS)
    return ids_BT, positions_BT, DOC_LENS


DECODED = ("sandwich", "one_kv_head", "old", "moe")
PROMPTS = [[5, 9, 11], [7], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [5, 9, 11], [60, 1, 2, 3, 4, 5]]
STOPS = [17, 23, 40, 41]


def test_decoding_gives_the_same_tokens() -> None:
    found = run_ranks(2, decoding, 2)
    for i, case in enumerate(DECODED):
        model = make(case)
        want = generate(model, PROMPTS, GREEDY, STOPS, 12)
        loss, _ = model.loss(*batch(DOC_LENS), DOC_LENS)
        for on_rank in found:
            (got, shape), (loss_after, stream) = on_rank[2 * i : 2 * i + 2]
            assert [g.ids for g in got] == [g.ids for g in want]
            assert (
                max(
                    abs(a - b)
                    for g, w in zip(got, want, strict=True)
                    for a, b in zip(g.logprobs, w.logprobs, strict=True)
                )
                < 1e-6
            )
            assert shape == (1, max(1, model.config.num_key_value_heads // 2), 8, model.config.head_size)
            assert abs(loss_after - loss.item()) < 1e-9 * abs(loss.item())
            assert stream == (2, 10, 32)


def with_fsdp() -> dict[str, torch.Tensor]:
    """tp 2, sharded over two more ranks that hold one row each; gradients are sums over rows."""
    ranks = Ranks.of(ParallelPlan(tp=2, dp_shard=2), CPU)
    out: dict[str, torch.Tensor] = {}
    for case in SHARDED:
        model = parallel(case, ranks)
        for part in (*model.layers, model):
            fully_shard(part, mesh=ranks.sub("fsdp"))
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        register_fsdp_forward_method(model, "loss")
        row = ranks.at("fsdp")
        ids_BT, labels_BT, positions_BT = (x[row : row + 1] for x in batch(DOC_LENS))
        for _ in range(2):  # two micro-batches
            loss, _ = model.loss(ids_BT, labels_BT, positions_BT, DOC_LENS[row : row + 1])
            loss.backward()
        dist.all_reduce(loss, group=ranks.group("loss"))
        out[case] = loss.detach()
        out |= {f"{case}/{name}": full(param.grad) for name, param in model.named_parameters()}
    return out


SHARDED = ("qk_norm", "old", "moe_bias")


def test_fully_sharded_on_top() -> None:
    found = run_ranks(4, with_fsdp)
    for case in SHARDED:
        model = make(case)
        for _ in range(2):
            loss, _ = model.loss(*batch(DOC_LENS), DOC_LENS)
            loss.backward()
        for got in found:
            assert abs(got[case] - loss) < 1e-9 * loss
            for name, param in model.named_parameters():
                assert (got[f"{case}/{name}"] - param.grad).abs().max() < 1e-9 * max(1.0, float(param.grad.abs().max()))


def stages() -> Any:
    """Two pipeline stages by hand, on the same ranks; and a copy of a model."""
    ranks = Ranks.of(ParallelPlan(tp=2), CPU)
    first, last = make("moe"), make("moe")
    first.final_norm = first.lm_head = last.embed_tokens = None  # type: ignore[assignment]
    first.layers = torch.nn.ModuleDict({"0": first.layers[0]})  # type: ignore[assignment]
    last.layers = torch.nn.ModuleDict({"1": last.layers[1]})  # type: ignore[assignment]
    for stage in (first, last):
        apply_tensor_parallel(stage, ranks, ranks.plan)
    ids_BT, labels_BT, positions_BT = batch(DOC_LENS)
    context = first.context(ids_BT, positions_BT, DOC_LENS)
    h_BTD, _ = first.blocks(first.embed(ids_BT, context), context)
    sent_BTD = h_BTD.detach().requires_grad_()
    out_BTD, _ = last.blocks(sent_BTD, context)
    keep = labels_BT.flatten() != IGNORE
    hidden_ND = last.final_norm(out_BTD).flatten(0, 1)[keep]
    loss = last.cross_entropy(hidden_ND, last.head_weight, labels_BT.flatten()[keep])
    loss.backward()
    h_BTD.backward(sent_BTD.grad)
    gathered = {name: full(param.grad) for stage in (first, last) for name, param in stage.named_parameters()}
    names = [name for name, param in first.named_parameters()]
    twin = copy.deepcopy(parallel("old", ranks))
    return float(loss.detach()), gathered, names, float(twin.loss(*batch(DOC_LENS), DOC_LENS)[0].detach())


def test_stages_and_copies() -> None:
    model = make("moe")
    loss, _ = model.loss(*batch(DOC_LENS), DOC_LENS)
    loss.backward()
    for got, gathered, names, twin in run_ranks(2, stages):
        assert abs(got - loss.item()) < 1e-9 * loss.item()
        assert "embed_tokens.weight" in names and "layers.0.attn.q_proj.weight" in names
        assert gathered.keys() == dict(model.named_parameters()).keys()
        for name, param in model.named_parameters():
            assert (gathered[name] - param.grad).abs().max() < 1e-9 * max(1.0, float(param.grad.abs().max())), name
        assert abs(twin - float(make("old").loss(*batch(DOC_LENS), DOC_LENS)[0])) < 1e-9 * twin


def layout() -> Any:
    """Bytes held, where parameters lie, and what is refused."""
    ranks = Ranks.of(ParallelPlan(tp=4), CPU)
    model = parallel("one_kv_head", ranks)
    held = sum(p.to_local().untyped_storage().nbytes() for p in model.parameters())  # type: ignore[attr-defined]
    where = {name: str(p.placements[0]) for name, p in model.named_parameters()}  # type: ignore[attr-defined]
    refused = []
    for heads, kv_heads in ((6, 6), (12, 3)):
        config = ModelConfig(
            **{**SMALL, "hidden_size": 48, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
        )
        try:
            apply_tensor_parallel(Decoder(config), ranks, ranks.plan)
        except AthanorError as error:
            refused.append(str(error))
    with torch.device("meta"):
        empty = Decoder(make("moe").config)
    apply_tensor_parallel(empty, ranks, ranks.plan)
    devices = {p.to_local().device.type for p in empty.parameters()}  # type: ignore[attr-defined]
    return held, where, refused, devices


def test_layout_and_bad_heads() -> None:
    whole = sum(p.nbytes for p in make("one_kv_head").parameters())
    for held, where, refused, devices in run_ranks(4, layout):
        assert held < 0.35 * whole  # a quarter, and what is replicated: norms, the one KV head
        assert where["layers.0.attn.k_proj.weight"] == where["layers.0.input_norm.weight"] == "R"
        assert where["layers.1.mlp.up_proj.weight"] == where["embed_tokens.weight"] == where["lm_head.weight"] == "S(0)"
        assert where["layers.0.attn.o_proj.weight"] == where["layers.0.mlp.down_proj.weight"] == "S(1)"
        assert "6 attention heads do not divide over 4" in refused[0] and "3 key-value heads and 4" in refused[1]
        assert devices == {"meta"}


def broken() -> dict[Any, dict[str, torch.Tensor]]:
    Lane.summed = lambda self, weight: weight.to_local()  # type: ignore[method-assign, attr-defined, assignment]
    ranks = Ranks.of(ParallelPlan(tp=2), CPU)
    return {("qk_norm", "2-spread"): outcome(parallel("qk_norm", ranks), DOC_LENS)}


def test_a_lost_sum_is_seen() -> None:
    """The test of the test: norms whose gradients are not summed over ranks fail the comparison."""
    with pytest.raises(AssertionError, match="norm"):
        test_equals_one_process({2: run_ranks(2, broken)}, "qk_norm", "2-spread")
