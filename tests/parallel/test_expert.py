"""Expert parallel against the single process, in float64: losses, every gradient, router biases."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.model.moe import MoEFeedForward
from athanor.parallel.expert import EXPERT_WEIGHTS, apply_expert_parallel, exchange_rows, sync_router_load
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan
from athanor.parallel.tensor import apply_tensor_parallel
from tests.parallel.ranks import run_ranks

CPU = torch.device("cpu")
WORLD, ROWS, T = 4, 2, 24


def config_of(moe: MoEConfig) -> ModelConfig:
    return ModelConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        init="small",
        moe=moe,
    )


def moe_of(n_experts: int = 8, top_k: int = 2, **kwargs: Any) -> MoEConfig:
    kwargs = {"first_k_dense": 1, "router_aux_loss_coef": 0.05, "bias_update_rate": 0.01} | kwargs
    return MoEConfig(num_experts=n_experts, num_experts_per_tok=top_k, moe_intermediate_size=16, **kwargs)


CASES = {
    "loss, shared expert, ep 2": (2, moe_of(num_shared_experts=1)),
    "bias, sigmoid, ep 4": (4, moe_of(balance="bias", scoring="sigmoid")),
    "one expert gets every token, ep 4": (4, moe_of(top_k=1, balance="bias", norm_topk_prob=False)),
    "no balance, 2 experts a token of 4, ep 4": (4, moe_of(n_experts=4, balance="none")),
}


def build(moe: MoEConfig, name: str) -> Decoder:
    model = Decoder(config_of(moe)).double()
    init_weights(model, 3)
    with torch.no_grad():
        for layer in list(model.layers)[1:]:
            layer.mlp.router.weight.mul_(20)  # routers that decide, far from ties
            if name.startswith("one expert"):
                layer.mlp.router.bias[5] = 100.0
    return model


def micro_batch(rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[list[int]]]:
    generator = torch.Generator().manual_seed(100 + rank)
    ids = torch.randint(0, 96, (ROWS, T), generator=generator)
    labels = torch.randint(0, 96, (ROWS, T), generator=generator)
    labels[:, : 3 + rank] = -100
    lens = [[5 + rank, T - 5 - rank], [7, 4 + rank, T - 11 - rank]]
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lens])
    return ids, labels, positions, lens


def total_loss(model: Decoder, rank: int) -> torch.Tensor:
    loss, aux = model.loss(*micro_batch(rank))
    return loss if aux is None else loss + aux * 40.0


def expert_rank(ep: int, moe: MoEConfig, name: str) -> Any:
    plan = ParallelPlan(dp_shard=WORLD, ep=ep)
    ranks = Ranks.of(plan, CPU)
    model = build(moe, name)
    apply_expert_parallel(model, ranks, plan)
    mlp = model.layers[1].mlp
    assert isinstance(mlp, MoEFeedForward)
    assert mlp.w_up.placements == (Shard(0),) and mlp.w_up.to_local().shape[0] == moe.num_experts // ep
    loss = total_loss(model, dist.get_rank())
    loss.backward()
    grads = {}
    for key, param in model.named_parameters():
        grad = param.grad
        assert grad is not None, key
        if isinstance(grad, DTensor):
            local = grad.to_local()
            if ranks.size("expert_fsdp") > 1:
                dist.all_reduce(local, group=ranks.group("expert_fsdp"))
            grads[key] = DTensor.from_local(local, grad.device_mesh, grad.placements).full_tensor()
        else:
            dist.all_reduce(grad)
            grads[key] = grad
    sync_router_load(model, ranks)
    model.post_step()
    return loss.detach(), grads, {key: value for key, value in model.named_buffers() if key.endswith("bias")}


def all_cases_rank() -> Any:
    return {name: expert_rank(ep, moe, name) for name, (ep, moe) in CASES.items()}


@pytest.fixture(scope="module")
def answers() -> list[Any]:
    return run_ranks(WORLD, all_cases_rank)


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_one_process(name: str, answers: list[Any]) -> None:
    moe = CASES[name][1]
    reference = build(moe, name)
    before = {key: value.clone() for key, value in reference.named_buffers()}
    losses = [total_loss(reference, rank) for rank in range(WORLD)]
    sum(losses).backward()  # type: ignore[union-attr]
    reference.post_step()
    for rank, (loss, grads, biases) in enumerate(answer[name] for answer in answers):
        assert torch.allclose(loss, losses[rank].detach(), rtol=0, atol=1e-9), name
        for key, param in reference.named_parameters():
            # An expert that no token reached has no gradient of its own, and zeros in its rows of the whole.
            assert param.grad is not None and torch.allclose(grads[key], param.grad, rtol=0, atol=1e-9), key
        for key, bias in biases.items():
            assert torch.equal(bias, reference.get_buffer(key)) and not torch.equal(bias, before[key]), key


# --- beside tensor parallel ------------------------------------------------------------------------------------------

TP_CASES = {
    "sequence parallel, loss": (True, moe_of(num_shared_experts=1)),
    "same tokens, bias": (False, moe_of(balance="bias", num_shared_experts=1)),
}


def tensor_rank() -> Any:
    results = {}
    for name, (sequence, moe) in TP_CASES.items():
        plan = ParallelPlan(dp_shard=2, ep=2, tp=2, sp=sequence)
        ranks = Ranks.of(plan, CPU)
        model = build(moe, name)
        apply_tensor_parallel(model, ranks, plan)
        apply_expert_parallel(model, ranks, plan)
        mlp = model.layers[1].mlp
        assert mlp.w_up.placements == (Shard(0), Shard(2)) and mlp.w_down.to_local().shape == (4, 8, 32)
        loss = total_loss(model, ranks.at("dp_shard"))
        loss.backward()
        grads = {}
        for key, param in model.named_parameters():
            grad = param.grad
            assert isinstance(grad, DTensor), key
            if key.endswith(EXPERT_WEIGHTS):
                grads[key] = grad.full_tensor()  # expert_fsdp is one rank
            else:
                dist.all_reduce(grad.to_local(), group=ranks.group("dp_shard"))
                grads[key] = grad.full_tensor()
        sync_router_load(model, ranks)
        model.post_step()
        results[name] = loss.detach(), grads, {k: v for k, v in model.named_buffers() if k.endswith("bias")}
    return results


def test_beside_tensor_parallel() -> None:
    answers = run_ranks(WORLD, tensor_rank)
    for name, (_, moe) in TP_CASES.items():
        reference = build(moe, name)
        losses = [total_loss(reference, dp) for dp in range(2)]
        sum(losses).backward()  # type: ignore[union-attr]
        reference.post_step()
        for rank in range(WORLD):
            loss, grads, biases = answers[rank][name]
            assert torch.allclose(loss, losses[rank // 2].detach(), rtol=0, atol=1e-9), name
            for key, param in reference.named_parameters():
                assert param.grad is not None
                assert torch.allclose(grads[key], param.grad, rtol=0, atol=1e-9), (name, key)
            assert all(torch.equal(bias, reference.get_buffer(key)) for key, bias in biases.items())


# --- edges -----------------------------------------------------------------------------------------------------------


def block(n_experts: int) -> MoEFeedForward:
    moe = moe_of(n_experts)
    mlp = MoEFeedForward(config_of(moe), moe).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for param in mlp.parameters():
            param.copy_(torch.randn(param.shape, generator=generator) / 5)
    return mlp


def empty_rank() -> Any:
    """Only rank 1 has tokens, all for an expert of rank 2; the others must neither hang nor lose their gradients."""
    plan = ParallelPlan(dp_shard=WORLD, ep=4)
    ranks = Ranks.of(plan, CPU)
    mlp = block(8)
    stage, layer = nn.Module(), nn.Module()
    stage.layers, layer.mlp = nn.ModuleDict({"7": layer}), mlp
    apply_expert_parallel(stage, ranks, plan)
    n = 3 if ranks.rank == 1 else 0
    x = torch.ones(n, 32, dtype=torch.float64, requires_grad=True)
    out = mlp.run_experts(x, [0, 0, 0, 0, 0, n, 0, 0])
    out.sum().backward()
    grads = [getattr(mlp, name).grad.to_local() for name in EXPERT_WEIGHTS]
    return out.detach(), [float(grad.abs().sum()) for grad in grads], x.grad


def test_ranks_without_tokens() -> None:
    answers = run_ranks(WORLD, empty_rank)
    mlp = block(8)
    expected = mlp.experts(torch.ones(3, 32, dtype=torch.float64), [0, 0, 0, 0, 0, 3, 0, 0])
    for rank, (out, grads, x_grad) in enumerate(answers):
        assert out.shape == ((3, 32) if rank == 1 else (0, 32))
        assert x_grad.shape == out.shape
        assert all((grad > 0) == (rank == 2) for grad in grads)
    assert torch.allclose(answers[1][0], expected, rtol=0, atol=1e-12)


def rows_rank() -> Any:
    rank, size = dist.get_rank(), dist.get_world_size()
    sent = [(rank + to) % 3 for to in range(size)]  # zeros among them
    received = [(source + rank) % 3 for source in range(size)]
    x = torch.arange(sum(sent), dtype=torch.float64)[:, None] + 100 * rank
    x.requires_grad_()
    y = exchange_rows(x, sent, received, dist.group.WORLD)
    (y * (rank + 1)).sum().backward()
    return x.detach(), y.detach(), x.grad


def test_rows_travel_and_their_gradients_come_back() -> None:
    answers = run_ranks(WORLD, rows_rank)
    for rank, (x, y, grad) in enumerate(answers):
        arriving = [
            answers[source][0].split([(source + to) % 3 for to in range(WORLD)])[rank] for source in range(WORLD)
        ]
        assert torch.equal(y, torch.cat(arriving))
        to = torch.arange(WORLD).repeat_interleave(torch.tensor([(rank + to) % 3 for to in range(WORLD)]))
        assert torch.equal(grad[:, 0], (to + 1).double()) and len(x) == len(grad)


def meta_rank() -> Any:
    plan = ParallelPlan(dp_shard=2, ep=2)
    ranks = Ranks.of(plan, CPU)
    with torch.device("meta"):
        model = Decoder(config_of(moe_of()))
    apply_expert_parallel(model, ranks, plan)
    w_down = model.layers[1].mlp.w_down
    assert isinstance(w_down, DTensor)
    try:
        apply_expert_parallel(Decoder(config_of(moe_of(n_experts=3))), ranks, plan)
    except AthanorError as error:
        return w_down.device.type, w_down.shape, w_down.to_local().shape, str(error)


def test_built_on_meta_and_an_indivisible_number_refused() -> None:
    for device, shape, local, message in run_ranks(2, meta_rank):
        assert device == "meta" and shape == (8, 16, 32) and local == (4, 16, 32)
        assert "ep 2 does not divide the 3 experts" in message and "parallel.ep" in message


def test_one_rank_changes_nothing() -> None:
    model = Decoder(config_of(moe_of()))
    door = model.layers[1].mlp.run_experts
    apply_expert_parallel(model, SimpleNamespace(), ParallelPlan())  # type: ignore[arg-type]
    assert model.layers[1].mlp.run_experts == door and not isinstance(model.layers[1].mlp.w_up, DTensor)
