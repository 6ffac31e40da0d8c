"""A tiny model, packed rows with uneven labels, and the same training run on one process and on ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from athanor.data.types import IGNORE
from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.model.moe import MoEFeedForward, apply_experts
from athanor.parallel.data import apply_data_parallel, gradient_sync, reduces_each_micro_batch
from athanor.parallel.mesh import Ranks
from athanor.parallel.optimizer import ShardedAdamW
from athanor.recipe.schema import OptimizerRecipe
from athanor.train.optimizer import AdamW

VOCAB, T, ROWS, STEPS = 67, 24, 12, 5  # a vocabulary and widths that 4 ranks do not divide
LR, WEIGHTS = 3e-3, ("w_gate", "w_up", "w_down")


def config(moe: bool = False, tied: bool = False) -> ModelConfig:
    mixture = MoEConfig(  # no router loss: that is no sum over tokens, so it depends on what a micro-batch is
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, num_shared_experts=1, balance="none"
    )
    return ModelConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=54,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        norm_placement="depth_scaled_sandwich",
        tie_word_embeddings=tied,
        max_position_embeddings=64,
        moe=mixture if moe else None,
    )


def model_of(cfg: ModelConfig, dtype: torch.dtype, seed: int = 0) -> Decoder:
    model = Decoder(cfg)
    init_weights(model, seed)
    return model.double() if dtype == torch.float64 else model


def row(step: int, i: int):
    """Row i of a step: ids, labels, positions, document lengths. Rows differ in how many labels they have."""
    g = torch.Generator().manual_seed(1000 * step + i)
    first = int(torch.randint(4, T - 4, (), generator=g))
    lens = [first, T - first]
    ids = torch.cat([(torch.randint(0, VOCAB, (), generator=g) + torch.arange(n)) % VOCAB for n in lens])
    labels = torch.cat([torch.cat([doc[1:], torch.tensor([IGNORE])]) for doc in ids.split(lens)])
    labels[: 2 * (i % 5)] = IGNORE
    return ids, labels, torch.cat([torch.arange(n) for n in lens]), lens


def micro(step: int, indices: list[int]):
    ids, labels, positions, lens = zip(*(row(step, i) for i in indices), strict=True)
    return torch.stack(ids), torch.stack(labels), torch.stack(positions), list(lens)


def weight(step: int) -> int:
    return int((micro(step, list(range(ROWS)))[1] != IGNORE).sum())


def one_process(cfg, dtype, compute, clip=0.5, fused=True, broken_step=None, seed=0):
    """(losses, norms, skips, parameters) of the reference run: athanor.train.optimizer.AdamW on the whole batch."""
    model = model_of(cfg, dtype, seed)
    optimizer = AdamW(model, OptimizerRecipe(fused=fused), compute)
    losses, norms, skips = [], [], []
    for step in range(STEPS):
        total = 0.0
        for i in range(ROWS // 2):
            ids, labels, positions, lens = micro(step, [2 * i, 2 * i + 1])
            loss, _ = model.loss(ids, labels, positions, lens)
            total += float(loss.detach())
            (loss / weight(step)).backward()
            if step == broken_step and i == 0:
                model.layers[0].mlp.up_proj.weight.grad[3, 3] = float("nan")
            optimizer.accumulate()
        stats = optimizer.step(LR, clip)
        losses.append(total / weight(step))
        norms.append(float(stats.grad_norm))
        skips.append(float(stats.skipped))
    return losses, norms, skips, {name: p.clone() for name, p in optimizer.masters.items()}


def laid_out(plan, cfg, dtype, compute, seed=0):
    """This rank's (ranks, model, optimizer recipe applied)."""
    ranks = Ranks.of(plan, torch.device("cpu"))
    model = model_of(cfg, dtype, seed)
    if plan.ep > 1:
        spread_experts(model, ranks)
    apply_data_parallel(model, ranks, plan, compute)
    return ranks, model


def spread(ranks, cfg, seed):
    """A model whose parameters lie in the plan's layout: rows, columns or copies over tp, stages over pp."""
    plan = ranks.plan
    model = model_of(cfg, torch.float64, seed)
    if plan.pp > 1:  # the embedding is on both ends, as when it is tied
        at = ranks.at("pp")
        model.layers = torch.nn.ModuleDict({str(at): model.layers[at]})
        if at == 0:
            model.final_norm = model.lm_head = None
        elif not cfg.tie_word_embeddings:
            model.embed_tokens = None
    if plan.ep > 1:
        spread_experts(model, ranks)
    if plan.tp > 1:
        for module in model.modules():
            for name, param in list(module.named_parameters(recurse=False)):
                place = Replicate() if param.ndim < 2 else Shard(1) if param.shape[1] > param.shape[0] else Shard(0)
                cut = distribute_tensor(param.detach(), ranks.sub("tp"), [place], src_data_rank=None)
                setattr(module, name, torch.nn.Parameter(cut))
    apply_data_parallel(model, ranks, plan, torch.float64)
    return model


def spread_experts(model: Decoder, ranks: Ranks) -> None:
    """Experts as DTensors over ep, gathered for each use: the slow twin of expert parallel, with the same gradients."""
    for layer in model.layers:
        mlp = layer.mlp
        if not isinstance(mlp, MoEFeedForward):
            continue
        for name in WEIGHTS:
            spread = distribute_tensor(getattr(mlp, name).detach(), ranks.sub("ep"), [Shard(0)], src_data_rank=None)
            setattr(mlp, name, torch.nn.Parameter(spread))
        mlp.run_experts = _gathered(mlp)


def _gathered(mlp):
    def run(x_MD, counts):
        whole = [getattr(mlp, name).redistribute(placements=[Replicate()]) for name in WEIGHTS]
        return apply_experts(x_MD, counts, *(w.to_local(grad_placements=[Partial()]) for w in whole), mlp.act)

    return run


def step_of(ranks, model, optimizer, plan, step, clip, poison=False):
    """One step on this rank's rows: (its share of the summed loss, StepStats)."""
    optimizer.zero_grad()
    mine = list(range(ROWS))[ranks.at("loss") :: ranks.size("loss")]  # other rows together than one process has
    micros = [mine[i::3] for i in range(3)]
    total = 0.0
    for i, indices in enumerate(micros):
        gradient_sync(model, reduces_each_micro_batch(plan) or i == len(micros) - 1)
        ids, labels, positions, lens = micro(step, indices)
        loss, _ = model.loss(ids, labels, positions, lens)
        total += float(loss.detach())
        (loss / weight(step)).backward()
    if poison:
        dict(model.named_parameters())["layers.0.mlp.up_proj.weight"].grad.to_local()[0, 0] = float("nan")
    return total, optimizer.step(LR, clip)


def train(ranks, model, optimizer, plan, clip=0.5, broken_step=None, steps=range(STEPS)):
    """(losses, norms, skips) of some steps of a laid-out model."""
    losses, norms, skips = [], [], []
    for step in steps:
        poison = step == broken_step and ranks.rank == 1
        total, stats = step_of(ranks, model, optimizer, plan, step, clip, poison)
        summed = torch.tensor(total, dtype=torch.float64)
        dist.all_reduce(summed, group=ranks.group("loss"))
        losses.append(float(summed) / weight(step))
        norms.append(float(stats.grad_norm))
        skips.append(float(stats.skipped))
    return losses, norms, skips


def on_ranks(plan, cfg, dtype, compute, clip=0.5, fused=True, broken_step=None, seed=0):
    """What ``one_process`` gives, from this rank of a laid-out run."""
    ranks, model = laid_out(plan, cfg, dtype, compute, seed)
    optimizer = ShardedAdamW([model], ranks, OptimizerRecipe(fused=fused))
    return *train(ranks, model, optimizer, plan, clip, broken_step), whole(optimizer.masters)


def whole(tensors):
    """Shards → whole tensors."""
    return {n: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone() for n, t in tensors.items()}


def compare(got, expected, rtol, note=""):
    """Losses, norms, skips and parameters of two runs."""
    for ours, theirs in zip(got[:3], expected[:3], strict=True):
        near = [
            a == b or abs(a - b) <= rtol * max(1, abs(b)) or (a != a and b != b)
            for a, b in zip(ours, theirs, strict=True)
        ]
        assert len(ours) == len(theirs) and all(near), (note, ours, theirs)
    assert got[3].keys() == expected[3].keys()
    for name, tensor in got[3].items():
        torch.testing.assert_close(
            tensor, expected[3][name], rtol=rtol, atol=rtol, msg=lambda m, n=name: f"{note} {n}: {m}"
        )
