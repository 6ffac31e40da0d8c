"""The GRPO objective against the formula written by hand in float64, and packed rollouts against single sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from athanor.align.grpo import GRPO
from athanor.align.packing import Episode, pack_episodes
from athanor.data.types import IGNORE, Batch
from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights


def decoder(seed: int = 0) -> Decoder:
    config = ModelConfig(
        vocab_size=29,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        norm_placement="depth_scaled_sandwich",
        init="normal",
        initializer_range=0.4,
    )
    model = Decoder(config)
    init_weights(model, seed)
    return model.double()


def episodes(n: int = 7) -> list[Episode]:
    g = torch.Generator().manual_seed(0)

    def ids(low: int, high: int) -> list[int]:
        return torch.randint(2, 29, (int(torch.randint(low, high, (1,), generator=g)),), generator=g).tolist()

    out = []
    for i in range(n):
        answer = ids(1, 9)
        logprobs = (-3 * torch.rand(len(answer), generator=g)).tolist()
        out.append(Episode(ids(2, 6), answer, logprobs, (-1.0) ** i * (0.3 + i)))
    return out


def by_hand(model: Decoder, eps: list[Episode], old: Decoder | None, ref: Decoder | None, opts: dict[str, Any]) -> Any:
    """Sum of the token losses, one unpacked sequence at a time, from plain logits in float64."""
    total, tokens, bound = torch.zeros((), dtype=torch.float64), 0, 0
    for e in eps:
        ids = torch.tensor([e.prompt + e.answer])
        at = torch.arange(len(e.prompt) - 1, ids.shape[1] - 1)

        def logp(m: Decoder, ids: torch.Tensor = ids, at: torch.Tensor = at) -> torch.Tensor:
            return (m(ids[:, :-1])[0] / opts["temperature"]).log_softmax(-1)[at, ids[0, at + 1]]

        new = logp(model)
        before = new.detach() if old is None else torch.tensor(e.logprobs, dtype=torch.float32).double()
        for t in range(len(e.answer)):
            ratio = torch.exp(new[t] - before[t])
            low, high = 1 - opts["clip_low"], 1 + opts["clip_high"]
            plain, clipped = ratio * e.advantage, ratio.clamp(low, high) * e.advantage
            bound += int(clipped < plain)
            total = total - torch.minimum(plain, clipped)
            if ref is not None:
                delta = logp(ref)[t].detach() - new[t]
                total = total + opts["kl_coef"] * (delta.exp() - delta - 1)
            tokens += 1
    return total, tokens, bound


CASES = {
    "on policy": (True, 0.0),
    "off policy": (False, 0.0),
    "off policy, kl": (False, 0.05),
    "on policy, kl": (True, 0.3),
}


@pytest.mark.parametrize(("on_policy", "kl_coef"), CASES.values(), ids=CASES)
def test_value_and_gradient_equal_the_formula(on_policy: bool, kl_coef: float) -> None:
    opts = {"temperature": 0.8, "clip_low": 0.2, "clip_high": 0.4, "kl_coef": kl_coef}
    model, twin, ref, eps = decoder(), decoder(), decoder(1), episodes()
    total, tokens, bound = by_hand(twin, eps, None if on_policy else twin, ref if kl_coef else None, opts)
    (total / tokens).backward()
    objective = GRPO(**opts, on_policy=on_policy)  # type: ignore[arg-type]
    batches = pack_episodes(eps, 16, 32, pad_id=1)
    for b in batches if kl_coef else ():
        with torch.no_grad():
            scores = ref.token_logprobs(b.input_ids_BT, b.labels_BT, b.positions_BT, b.doc_lens, 0.8)
        b.extras["ref_logprob_BT"] = scores[0]
    assert len(batches) > 1
    weight = sum(objective.weight(b) for b in batches)
    losses = [objective(model, b) for b in batches]
    assert weight == tokens
    (torch.stack([loss.loss_sum for loss in losses]).sum() / weight).backward()
    # advantages and recorded log-probabilities travel in float32, the model is float64
    torch.testing.assert_close(sum(loss.loss_sum for loss in losses), total, rtol=2e-6, atol=1e-5)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    clipped = sum(float(loss.metrics["clip_share"][0]) for loss in losses)
    assert clipped == bound
    assert (bound > 0) == (not on_policy)


def test_packing_equals_single_sequences() -> None:
    model, eps = decoder(), episodes(12)
    batches = pack_episodes(eps, 20, None, pad_id=1)
    (batch,) = batches
    logp_BT, _ = model.token_logprobs(batch.input_ids_BT, batch.labels_BT, batch.positions_BT, batch.doc_lens)
    found = []
    for b, lens in enumerate(batch.doc_lens):
        assert sum(lens) == 20
        at = 0
        for n in lens:
            mask = batch.labels_BT[b, at : at + n] != IGNORE
            if mask.any():
                found.append((batch.labels_BT[b, at : at + n][mask].tolist(), logp_BT[b, at : at + n][mask]))
            assert batch.positions_BT[b, at : at + n].tolist() == list(range(n))
            at += n
    assert sorted(ids for ids, _ in found) == sorted(e.answer for e in eps)
    for ids, packed in found:
        e = next(e for e in eps if e.answer == ids)
        whole = torch.tensor([e.prompt + e.answer])
        single = model(whole[:, :-1])[0].log_softmax(-1).gather(-1, whole[0, 1:, None])[len(e.prompt) - 1 :, 0]
        torch.testing.assert_close(packed.double(), single, rtol=1e-5, atol=1e-5)


def test_micro_batches_do_not_change_the_sum() -> None:
    model, eps, objective = decoder(), episodes(10), GRPO()

    def total(micro: int | None) -> tuple[float, float]:
        batches = pack_episodes(eps, 16, micro, pad_id=1)
        return sum(float(objective(model, b).loss_sum.detach()) for b in batches), sum(
            objective.weight(b) for b in batches
        )

    whole, parts = total(None), total(16)
    assert whole[1] == parts[1] == sum(len(e.answer) for e in eps)
    assert abs(whole[0] - parts[0]) < 1e-6


def test_what_is_missing_is_named() -> None:
    with pytest.raises(AthanorError, match="takes 14 positions, a row has 8"):
        pack_episodes([Episode([1] * 10, [2] * 5, [0.0] * 5, 1.0)], 8, None, pad_id=1)
    batch = pack_episodes(episodes(), 64, None, pad_id=1)[0]
    bare = Batch(batch.input_ids_BT, batch.labels_BT, batch.positions_BT, batch.doc_lens)
    with pytest.raises(AthanorError, match="advantage_BT"):
        GRPO()(decoder(), bare)
    with pytest.raises(AthanorError, match="ref_logprob_BT"):
        GRPO(kl_coef=0.1)(decoder(), batch)
