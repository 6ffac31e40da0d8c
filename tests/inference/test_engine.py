"""Incremental decoding against full recomputation, and rows against themselves in other company."""

from __future__ import annotations

import pytest
import torch

from athanor.errors import AthanorError
from athanor.inference.engine import _drop_rows, _prefill, generate, stream
from athanor.inference.sampling import GREEDY, Sampling
from athanor.model.cache import KVCache
from athanor.model.decoder import Decoder
from tests.inference.small import KINDS, small_decoder

PROMPTS = [[5, 9, 11], [7], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [5, 9, 11], [60, 1, 2, 3, 4, 5]]


def recompute(model: Decoder, prompt: list[int], n: int, stops: list[int]) -> tuple[list[int], list[float]]:
    """Greedy continuation with a whole forward pass for every token."""
    ids, logprobs = list(prompt), []
    with torch.no_grad():
        for _ in range(n):
            logp_V = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
            ids.append(int(logp_V.argmax()))
            logprobs.append(float(logp_V.max()))
            if ids[-1] in stops:
                break
    return ids[len(prompt) :], logprobs


@pytest.mark.parametrize("kind", KINDS)
def test_cached_logits_equal_full_recomputation(kind: str) -> None:
    model = small_decoder(kind)
    ids_BT = torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(0))
    lens = [4, 9, 1]
    with torch.no_grad():
        prompts = [ids_BT[b, :n].tolist() for b, n in enumerate(lens)]
        cache, (logits_BV, _) = _prefill(model, prompts, 11, lambda logits_BV: (logits_BV, logits_BV))
        for step in range(11):
            for b, n in enumerate(lens):
                whole_V = model(ids_BT[b : b + 1, : n + step])[0, -1]
                assert (logits_BV[b] - whole_V).abs().max() < 1e-5 * max(1.0, float(whole_V.abs().max()))
            if step == 10:
                break
            new_B = torch.tensor([ids_BT[b, n + step] for b, n in enumerate(lens)])
            logits_BV = model(new_B[:, None], cache=cache)[:, -1]
            cache.advance(1)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_ragged_batch_equals_recomputation(kind: str) -> None:
    model, stops = small_decoder(kind), [17, 23, 40, 41, 42, 43]
    out = generate(model, PROMPTS, GREEDY, stops, 24)
    assert len({len(g.ids) for g in out}) > 1, "rows should end at different steps for this test to mean anything"
    for prompt, got in zip(PROMPTS, out, strict=True):
        ids, logprobs = recompute(model, prompt, 24, stops)
        assert got.ids == ids
        assert got.finished == (ids[-1] in stops)
        torch.testing.assert_close(torch.tensor(got.logprobs), torch.tensor(logprobs), atol=2e-4, rtol=1e-4)


def test_sampled_row_does_not_depend_on_its_batch() -> None:
    model, sampling, stops = small_decoder(), Sampling(1.2, top_k=30, top_p=0.95), [1, 2, 3, 4]
    whole = generate(model, PROMPTS, sampling, stops, 30, seed=5)
    assert whole[0].ids != whole[3].ids, "equal prompts have streams of their own"
    for i, prompt in enumerate(PROMPTS):
        assert generate(model, [prompt], sampling, stops, 30, seed=5, row_seeds=[i])[0].ids == whole[i].ids
    for batch_size in (1, 2, 3):
        again = generate(model, PROMPTS, sampling, stops, 30, seed=5, batch_size=batch_size)
        assert [g.ids for g in again] == [g.ids for g in whole]
    assert [g.ids for g in generate(model, PROMPTS, sampling, stops, 30, seed=6)] != [g.ids for g in whole]


def test_logprobs_are_those_of_the_model_at_the_temperature() -> None:
    model = small_decoder()
    for prompt, g in zip(PROMPTS, generate(model, PROMPTS, Sampling(0.7), [], 8, seed=1), strict=True):
        ids = torch.tensor([prompt + g.ids])
        with torch.no_grad():
            logp = (model(ids[:, :-1])[0] / 0.7).log_softmax(-1).gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
        torch.testing.assert_close(torch.tensor(g.logprobs), logp, atol=2e-4, rtol=1e-4)


def test_stream_equals_generate() -> None:
    model, sampling = small_decoder(), Sampling(1.0, seed=3)
    expected = generate(model, [PROMPTS[2]], sampling, [1, 2, 3], 40)[0].ids
    grad_modes = []
    got = []
    for token in stream(model, PROMPTS[2], sampling, [1, 2, 3], 40):
        grad_modes.append(torch.is_grad_enabled())
        got.append(token)
    assert got == expected
    assert all(grad_modes), "the caller's gradient mode is its own between tokens"


def test_finished_rows_leave_the_cache() -> None:
    model = small_decoder()
    cache = KVCache(model.config, 6, 4, torch.float32)
    for tensors in (cache.k, cache.v):
        for t in tensors:
            t.copy_(torch.arange(6.0)[:, None, None, None].expand_as(t))
    cache.advance(torch.tensor([4, 1, 2, 3, 1, 2]))
    live = torch.tensor([False, True, True, False, True, True])
    kept = _drop_rows(cache, live, 4)
    assert sorted(kept.tolist()) == [1, 2, 4, 5]
    assert cache.lens_B.tolist() == [[4, 1, 2, 3, 1, 2][i] for i in kept.tolist()]
    assert cache.longest == 2
    for tensors in (cache.k, cache.v):
        for t in tensors:
            assert t.shape[0] == 4
            assert t[:, 0, : cache.longest, 0].tolist() == [[float(i)] * 2 for i in kept.tolist()]


def test_generation_ends_with_the_context() -> None:
    model = small_decoder()
    out = generate(model, [[1] * 60, [2] * 3], GREEDY, [], 30)
    assert [len(g.ids) for g in out] == [4, 30]
    assert not out[0].finished


def test_training_mode_comes_back() -> None:
    model = small_decoder().train()
    generate(model, [[1]], GREEDY, [], 2)
    assert model.training


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([[1], [2] * 70], "prompt 1: the prompt has 70 tokens, 7 more than the context of 64"),
        ([[2] * 64], "64 tokens, 1 more than"),
        ([[]], "empty"),
        ([[61]], "outside the model's vocabulary of 61"),
    ],
)
def test_bad_prompts_are_named(prompts: list[list[int]], says: str) -> None:
    model = small_decoder()
    with pytest.raises(AthanorError, match=says):
        generate(model, prompts, GREEDY, [], 4)
    with pytest.raises(AthanorError, match=says.removeprefix("prompt 1: ")):
        list(stream(model, prompts[-1], GREEDY, [], 4))


def test_nothing_to_do() -> None:
    model = small_decoder()
    assert generate(model, [], GREEDY, [], 4) == []
    with pytest.raises(AthanorError, match="max_new_tokens"):
        generate(model, [[1]], GREEDY, [], 0)
