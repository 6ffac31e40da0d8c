"""Operation counts against torch's own counter and published formulas."""

import pytest
import torch
from tiny import CONFIG, make_model
from torch.utils.flop_counter import FlopCounterMode

from athanor.model.config import MoEConfig
from athanor.model.params import count_params
from athanor.recipe.presets import PRESETS
from athanor.train.flops import (
    attended_pairs,
    flops_per_token,
    layer_matmul_params,
    measured_gemm_flops,
    peak_flops,
    train_flops,
)


def test_matrix_products_equal_the_counter_of_torch():
    """Linear layers only: one-token documents leave attention with one pair each, which is counted apart."""
    model = make_model()
    ids = torch.arange(24).view(1, 24)
    with FlopCounterMode(display=False) as counter:
        model.loss(ids, ids, torch.zeros_like(ids), [[1] * 24])[0].backward()
    by_operator = counter.get_flop_counts()["Global"]
    products = sum(count for op, count in by_operator.items() if str(op) in ("aten.mm", "aten.addmm"))
    matmuls = train_flops(CONFIG, 24, 0)
    # the gradient of the first product's input is needed too: it flows into the embedding
    assert products == matmuls


def test_palm_formula():
    """PaLM (arXiv 2204.02311, appendix B): 6N + 12·L·H·Q·T operations a token, N without the embedding lookup."""
    config = PRESETS["llama3-8b"]
    seq_len = 8192
    matrices = count_params(config) - config.vocab_size * config.hidden_size - 65 * config.hidden_size
    palm = 6 * matrices + 12 * 32 * 32 * 128 * seq_len
    assert flops_per_token(config, seq_len, "full") == pytest.approx(palm, rel=1e-9)
    halved = 6 * matrices + 12 * 32 * 32 * 128 * (seq_len + 1) / 2
    assert flops_per_token(config, seq_len, "causal") == pytest.approx(halved, rel=1e-9)


def test_experts_count_as_many_as_a_token_visits():
    moe = MoEConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=24, num_shared_experts=1)
    config = CONFIG.model_copy(update={"moe": moe})
    norms = 4 * 2 * 16 + 16
    assert layer_matmul_params(config) == count_params(config, active=True) - 2 * 61 * 16 - norms


def test_pairs():
    assert attended_pairs([3, 1, 5]) == 6 + 1 + 15
    assert attended_pairs([3, 1, 5], "full") == 9 + 1 + 25
    slow = sum(min(i + 1, 4) for n in (3, 9, 4) for i in range(n))
    assert attended_pairs([3, 9, 4], sliding_window=4) == slow
    assert attended_pairs([]) == 0


def test_labels_decide_the_head():
    assert train_flops(CONFIG, 10, 0) - train_flops(CONFIG, 10, 0, head_tokens=4) == 6 * 61 * 16 * 6


def test_peak_is_measured_once_and_named():
    cpu = torch.device("cpu")
    rate, source = peak_flops(cpu, torch.float32)
    assert rate == peak_flops(cpu, torch.float32)[0] and "GEMM" in source
    again = measured_gemm_flops(cpu, torch.float32)
    assert 0.1 < again / rate < 10 and rate > 1e9
