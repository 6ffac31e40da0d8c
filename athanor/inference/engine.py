"""Incremental decoding: ragged prompts in one batch, each row with its own length, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from athanor.errors import AthanorError
from athanor.inference.sampling import Sampling, row_uniforms, sample
from athanor.model.cache import KVCache
from athanor.model.decoder import Choose, Decoder


@dataclass(frozen=True, slots=True)
class Generation:
    """What one prompt produced: ``ids`` ends with the stop token when ``finished``; ``logprobs``: one number a token.

    Not ``finished``: the row ran into ``max_new_tokens`` or the end of the model's context.
    """

    ids: list[int]
    logprobs: list[float]
    finished: bool


@dataclass(slots=True)
class _Step:
    """One token of every live row: rows_B says which prompt each belongs to."""

    rows_B: torch.Tensor
    ids_B: torch.Tensor
    logprobs_B: torch.Tensor
    stopped_B: torch.Tensor


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    seed: int | None = None,
    *,
    row_seeds: Sequence[int] | None = None,
    batch_size: int = 256,
) -> list[Generation]:
    """Continue every prompt until a stop token, ``max_new_tokens`` or the end of the context.

    A row's random stream is keyed by (seed, row_seeds[i]); ``seed`` defaults to ``sampling.seed``, ``row_seeds`` to the
    row's number. So a row says the same whatever shares its batch (to floating-point tolerance of the logits).
    At most ``batch_size`` rows decode at once; equal prompts are read once. Raises AthanorError for a prompt that is
    empty, holds an id outside the vocabulary, or does not fit the context with one token to spare.

    A model laid over ranks (``athanor.parallel.inference``) is called by all of them with the same arguments; where it
    has several copies, ``model.share`` gives each its rows, and every rank returns all.
    """
    check_prompts(model, prompts, max_new_tokens)
    seeds = list(range(len(prompts))) if row_seeds is None else list(row_seeds)
    if len(seeds) != len(prompts):
        raise AthanorError(f"{len(seeds)} row seeds for {len(prompts)} prompts", fix="give one seed for every prompt")
    out: dict[int, Generation] = {}
    # Prompts of like length share a batch (little padding), and equal prompts lie side by side.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), tuple(prompts[i])))
    base_seed = sampling.seed if seed is None else seed
    mine = order if model.share is None else model.share.part(order)
    with _evaluating(model):
        for start in range(0, len(mine), batch_size):
            rows = mine[start : start + batch_size]
            uniform_RN = row_uniforms(base_seed, [seeds[i] for i in rows], max_new_tokens)
            done = _collect(model, [prompts[i] for i in rows], sampling, stop_ids, max_new_tokens, uniform_RN)
            out |= zip(rows, done, strict=True)
    if model.share is not None:
        out = model.share.gather(out)
    return [out[i] for i in range(len(prompts))]


def stream(
    model: Decoder,
    prompt: Sequence[int],
    sampling: Sampling,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    seed: int | None = None,
    *,
    row_seed: int = 0,
) -> Iterator[int]:
    """Yield the tokens of one prompt as they come, stop token included; equal to ``generate([prompt], …)[0].ids``."""
    check_prompts(model, [prompt], max_new_tokens)
    uniform_RN = row_uniforms(sampling.seed if seed is None else seed, [row_seed], max_new_tokens)
    with _evaluating(model):
        for step in _decode(model, [prompt], sampling, stop_ids, max_new_tokens, uniform_RN):
            yield int(step.ids_B[0])


def check_prompts(model: Decoder, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Refuse what cannot be continued, saying which prompt and by how much it is too long."""
    context, vocab = model.config.max_position_embeddings, model.config.vocab_size
    if max_new_tokens < 1:
        raise AthanorError(f"max_new_tokens is {max_new_tokens}", fix="give at least 1")
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise AthanorError("the prompt is empty", where=f"prompt {i}", fix="give at least one token")
        if len(prompt) >= context:
            raise AthanorError(
                f"the prompt has {len(prompt)} tokens, {len(prompt) + 1 - context} more than the context of {context} "
                "holds with one new token",
                where=f"prompt {i}",
                fix=f"shorten it to {context - 1} tokens, or use a model with a longer context",
            )
        if min(prompt) < 0 or max(prompt) >= vocab:
            bad = next(t for t in prompt if not 0 <= t < vocab)
            raise AthanorError(
                f"token {bad} is outside the model's vocabulary of {vocab}",
                where=f"prompt {i}",
                fix="use the tokenizer that belongs to this model",
            )


@contextmanager
def _evaluating(model: Decoder) -> Iterator[None]:
    """Evaluation mode for the duration; the mode before comes back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _collect(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    uniform_RN: torch.Tensor,
) -> list[Generation]:
    """Run one batch to its end and cut the rows out of rectangular tensors."""
    n_rows, device = len(prompts), model_device(model)
    ids_RN = torch.zeros(n_rows, max_new_tokens, dtype=torch.int64, device=device)
    logprobs_RN = torch.zeros(n_rows, max_new_tokens, device=device)
    lens_R = torch.zeros(n_rows, dtype=torch.int64, device=device)
    finished_R = torch.zeros(n_rows, dtype=torch.bool, device=device)
    for t, step in enumerate(_decode(model, prompts, sampling, stop_ids, max_new_tokens, uniform_RN)):
        ids_RN[step.rows_B, t] = step.ids_B
        logprobs_RN[step.rows_B, t] = step.logprobs_B
        lens_R[step.rows_B] = t + 1
        finished_R[step.rows_B] = step.stopped_B
    columns = (ids_RN.tolist(), logprobs_RN.tolist(), lens_R.tolist(), finished_R.tolist())
    return [Generation(ids[:n], logp[:n], end) for ids, logp, n, end in zip(*columns, strict=True)]


@torch.no_grad()
def _decode(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    uniform_RN: torch.Tensor,
) -> Iterator[_Step]:
    """One step a yield. After it, rows that stopped or reached their limit are dropped from the batch and the cache."""
    device = model_device(model)
    uniform_RN = uniform_RN.to(device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
    stops_S = torch.tensor(sorted(set(stop_ids)), dtype=torch.int64, device=device)
    context = model.config.max_position_embeddings
    limits_B = torch.tensor([min(max_new_tokens, context - len(p)) for p in prompts], device=device)
    rows_B = torch.arange(len(prompts), device=device)
    cache, (ids_B, logprobs_B) = _prefill(
        model, prompts, int(limits_B.max()), lambda logits_BV: sample(logits_BV, sampling, uniform_RN[:, 0])
    )
    for t in range(int(limits_B.max())):
        stopped_B = torch.isin(ids_B, stops_S)
        yield _Step(rows_B, ids_B, logprobs_B, stopped_B)
        live_B = ~(stopped_B | (limits_B <= t + 1))
        n_live = int(live_B.sum())
        if n_live == 0:
            return
        if n_live < len(rows_B):
            kept_B = _drop_rows(cache, live_B, n_live)
            rows_B, ids_B, limits_B = rows_B[kept_B], ids_B[kept_B], limits_B[kept_B]
        uniform_B = uniform_RN[rows_B, t + 1]
        ids_B, logprobs_B = model.decode(
            ids_B[:, None],
            cache,
            torch.arange(n_live, device=device),
            torch.zeros_like(rows_B),
            lambda logits_BV, u_B=uniform_B: sample(logits_BV, sampling, u_B),  # type: ignore[misc]
        )
        cache.advance(1)


def _prefill(
    model: Decoder, prompts: Sequence[Sequence[int]], n_new: int, choose: Choose
) -> tuple[KVCache, tuple[torch.Tensor, torch.Tensor]]:
    """Read the prompts, right-padded, each distinct one once: (cache with a row per prompt, what ``choose`` makes of
    the last logits [B, V])."""
    device = model_device(model)
    distinct = {tuple(p): 0 for p in prompts}
    for i, key in enumerate(distinct):
        distinct[key] = i
    longest = max(len(p) for p in distinct)
    ids_UT = torch.zeros(len(distinct), longest, dtype=torch.int64)
    for i, prompt in enumerate(distinct):
        ids_UT[i, : len(prompt)] = torch.tensor(prompt)
    lens_U = torch.tensor([len(p) for p in distinct], device=device)
    rows_B = torch.tensor([distinct[tuple(p)] for p in prompts], device=device)
    dtype = next(model.parameters()).dtype
    cache = KVCache(model.cache_config, len(distinct), longest + n_new, dtype, device)
    chosen = model.decode(ids_UT.to(device), cache, rows_B, lens_U[rows_B] - 1, choose)
    cache.advance(lens_U)
    if len(distinct) < len(prompts):
        cache.select(rows_B)
    return cache, chosen


def _drop_rows(cache: KVCache, live_B: torch.Tensor, n_live: int) -> torch.Tensor:
    """Keep the live rows of the cache; returns their old row numbers in the new order.

    Live rows behind the first ``n_live`` places move into the holes of finished ones, so a step copies as many rows as
    finished, and a whole generation copies each row at most a few times, instead of the whole cache at every stop.
    """
    kept_B = torch.arange(n_live, device=live_B.device)
    holes = (~live_B[:n_live]).nonzero()[:, 0]
    movers = live_B[n_live:].nonzero()[:, 0] + n_live
    kept_B[holes] = movers
    for tensors in (cache.k, cache.v):
        for layer, tensor in enumerate(tensors):
            tensor[holes, :, : cache.longest] = tensor[movers, :, : cache.longest]
            tensors[layer] = tensor[:n_live]
    cache.lens_B = cache.lens_B[kept_B]
    cache.longest = int(cache.lens_B.max())
    return kept_B


def model_device(model: Decoder) -> torch.device:
    """Where the model's parameters live."""
    return next(model.parameters()).device
