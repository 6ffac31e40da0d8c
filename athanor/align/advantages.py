"""Group-relative advantages (GRPO, arXiv 2402.03300, section 4.1.2)."""

from __future__ import annotations

import torch

#: Added to the standard deviation, so that a group of nearly equal rewards is not blown up.
STD_EPS = 1e-6


def group_advantages(rewards_PG: torch.Tensor, normalize_std: bool) -> torch.Tensor:
    """[prompts, group] float64: reward less its group's mean, divided by the group's (population) deviation if asked.

    Without the division this is Dr. GRPO (arXiv 2503.20783), which does not favour very easy and very hard questions.
    Each group sums to zero; a group whose rewards are all equal is zero throughout.
    """
    rewards_PG = rewards_PG.double()
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    equal_P1 = rewards_PG.amax(1, keepdim=True) == rewards_PG.amin(1, keepdim=True)
    if normalize_std:
        centred_PG = centred_PG / (centred_PG.pow(2).mean(1, keepdim=True).sqrt() + STD_EPS)
    return torch.where(equal_P1, torch.zeros_like(centred_PG), centred_PG)
