"""Attention's figures are those from which the planner gives the measured times back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from athanor.calibrate.clock import Clock
from athanor.calibrate.kernels import AttentionTiming, Heads, fit_attention, optimizer_s, time_attention
from athanor.plan.cluster import Attention, load_cluster
from athanor.plan.ops import Ops
from athanor.train.flops import attended_pairs

HEADS = Heads(8, 2, 64)


def test_fitted_attention_gives_the_planners_times_back():
    known = Attention(forward=0.35, backward=0.22, half_length=90.0)
    device = load_cluster("laptop").device.model_copy(update={"attention": known, "launch_s": 3e-6})
    ops, timings = Ops(device), []
    for length in (16, 64, 256, 1024):
        tokens = 2048
        pairs = attended_pairs([length] * (tokens // length))
        flops = 4.0 * HEADS.query * HEADS.size * pairs
        ahead, behind = (
            float(ops.attention_s(factor * flops, pairs / tokens, "bf16", backward))
            for factor, backward in ((1.0, False), (2.5, True))
        )
        timings.append(AttentionTiming(length, tokens, ahead, behind))
    found = fit_attention(timings, HEADS, device.peak_flops_per_s["bf16"], device.launch_s)
    assert found.forward == pytest.approx(known.forward, rel=0.03)
    assert found.backward == pytest.approx(known.backward, rel=0.03)
    assert found.half_length == pytest.approx(known.half_length, rel=0.08)  # from a grid of 120 values


def test_attention_takes_longer_for_longer_documents():
    clock = Clock(torch.device("cpu"), budget_s=0.2, kind="cpu")
    short, long = time_attention(clock, Heads(4, 4, 32), torch.float32, (16, 1024))
    assert short.tokens == long.tokens == 2048
    assert long.forward_s > short.forward_s and long.backward_s > short.backward_s
    assert min(short.forward_s, short.backward_s) > 0


def test_an_update_is_proportional_to_the_parameters():
    clock = Clock(torch.device("cpu"), budget_s=0.4, kind="cpu")
    one, four = (optimizer_s(clock, n, torch.float32) for n in (2_000_000, 8_000_000))
    assert 2 < four / one < 8 and np.isfinite(one)
