"""Perplexity of documents: against one document at a time in float64, budgets, batches, quantiles and thresholds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from athanor.data.steps.base import Docs, run_in_memory
from athanor.data.steps.perplexity import Perplexity
from athanor.errors import AthanorError
from athanor.inference.session import Speaker
from athanor.model.hf import save_model_dir
from athanor.recipe.steps.quality import PerplexityOptions
from athanor.tokenizer.train import train_tokenizer
from tests.inference.small import small_decoder

TEXTS = ["the cat sat on the mat", "小明有三个苹果", "x" * 300, "", "the cat ran. " * 9]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(["the cat sat on the mat, the cat ran", "小明有三个苹果，小红有三个苹果"] * 3, 280)
    path = tmp_path_factory.mktemp("proxy")
    save_model_dir(small_decoder(vocab_size=280, max_position_embeddings=96), path)
    tokenizer.save(path)
    return path


def _step(model_dir: Path, **options: object) -> Perplexity:
    return Perplexity(PerplexityOptions.model_validate({"model": str(model_dir), "device": "cpu", **options}))


def test_costs_are_those_of_each_document_alone(model_dir: Path) -> None:
    speaker = Speaker.open(model_dir, device="cpu")
    columns = _step(model_dir).annotate(Docs.of(TEXTS))
    for i, text in enumerate(TEXTS):
        ids = speaker.tokenizer.encode(text)[:96]
        if not ids:
            assert np.isnan(columns["bits_per_byte"][i])
            continue
        with torch.no_grad():
            logits = speaker.model(torch.tensor([[speaker.tokenizer.eos_id, *ids[:-1]]]))[0].double()
        nats = -logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].sum().item()
        n_bytes = len(speaker.tokenizer.decode_bytes(ids))
        assert columns["tokens"][i] == len(ids)
        assert columns["nats_per_token"][i] == pytest.approx(nats / len(ids), abs=2e-3)
        assert columns["bits_per_byte"][i] == pytest.approx(nats / np.log(2) / n_bytes, abs=2e-3)


def test_budget_and_batches_do_not_mix_documents(model_dir: Path) -> None:
    small = _step(model_dir, batch_tokens=16).annotate(Docs.of(TEXTS))
    large = _step(model_dir, batch_tokens=10**6).annotate(Docs.of(TEXTS[::-1]))
    np.testing.assert_allclose(small["bits_per_byte"], large["bits_per_byte"][::-1], atol=1.1e-3)
    few = _step(model_dir, max_tokens=4).annotate(Docs.of(TEXTS))
    assert few["tokens"].max() == 4


def test_quantiles_and_thresholds(model_dir: Path) -> None:
    docs = Docs.of(TEXTS)
    outcome = run_in_memory([_step(model_dir)], docs)
    assert outcome.dropped == []
    quantiles = outcome.measures["perplexity.quantile"].to_numpy(zero_copy_only=False)
    assert sorted(quantiles[~np.isnan(quantiles)]) == pytest.approx([0.125, 0.375, 0.625, 0.875])
    bits = outcome.measures["perplexity.bits_per_byte"].to_numpy(zero_copy_only=False)
    highest = TEXTS[int(np.nanargmax(bits))]
    dropped = run_in_memory([_step(model_dir, max_quantile=0.8)], docs)
    assert [t for t in TEXTS if t not in dropped.kept.texts] == [highest]
    assert dropped.dropped[0][2].startswith("high perplexity: quantile")
    low = run_in_memory([_step(model_dir, min_bits_per_byte=float(np.nanmax(bits)) - 1e-6)], docs)
    assert set(low.kept.texts) == {highest, ""}


def test_thresholds_are_no_part_of_the_measures(model_dir: Path) -> None:
    key = _step(model_dir).compute_key()
    assert key == _step(model_dir, max_quantile=0.5).compute_key() != _step(model_dir, max_tokens=9).compute_key()
    with pytest.raises(AthanorError, match="no model directory"):
        _step(model_dir / "absent").compute_key()
