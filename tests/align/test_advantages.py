"""Group advantages against the formula in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.align.advantages import group_advantages


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=4, max_size=4), min_size=1, max_size=5))
def test_each_group_sums_to_zero(rewards: list[list[float]]) -> None:
    for normalize in (True, False):
        advantages = group_advantages(torch.tensor(rewards), normalize)
        assert advantages.sum(1).abs().max() < 1e-9
        for group, out in zip(rewards, advantages, strict=True):
            assert (out == 0).all() == (len(set(group)) == 1)


@pytest.mark.parametrize("normalize", [True, False])
def test_formula(normalize: bool) -> None:
    rewards = np.array([[1.0, 0.0, 0.0, 1.0, 1.0], [0.0, 0.25, 1.0, 0.0, 0.0]])
    expected = rewards - rewards.mean(1, keepdims=True)
    if normalize:
        expected /= rewards.std(1, keepdims=True)
    np.testing.assert_allclose(group_advantages(torch.tensor(rewards), normalize).numpy(), expected, rtol=1e-5)
