"""Sampling against the distribution written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from athanor.errors import AthanorError
from athanor.inference.sampling import GREEDY, Sampling, candidates, row_uniforms, sample


def reference(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The distribution in float64, one row at a time, straight from the definitions."""
    scaled = logits.astype(np.float64) / temperature
    order = np.argsort(-scaled, kind="stable")
    kept = list(order[: top_k or len(order)])
    weights = {int(i): float(np.exp(scaled[i] - scaled.max())) for i in kept}
    mass = sum(weights.values())
    nucleus, seen = {}, 0.0
    for i in kept:
        if seen >= top_p:
            break
        nucleus[int(i)] = weights[int(i)] / mass
        seen += weights[int(i)] / mass
    out = np.zeros(len(logits))
    for i, w in nucleus.items():
        out[i] = w / sum(nucleus.values())
    return out


CASES = [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.3, 5, 1.0), (1.0, 0, 0.6), (0.9, 8, 0.75), (2.0, 1, 1.0), (1.0, 0, 1e-6)]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), CASES)
def test_distribution_equals_the_float64_formula(temperature: float, top_k: int, top_p: float) -> None:
    logits_BV = torch.randn(6, 23, generator=torch.Generator().manual_seed(1)) * 2
    scores_BK, ids_BK = candidates(logits_BV, Sampling(temperature, top_k, top_p))
    probs_BV = torch.zeros(6, 23)
    ids = torch.arange(23).expand(6, 23) if ids_BK is None else ids_BK
    probs_BV.scatter_(1, ids, scores_BK.softmax(-1))
    for row, probs in zip(logits_BV.numpy(), probs_BV.numpy(), strict=True):
        np.testing.assert_allclose(probs, reference(row, temperature, top_k, top_p), atol=2e-6)


def test_draws_follow_the_distribution_and_report_its_logprob() -> None:
    logits_V = torch.randn(12, generator=torch.Generator().manual_seed(2))
    sampling, n = Sampling(0.8, 7, 0.9), 40_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ids_B, logp_B = sample(logits_V.expand(n, 12), sampling, uniform)
    expected = reference(logits_V.numpy(), 0.8, 7, 0.9)
    seen = np.bincount(ids_B.numpy(), minlength=12) / n
    assert (seen[expected == 0] == 0).all()
    np.testing.assert_allclose(seen, expected, atol=4 * np.sqrt(0.25 / n))
    np.testing.assert_allclose(logp_B.exp().numpy(), expected[ids_B.numpy()], rtol=1e-5)


def test_inverse_cdf_edges_never_pick_an_impossible_token() -> None:
    logits_BV = torch.tensor([[float("-inf"), 1.0, float("-inf"), 1.0, float("-inf")]]).expand(3, 5)
    ids_B, _ = sample(logits_BV, Sampling(), torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64))
    assert ids_B.tolist() == [1, 3, 3]


def test_greedy_takes_the_argmax_with_the_models_logprob() -> None:
    logits_BV = torch.randn(4, 9, generator=torch.Generator().manual_seed(4))
    ids_B, logp_B = sample(logits_BV, GREEDY, torch.zeros(4))
    assert torch.equal(ids_B, logits_BV.argmax(-1))
    torch.testing.assert_close(logp_B, logits_BV.double().log_softmax(-1).amax(-1).float())


def test_row_streams_depend_on_seed_and_row_only() -> None:
    whole = row_uniforms(7, [0, 1, 2], 10)
    assert torch.equal(row_uniforms(7, [2], 4)[0], whole[2, :4])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(row_uniforms(8, [0], 10)[0], whole[0])
    assert ((whole >= 0) & (whole < 1)).all()
    assert row_uniforms(-1, [2**63], 2).shape == (1, 2)


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -2}, {"top_p": 0.0}])
def test_impossible_settings_are_refused(bad: dict) -> None:
    with pytest.raises(AthanorError):
        Sampling(**bad)
