"""Learning rate of a step, in closed form."""

from __future__ import annotations

import math

from athanor.recipe.schema import ScheduleRecipe


def learning_rate(schedule: ScheduleRecipe, step: int, total_steps: int) -> float:
    """Learning rate of the update with 0-based index ``step`` in a stage of ``total_steps`` updates.

    Warm-up of W steps: ``start_lr + (lr - start_lr)·(step + 1)/W``, so ``lr`` is reached by the last warm-up step.
    Then, over the n steps that decay, with p = (step + 1 - first)/(n + 1) in (0, 1), the rate is
    ``min_lr + (lr - min_lr)·f(p)``. ``start_lr`` is thus the rate just before the first update and ``min_lr`` the one
    just after the last: no update is spent at rate zero. f(p) is

    * ``cosine``: (1 + cos πp)/2 over all steps after the warm-up (arXiv 1608.03983);
    * ``linear``: 1 - p over all steps after the warm-up;
    * ``wsd``: 1 until the last ``decay_share`` of the steps, then 1 - √p (arXiv 2404.06395, 2405.18392);
    * ``constant``: 1 (``min_lr`` is not used).
    """
    if step < schedule.warmup_steps:
        return schedule.start_lr + (schedule.lr - schedule.start_lr) * (step + 1) / schedule.warmup_steps
    if schedule.kind == "constant":
        return schedule.lr
    first = schedule.warmup_steps
    if schedule.kind == "wsd":
        first = max(first, total_steps - round(schedule.decay_share * total_steps))
    p = min(max(step + 1 - first, 0) / (max(total_steps - first, 0) + 1), 1.0)
    shape = {"cosine": (1 + math.cos(math.pi * p)) / 2, "linear": 1 - p, "wsd": 1 - math.sqrt(p)}[schedule.kind]
    return schedule.min_lr + (schedule.lr - schedule.min_lr) * shape
