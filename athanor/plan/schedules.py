"""The order of actions on every rank of a pipeline, for the schedules that the engine runs (torch's own), as arrays.

An action is one stage over one micro-batch: forward F, full backward B, or the two halves of a split backward, I (the
gradient of the input, which the stage before waits for) and W (of the weights, which nobody waits for).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from athanor.errors import AthanorError
from athanor.parallel.plan import ParallelPlan, ScheduleName
from athanor.parallel.stages import placement

Ints = NDArray[np.int64]
F, B, I, W = range(4)  # noqa: E741 - the letters of the literature
LETTERS = "FBIW"

_ACTION = re.compile(r"(\d+)([FBIW])(\d+)")
#: stages that one rank holds where the schedule leaves no choice
_STAGES_A_RANK: dict[ScheduleName, int] = {"gpipe": 1, "1f1b": 1, "zbv": 2, "dualpipev": 2}


@dataclass(frozen=True, eq=False)
class Order:
    """What the ranks do, one after the other: N actions, those of rank r at ``offsets[r]:offsets[r + 1]``.

    ``kind`` (F, B, I, W), ``stage`` and ``micro`` are int64 [N]; ``joined`` (bool [N]) marks the first half of a pair
    that a rank starts only when both are ready, and after which it sends (DualPipeV); ``place`` [stages] is the rank
    of each stage. ``schedule`` is None for an order made by hand. Compared by identity.
    """

    kind: Ints
    stage: Ints
    micro: Ints
    joined: NDArray[np.bool_]
    offsets: Ints
    place: Ints
    schedule: ScheduleName | None = None

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def pp(self) -> int:
        """Ranks of the pipeline."""
        return len(self.offsets) - 1

    @property
    def stages(self) -> int:
        """Stages of the whole model."""
        return len(self.place)

    @cached_property
    def micro_batches(self) -> int:
        """Micro-batches of one step."""
        return int(self.micro.max()) + 1

    @cached_property
    def rank(self) -> Ints:
        """The rank of each action [N]."""
        return np.repeat(np.arange(self.pp), np.diff(self.offsets))

    @cached_property
    def splits(self) -> bool:
        """Whether any backward pass comes in two halves."""
        return bool((self.kind == W).any())

    def name(self, action: int) -> str:
        """``3F7``: stage 3, forward, micro-batch 7."""
        return f"{self.stage[action]}{LETTERS[self.kind[action]]}{self.micro[action]}"

    def names(self, rank: int) -> list[str]:
        """The names of a rank's actions in order."""
        return [self.name(a) for a in range(self.offsets[rank], self.offsets[rank + 1])]

    @classmethod
    def parse(cls, ranks: Sequence[Sequence[str]]) -> Order:
        """An order made by hand: for each rank its actions as ``name`` writes them; ``0F7+3B0`` joins two.

        AthanorError for what is no action, for a stage on two ranks, and for a missing, repeated or half action.
        Whether the ranks can follow it without waiting for each other for ever, the simulation tells.
        """
        found: list[tuple[int, int, int, bool]] = []
        sizes = []
        for r, names in enumerate(ranks):
            before = len(found)
            for name in names:
                parts = [_ACTION.fullmatch(part) for part in name.split("+")]
                for last, part in zip([*[False] * (len(parts) - 1), True], parts, strict=True):
                    if part is None:
                        raise AthanorError(
                            f"{name!r} is no action", where=f"rank {r}", fix="stage, F B I or W, micro-batch: 3F7"
                        )
                    found.append((LETTERS.index(part[2]), int(part[1]), int(part[3]), not last))
            sizes.append(len(found) - before)
        if not found:
            raise AthanorError("an order without actions")
        kind, stage, micro, joined = (np.array(column) for column in zip(*found, strict=True))
        rank = np.repeat(np.arange(len(ranks)), sizes)
        place = np.full(int(stage.max()) + 1, -1)
        place[stage] = rank
        astray = np.flatnonzero(place[stage] != rank)
        if len(astray):
            both = sorted({int(rank[astray[0]]), int(place[stage[astray[0]]])})
            raise AthanorError(f"stage {stage[astray[0]]} is on ranks {both[0]} and {both[1]}")
        order = cls(kind, stage, micro, joined.astype(bool), _offsets(sizes), place)
        _require_whole(order)
        return order


def _offsets(sizes: Sequence[int]) -> Ints:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)


def _require_whole(order: Order) -> None:
    """AthanorError unless every stage has each micro-batch once forward and once backward, whole or in both halves."""
    shape = (4, order.stages, order.micro_batches)
    count = np.zeros(shape, dtype=np.int64)
    np.add.at(count, (order.kind, order.stage, order.micro), 1)
    good = (count[F] == 1) & (count[B] + count[I] == 1) & (count[I] == count[W])
    if not good.all():
        stage, micro = (int(x) for x in np.argwhere(~good)[0])
        seen = {letter: int(count[k, stage, micro]) for k, letter in enumerate(LETTERS)}
        raise AthanorError(
            f"stage {stage}, micro-batch {micro} has actions {seen}", fix="one F, and one B or one I and one W"
        )


@lru_cache(maxsize=64)
def pipeline_order(schedule: ScheduleName, pp: int, vpp: int, micro_batches: int) -> Order:
    """The order that torch's schedule of that name follows. AthanorError for sizes that it cannot run.

    GPipe: arXiv 1811.06965; 1F1B and its interleaved form: arXiv 2104.04473, section 2.2; ZBV: arXiv 2401.10241,
    section 6; DualPipeV: the V-shaped half of DualPipe (arXiv 2412.19437, section 3.2.1).
    """
    _check(schedule, pp, vpp, micro_batches)
    makers = {
        "gpipe": _gpipe,
        "1f1b": _one_f_one_b,
        "interleaved_1f1b": _interleaved,
        "zbv": _zbv,
        "dualpipev": _dualpipev,
    }
    parts = [makers[schedule](rank, pp, vpp, micro_batches) for rank in range(pp)]
    kind, stage, micro, joined = (np.concatenate(column) for column in zip(*parts, strict=True))
    place = np.array(placement(ParallelPlan(pp=pp, vpp=vpp, schedule=schedule)))
    return Order(kind, stage, micro, joined.astype(bool), _offsets([len(p[0]) for p in parts]), place, schedule)


def _check(schedule: ScheduleName, pp: int, vpp: int, micro_batches: int) -> None:
    def refuse(what: str, fix: str) -> None:
        raise AthanorError(f"schedule {schedule}: {what}", where="pipeline", fix=fix)

    for name, value in (("pp", pp), ("vpp", vpp), ("micro_batches", micro_batches)):
        if value < 1:
            refuse(f"{name} is {value}", "at least 1")
    wanted = _STAGES_A_RANK.get(schedule, vpp)
    if vpp != wanted:
        refuse(f"{vpp} stages a rank", f"vpp {wanted}")
    least = {"1f1b": pp, "dualpipev": 2 * pp}.get(schedule, 1)
    if micro_batches < least:
        refuse(f"{micro_batches} micro-batches over pp {pp}", f"at least {least}")
    rounds = max(1, micro_batches // pp)
    if schedule == "interleaved_1f1b" and micro_batches % rounds:
        refuse(f"{micro_batches} micro-batches over pp {pp}", f"a multiple of {rounds}, best a multiple of {pp}")


_Part = tuple[Ints, Ints, Ints, Ints]  # kind, stage, micro, joined


def _plain(kind: Ints, stage: Ints, micro: Ints) -> _Part:
    return kind, stage, micro, np.zeros(len(kind), dtype=np.int64)


def _gpipe(rank: int, _pp: int, _vpp: int, n: int) -> _Part:
    return _plain(np.repeat([F, B], n), np.full(2 * n, rank), np.tile(np.arange(n), 2))


def _one_f_one_b(rank: int, pp: int, _vpp: int, n: int) -> _Part:
    kind = _warm_then_alternate(pp - rank, n)
    micro = _turns(kind)
    return _plain(kind, np.full(2 * n, rank), micro)


def _interleaved(rank: int, pp: int, vpp: int, n: int) -> _Part:
    """Rounds of (about) pp micro-batches go through all chunks of the rank, forward from the first, backward from the
    last chunk."""
    a_round = n // max(1, n // pp)
    ahead = min((vpp - 1) * a_round + 2 * (pp - 1 - rank), n * vpp)
    kind = _warm_then_alternate(ahead + 1 if ahead < n * vpp else ahead, n * vpp)
    turn = _turns(kind)
    chunk = turn // a_round % vpp
    chunk = np.where(kind == F, chunk, vpp - 1 - chunk)
    return _plain(kind, chunk * pp + rank, turn // (a_round * vpp) * a_round + turn % a_round)


def _warm_then_alternate(ahead: int, n: int) -> Ints:
    """``ahead`` forwards, then a backward and a forward in turn, then the backwards that are left: n of each."""
    ahead = min(ahead, n)
    return np.array([F] * ahead + [B, F] * (n - ahead) + [B] * ahead)


def _turns(code: Ints) -> Ints:
    """How many equal values stand before each one."""
    turn = np.empty(len(code), dtype=np.int64)
    for value in np.unique(code):
        at = np.flatnonzero(code == value)
        turn[at] = np.arange(len(at))
    return turn


def _zbv(rank: int, pp: int, _vpp: int, n: int) -> _Part:
    """Two chunks a rank, every backward split. The pattern is made for at least 2·pp − 1 micro-batches; what is too
    many is left out. Codes: 2 · kind + chunk."""
    whole, behind = max(2 * pp - 1, n), pp - rank
    f0, f1, i0, i1, w0, w1 = (2 * kind + chunk for kind in (F, I, W) for chunk in (0, 1))
    last, more = [i0, w0, f1, i1, w1], whole - (2 * pp - rank - 1)
    codes = [f0] * (2 * behind - 1) + [f1, f0] * rank + [f1, i1, w1] * behind
    codes += [f0, *last] * more + last * (whole - pp - more)
    codes += [i0, i1] * rank + [i0, w0] * behind + [w1] * rank + [w0] * rank
    code = np.array(codes)
    micro = _turns(code)
    code, micro = code[micro < n], micro[micro < n]
    kind, chunk = np.divmod(code, 2)
    return _plain(kind, np.where(chunk == 0, rank, 2 * pp - 1 - rank), micro)


def _dualpipev(rank: int, pp: int, _vpp: int, n: int) -> _Part:
    """Two chunks a rank; forward of one and backward of the other are joined in the middle, weights wait at the ends.

    Codes: 2 · kind + chunk, negative: joined to the next one (f0 is 0, so all are counted from 1).
    """
    after = pp - 1 - rank
    f0, f1, b0, b1, i0, i1, w = (2 * k + c + 1 for k, c in ((F, 0), (F, 1), (B, 0), (B, 1), (I, 0), (I, 1), (W, 0)))
    codes = [f0] * (2 * after) + [f0, f1] * (rank + 1) + [i1, w, f1] * after
    middle = [-f0, b1, -f1, b0] * (n - 2 * pp + rank + 1)
    if rank == pp - 1:
        middle[0] = f0
    codes += middle + [b1, -f1, b0] * after
    whole, split = [b1, b0] * (rank + 1), [i1, i0] * (rank + 1)
    codes += whole[: rank + 1] + split[rank + 1 :]
    codes += [w, i0] * after + [w] * (rank + 1)
    code = np.array(codes)
    kind, chunk = np.divmod(np.abs(code) - 1, 2)
    forward, weight = kind == F, kind == W
    micro = np.empty(len(code), dtype=np.int64)
    for group in (forward, ~forward & ~weight):  # a B and an I each take the next micro-batch of their chunk
        micro[group] = _turns(chunk[group])
    halves = kind == I  # a W does what has waited longest
    chunk[weight], micro[weight] = chunk[halves], micro[halves]
    return kind, np.where(chunk == 0, rank, 2 * pp - 1 - rank), micro, (code < 0).astype(np.int64)
