"""How many blocks each pipeline stage gets: the slowest stage as fast as can be, then the ranks alike.

The first stage also looks embeddings up and the last one has head and loss, so that they get fewer blocks.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from athanor.errors import AthanorError
from athanor.parallel.plan import ScheduleName
from athanor.plan.layouts import SCHEDULES, V_SHAPED

#: Extra work of the ends is taken in these parts of a block, so that like cases share an answer.
GRAIN = 16
_EPS = 1e-9


def stage_split(
    pp: int, vpp: int, schedule: ScheduleName, layers: int, first: float = 0.0, last: float = 0.0
) -> tuple[int, ...]:
    """Blocks of the pp · vpp stages, in model order. ``first``, ``last``: extra work of the end stages, in blocks.

    Among all splits whose slowest stage takes least, the one that a greedy choice makes with the slowest rank least.
    Inner stages have at least one block (``athanor.parallel.checks``). AthanorError: more stages than that leaves.
    """
    stages = pp * vpp
    if stages > layers + 2:
        raise AthanorError(
            f"{stages} stages for {layers} layers", where="layer split", fix=f"at most {layers + 2} stages"
        )
    if stages == 1:
        return (layers,)
    v_shaped = SCHEDULES.index(schedule) in V_SHAPED
    return _split(pp, vpp, v_shaped, layers, round(first * GRAIN), round(last * GRAIN))


@lru_cache(maxsize=65536)
def _split(pp: int, vpp: int, v_shaped: bool, layers: int, first: int, last: int) -> tuple[int, ...]:
    stages = pp * vpp
    extra = np.zeros(stages)
    extra[0], extra[-1] = first / GRAIN, last / GRAIN
    least = np.ones(stages, np.int64)
    least[0] = least[-1] = 0
    counts = _filled(min_max_time(extra, least, layers), extra, least)
    stage = np.arange(stages)
    rank = np.where(stage < pp, stage, 2 * pp - 1 - stage) if v_shaped else stage % pp
    load = np.bincount(rank, counts + extra, minlength=pp)
    for _ in range(int(counts.sum()) - layers):
        # From the slowest stage of the slowest rank that can give one.
        can = counts > least
        order = np.lexsort((-np.minimum(stage, stages - 1 - stage), counts + extra, load[rank], can))
        at = int(order[-1])
        counts[at] -= 1
        load[rank[at]] -= 1
    return tuple(counts.tolist())


def _filled(most: float, extra: np.ndarray, least: np.ndarray) -> np.ndarray:
    """As many blocks as each stage takes within ``most``."""
    return np.maximum(np.floor(most - extra + _EPS).astype(np.int64), least)


def min_max_time(extra: np.ndarray, least: np.ndarray, layers: int) -> float:
    """The least time of the slowest stage in blocks, over all splits: the smallest candidate that takes all blocks.

    A slowest stage has e + n of them, with e one of the extras, so that only such times can be the answer."""
    mean = (layers + float(extra.sum())) / len(extra)
    candidates = {e + n for e in set(extra.tolist()) for n in range(math.floor(max(mean - e, 0)), math.ceil(mean) + 2)}
    must = float((extra + least).max())
    for most in sorted({max(c, must) for c in candidates} | {must}):
        if int(_filled(most, extra, least).sum()) >= layers:
            return most
    return max(layers + float(extra.max()), must)
