"""What to make again in the backward pass: choices of a block as seconds against bytes, and which blocks of which rank.

A choice is what ``athanor.parallel.activations.selections`` lists (parts of a block, or all of it), with collectives
made again or kept. ``Rungs`` orders the worthwhile ones of each unit; ``choose`` solves the integer programme for one
layout: how many blocks of every pipeline rank make which choice, so that each rank fits and the step takes least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.parallel.activations import selections
from athanor.parallel.plan import RecomputePlan
from athanor.plan.layouts import NAMES, Bools, Floats, Ints

#: Relative gap at which the integer programme is taken as solved.
GAP = 1e-6


@dataclass(frozen=True, slots=True)
class Choice:
    """What a block makes again: ``names`` of parts (empty: nothing), or all of it; collectives kept or made again."""

    names: tuple[str, ...] = ()
    full: bool = False
    saved: bool = False

    @property
    def label(self) -> str:
        """``none``, ``full``, ``norms+ffn``, with ``, collectives kept``."""
        text = "full" if self.full else "+".join(self.names) or "none"
        return f"{text}, collectives kept" if self.saved else text

    @property
    def plan(self) -> RecomputePlan:
        """The same for all blocks, as a plan says it."""
        communication: Any = "save" if self.saved else "recompute"
        if self.full:
            return RecomputePlan(mode="full", communication=communication)
        names: Any = self.names
        return RecomputePlan(mode="selective", names=names, communication=communication) if names else RecomputePlan()


NONE = Choice()


def choices(config: ModelConfig, allowed: tuple[str, ...] = ()) -> list[Choice]:
    """Every choice of a block, ``NONE`` first; ``allowed``: only those whose parts read so (``none``, ``full``,
    ``ffn+norms``). AthanorError where that leaves none."""
    found = [NONE]
    for what in selections(config):
        names = () if isinstance(what, str) else tuple(what)
        if what in ("full",) or names:
            found += [Choice(names, what == "full", saved) for saved in (False, True)]
    wanted = {"+".join(sorted(text.split("+"))) for text in allowed}
    kept = [c for c in found if not wanted or ("full" if c.full else "+".join(sorted(c.names)) or "none") in wanted]
    if not kept:
        known = sorted({c.label for c in found if not c.saved})
        raise AthanorError(f"recompute {', '.join(allowed)}", where="recompute", fix=f"one of: {'; '.join(known)}")
    return kept


def columns(table: list[Choice], index: Ints) -> dict[str, Any]:
    """Columns of ``layouts_of`` for the choice that each layout makes."""
    names = np.array([[name in c.names for name in NAMES] for c in table], bool)
    return {
        "names": names[index],
        "full": np.array([float(c.full) for c in table])[index],
        "keep_collectives": np.array([c.saved for c in table], bool)[index],
    }


@dataclass(frozen=True)
class Rungs:
    """Worthwhile choices of units, most bytes first. ``bytes`` and ``again_s``: of one micro-batch and all blocks."""

    table: list[Choice]
    choice: Ints  #: [U, R] index into ``table``; beyond ``count`` the last one again
    bytes: Floats  #: [U, R]
    again_s: Floats  #: [U, R]
    count: Ints  #: [U]

    @classmethod
    def of(cls, table: list[Choice], kept: Floats, again_s: Floats) -> Rungs:
        """From bytes and seconds [U, O] of every choice: those that another beats in neither are left, in order."""
        order = np.lexsort((again_s, -kept), axis=1)
        # From the leanest on: one with more bytes stays if it is faster than all that keep less.
        rows = np.arange(len(kept))[:, None]
        seconds = again_s[rows, order]
        behind = np.minimum.accumulate(seconds[:, ::-1], axis=1)[:, ::-1]
        best_behind = np.concatenate((behind[:, 1:], np.full((len(kept), 1), np.inf)), axis=1)
        good: Bools = seconds < best_behind
        count = good.sum(axis=1)
        place = np.argsort(~good, axis=1, kind="stable")[:, : max(int(count.max()), 1)]
        place = np.where(
            np.arange(place.shape[1])[None, :] < count[:, None], place, place[rows[:, 0], count - 1][:, None]
        )
        index = order[rows, place]
        return cls(table, index, kept[rows, index], again_s[rows, index], count)


@dataclass(frozen=True)
class Mix:
    """Blocks by choice on every pipeline rank [P, O]."""

    table: list[Choice]
    blocks: Ints

    def of_rank(self, rank: int) -> list[tuple[Choice, int]]:
        """Choices that occur on the rank, with how many blocks make them, most repeated first."""
        row = self.blocks[rank].tolist()
        found = [(choice, n) for choice, n in zip(self.table, row, strict=True) if n]
        return sorted(found, key=lambda item: (item[0] == NONE, not item[0].full, item[0].label))

    @property
    def uniform(self) -> Choice | None:
        """The one choice of all blocks, if there is one."""
        used = np.flatnonzero(self.blocks.sum(axis=0))
        return self.table[int(used[0])] if len(used) == 1 else None

    @property
    def label(self) -> str:
        """``none``, one choice, or the ranks' blocks."""
        if self.uniform is not None:
            return self.uniform.label
        ranks = (" + ".join(f"{n} {c.label}" for c, n in self.of_rank(r)) for r in range(len(self.blocks)))
        return "; ".join(f"rank {r}: {text}" for r, text in enumerate(ranks))


def choose(
    table: list[Choice],
    block_bytes: Floats,
    block_s: Floats,
    blocks: Ints,
    room_bytes: Floats,
    base_s: Floats,
    weight: tuple[float, float],
) -> Mix | None:
    """The mix with the least ``weight[0]`` · (time of the slowest rank) + ``weight[1]`` · (time of all ranks).

    ``block_bytes`` [P, O]: held by one block of a rank, all micro-batches in flight together; ``block_s`` [O]: repeated
    of one micro-batch; ``blocks`` [P]; ``room_bytes`` [P]; ``base_s`` [P]: of a rank without recomputation. None where
    no mix fits. Solved by HiGHS.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, eye_array, hstack, kron, vstack

    ranks, n = block_bytes.shape
    scale_b, scale_s = max(float(block_bytes.max()), 1.0), max(float(base_s.max()), 1e-9)
    one = np.ones((1, n))
    each = kron(eye_array(ranks), one)  # blocks of a rank
    held = csr_array((block_bytes.ravel() / scale_b, (np.repeat(np.arange(ranks), n), np.arange(ranks * n))))
    again = kron(eye_array(ranks), (block_s / scale_s)[None, :])
    zero, minus = csr_array((ranks, 1)), -np.ones((ranks, 1))
    matrix = vstack([hstack([each, zero]), hstack([held, zero]), hstack([again, csr_array(minus)])])
    low = np.concatenate([blocks, np.full(2 * ranks, -np.inf)])
    high = np.concatenate([blocks, room_bytes / scale_b, -base_s / scale_s])
    cost = np.concatenate([np.tile(weight[1] * block_s / scale_s, ranks), [weight[0]]])
    result = milp(
        cost,
        constraints=LinearConstraint(matrix.tocsr(), low, high),
        integrality=np.concatenate([np.ones(ranks * n), [0]]),
        bounds=Bounds(0, np.concatenate([np.repeat(blocks, n).astype(float), [np.inf]])),
        options={"mip_rel_gap": GAP},
    )
    if result.x is None:
        return None
    return Mix(table, np.rint(result.x[:-1]).astype(np.int64).reshape(ranks, n))
