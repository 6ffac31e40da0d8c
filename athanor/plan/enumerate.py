"""All layouts of a model over a world, as the product of two lists: units (what a block is) and pipelines.

A block's time and memory do not depend on how blocks are put into stages, so the two are enumerated apart: a unit is
(tp, sp, cp with split and ring, ep, rows of a micro-batch, copies, chunks), a pipeline is (pp, vpp, schedule). What may
be combined is asked of ``athanor.parallel.checks`` alone, group of axes by group of axes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from athanor.errors import AthanorError
from athanor.parallel.checks import check_plan
from athanor.parallel.plan import ParallelPlan, ScheduleName
from athanor.plan.cost import Problem
from athanor.plan.layouts import NAMES, OFFLOADS, SCHEDULES, Bools, Floats, Ints, Layouts, Switches

#: Axes of a unit, in this order.
UNIT = ("tp", "sp", "cp", "by_document", "ring", "ep", "rows", "copies", "chunks")
PIECES = (1, 2, 4, 8)
#: How far below a world without layouts another one is looked for.
NEAR = 65


@dataclass(frozen=True)
class Axes:
    """What each axis may be; an empty tuple leaves it free."""

    tp: tuple[int, ...] = ()
    sp: tuple[bool, ...] = ()
    cp: tuple[int, ...] = ()
    cp_split: tuple[str, ...] = ()
    cp_kv: tuple[str, ...] = ()
    pp: tuple[int, ...] = ()
    vpp: tuple[int, ...] = ()
    schedule: tuple[ScheduleName, ...] = ()
    ep: tuple[int, ...] = ()
    dp_replicate: tuple[int, ...] = ()
    dp_shard: tuple[int, ...] = ()
    zero: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()  #: of a micro-batch
    copies: tuple[int, ...] = ()
    chunks: tuple[int, ...] = ()
    offload: tuple[str, ...] = ()
    recompute: tuple[str, ...] = ()  #: none, full, or parts joined by +

    @classmethod
    def parse(cls, words: Iterable[str]) -> Axes:
        """From ``tp=8``, ``pp=4,8``, ``recompute=none``; AthanorError for an unknown axis or value."""
        given: dict[str, tuple[Any, ...]] = {}
        known = {f.name: f for f in dataclasses.fields(cls)}
        for word in words:
            name, equals, text = word.partition("=")
            if name not in known or not equals or not text:
                raise AthanorError(
                    f"{word!r} fixes no axis", where="--fix", fix=f"NAME=VALUE[,VALUE…] with one of: {', '.join(known)}"
                )
            given[name] = tuple(_value(name, str(known[name].type), part) for part in text.split(","))
        return cls(**given)

    def free(self, name: str, values: Iterable[Any]) -> list[Any]:
        """``values`` of the axis that are allowed."""
        allowed = getattr(self, name)
        return [value for value in values if not allowed or value in allowed]


def _value(name: str, kind: str, text: str) -> Any:
    text = text.strip()
    if "int" in kind:
        if not text.isdecimal():
            raise AthanorError(f"{name}={text}", where="--fix", fix="a whole number")
        return int(text)
    if "bool" in kind:
        if text.lower() not in ("true", "false"):
            raise AthanorError(f"{name}={text}", where="--fix", fix="true or false")
        return text.lower() == "true"
    values = {
        "schedule": SCHEDULES,
        "offload": OFFLOADS,
        "cp_split": ("document", "sequence"),
        "cp_kv": ("all_gather", "ring"),
    }
    if name in values and text not in values[name]:
        raise AthanorError(f"{name}={text}", where="--fix", fix=f"one of: {', '.join(values[name])}")
    return text


def divisors(n: int) -> list[int]:
    """All of them, rising."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


@dataclass
class Space:
    """The layouts of ``problem`` over ``world`` ranks within ``axes``. Arrays are made on first use."""

    problem: Problem
    world: int
    axes: Axes = field(default_factory=Axes)
    switches: Switches = field(default_factory=Switches)

    def allowed(self, rows: int | None = None, **sizes: Any) -> bool:
        """Whether ``athanor.parallel.checks`` takes a plan of these sizes (``rows``: and its batch)."""
        return self.objection(rows, **sizes) is None

    def objection(self, rows: int | None = None, **sizes: Any) -> str | None:
        """What it says, or None."""
        key = (rows, *sorted(sizes.items()))
        if key not in self._asked:
            plan = ParallelPlan.model_construct(**{**_DEFAULTS, **sizes})
            batch = None if rows is None else self.problem.global_rows * self.problem.seq_len
            tokens = None if rows is None else rows * self.problem.seq_len
            self._asked[key] = None
            try:
                check_plan(
                    plan, self.problem.config, world_size=plan.world_size, seq_len=self.problem.seq_len,
                    global_batch_tokens=batch, micro_batch_tokens=tokens,
                )  # fmt: skip
            except AthanorError as error:
                self._asked[key] = str(error)
        return self._asked[key]

    @cached_property
    def _asked(self) -> dict[tuple[Any, ...], str | None]:
        return {}

    # --- the two lists -----------------------------------------------------------------------------------------------

    @cached_property
    def units(self) -> Ints:
        """[U, 9] in the order of ``UNIT``."""
        axes, found = self.axes, []
        for tp, cp in itertools.product(self._tensor_sizes, axes.free("cp", divisors(self.world))):
            if self.world % (tp * cp) or not self.allowed(cp=cp):
                continue
            ways = list(itertools.product(self._sequence(tp, cp), self._exchange(cp)))
            chunks = axes.free("chunks", PIECES if tp > 1 else (1,))
            sizes = itertools.product(self._experts(tp, cp), self._rows(tp, cp), axes.free("copies", (1, 2)), chunks)
            for ((sp, split), ring), (ep, rows, copies, pieces) in itertools.product(ways, list(sizes)):
                if rows % copies == 0:
                    found.append((tp, sp, cp, split == "document", ring, ep, rows, copies, pieces))
        return np.array(found, np.int64).reshape(-1, len(UNIT))

    @cached_property
    def _tensor_sizes(self) -> list[int]:
        sizes = self.axes.free("tp", divisors(self.world))
        return [tp for tp in sizes if self.allowed(tp=tp, sp=False)]

    def _sequence(self, tp: int, cp: int) -> list[tuple[bool, str]]:
        # Wherever rows can be cut in two chunks a rank, so can documents, and no rank then has more than another: the
        # split of whole rows is looked at where it is asked for.
        splits = self.axes.cp_split if cp > 1 and self.axes.cp_split else ("document",)
        sps = self.axes.free("sp", (True, False)) if tp > 1 else [False]
        pairs = itertools.product(sps, splits)
        return [(sp, how) for sp, how in pairs if self.allowed(tp=tp, sp=sp, cp=cp, cp_split=how)]

    def _exchange(self, cp: int) -> list[bool]:
        kinds = self.axes.free("cp_kv", ("all_gather", "ring") if cp > 1 else ("all_gather",))
        return [kind == "ring" for kind in kinds]

    def _experts(self, tp: int, cp: int) -> list[int]:
        if self.problem.config.moe is None:
            return self.axes.free("ep", (1,))
        most = self.world // tp
        sizes = self.axes.free("ep", divisors(self.problem.config.moe.num_experts))
        return [ep for ep in sizes if most % ep == 0 and self.allowed(ep=ep, dp_shard=ep)]

    def _rows(self, tp: int, cp: int) -> list[int]:
        """Rows that some pipeline could take."""
        local = {
            self.problem.global_rows // dp
            for pp in self.pipeline_sizes
            if self.world % (tp * cp * pp) == 0 and self.problem.global_rows % (dp := self.world // (tp * cp * pp)) == 0
        }
        return self.axes.free("rows", sorted({r for n in local for r in divisors(n)}))

    @cached_property
    def pipeline_sizes(self) -> list[int]:
        """pp that divides the world and has a block for all but its first and last stage."""
        most = self.problem.config.num_hidden_layers + 2
        return [pp for pp in self.axes.free("pp", divisors(self.world)) if pp <= most]

    @cached_property
    def pipelines(self) -> list[tuple[int, int, ScheduleName]]:
        """(pp, vpp, schedule)."""
        layers, found = self.problem.config.num_hidden_layers, []
        for pp in self.pipeline_sizes:
            if pp == 1:
                found += [(1, 1, name) for name in ("1f1b",) if self.axes.free("vpp", (1,))]
                continue
            for vpp in self.axes.free("vpp", range(1, (layers + 2) // pp + 1)):
                split = _any_split(pp * vpp, layers)
                # GPipe takes the time of 1F1B with more micro-batches in flight: looked at where it is asked for.
                names = self.axes.schedule or SCHEDULES[1:]
                found += [
                    (pp, vpp, name)
                    for name in names
                    if self.allowed(pp=pp, vpp=vpp, schedule=name, layers_per_stage=split)
                ]
        return found

    @cached_property
    def _batches(self) -> tuple[Ints, Ints]:
        """Different (tp, cp, rows, copies, ep) of the units, and which of them each unit has."""
        columns = [UNIT.index(name) for name in ("tp", "cp", "rows", "copies", "ep")]
        unique, where = np.unique(self.units[:, columns], axis=0, return_inverse=True)
        return unique, where.reshape(-1)

    def batch_fits(self, pipeline: tuple[int, int, ScheduleName]) -> Bools:
        """[U]: whether each unit goes with the pipeline: world, batch, experts."""
        pp, _, name = pipeline
        if (pp, name) not in self._fits:
            self._fits[pp, name] = np.array([self._fit(pp, name, *sizes) for sizes in self._batches[0].tolist()], bool)
        return self._fits[pp, name][self._batches[1]]

    @cached_property
    def _fits(self) -> dict[tuple[int, ScheduleName], Bools]:
        return {}

    def _fit(self, pp: int, name: ScheduleName, tp: int, cp: int, rows: int, copies: int, ep: int) -> bool:
        dp, rest = divmod(self.world, tp * cp * pp)
        if rest or (ep > 1 and dp * cp % ep):
            return False
        return self._batch(rows, dp_shard=dp, copies=copies, pp=pp, schedule=name)

    def empty(self) -> AthanorError | None:
        """Where there is no layout at all: which fixed axes stand in the way, and a smaller world that has some."""
        if self._some:
            return None
        what = f"no layout of {self.world} ranks divides the model and a batch of {self.problem.global_rows} rows"
        lower = [*range(self.world - 1, max(self.world - NEAR, 0), -1), 1 << max((self.world - 1).bit_length() - 1, 0)]
        near = next((w for w in lower if replace(self, world=w)._some), None)
        fixes = ["free an axis (--fix)"] if self.axes != Axes() else ["another batch"]
        fixes += [f"--world {near}"] if near else []
        return AthanorError("\n".join([what, *self._refused()]), where="search", fix=", or ".join(fixes))

    def _refused(self) -> Iterator[str]:
        """What is wrong with single values of the fixed axes."""
        for name in ("tp", "cp", "pp", "ep"):
            for value in getattr(self.axes, name):
                if self.world % value:
                    yield f"{name}={value} does not divide {self.world} ranks"
                elif name != "pp" and (
                    said := self.objection(**{name: value, **({"sp": False} if name == "tp" else {})})
                ):
                    yield said
        rows = self.problem.global_rows
        yield from (f"rows={n} does not divide a batch of {rows} rows" for n in self.axes.rows if rows % n)
        if not self.pipelines:
            layers = self.problem.config.num_hidden_layers
            yield f"no pipeline of these pp, vpp and schedule over {layers} layers"

    @property
    def _some(self) -> bool:
        return any(bool(self.batch_fits(pipeline).any()) for pipeline in self.pipelines) if len(self.units) else False

    def _batch(self, rows: int, **sizes: Any) -> bool:
        if self.problem.global_rows % sizes["dp_shard"] or self.problem.global_rows // sizes["dp_shard"] % rows:
            return False  # the most frequent answers, without asking
        layers = self.problem.config.num_hidden_layers
        vpp = {"interleaved_1f1b": 2, "zbv": 2, "dualpipev": 2}.get(sizes["schedule"], 1) if sizes["pp"] > 1 else 1
        sizes = {**sizes, "vpp": vpp}
        if sizes["pp"] * vpp > layers:
            sizes["layers_per_stage"] = _any_split(sizes["pp"] * vpp, layers)
        return self.allowed(rows, **sizes)

    def data_options(self, tp: int, cp: int, pp: int, ep: int) -> Ints:
        """[D, 4]: dp_replicate, dp_shard, zero, offload for these sizes. At ZeRO 0 nothing is sharded, so that how dp
        is cut is one and the same: all of it is dp_shard (which experts are folded over)."""
        dp, axes = self.world // (tp * cp * pp), self.axes
        levels = axes.free("zero", sorted(self.problem.engine.states))
        host = self.problem.cluster.node.host_memory_bytes > 0  # without a figure there is no memory to offload to
        offloads = [OFFLOADS.index(name) for name in axes.free("offload", ("none", "optimizer") if host else ("none",))]
        found = []
        for shard in divisors(dp):
            if shard * cp % ep or not axes.free("dp_shard", (shard,)) or not axes.free("dp_replicate", (dp // shard,)):
                continue
            ways = itertools.product([z for z in levels if z > 0 or shard == dp or axes.dp_shard], offloads)
            found += [(dp // shard, shard, zero, offload) for zero, offload in ways]
        return np.array(found, np.int64).reshape(-1, 4)


_DEFAULTS: dict[str, Any] = ParallelPlan().__dict__


def _any_split(stages: int, layers: int) -> tuple[int, ...] | None:
    """A split of as many stages that the checks take, if there is one."""
    if stages <= layers:
        return None
    ends = (0, 0) if stages == layers + 2 else (1, 0)
    return (ends[0], *(1,) * (stages - 2), ends[1])


# --- arrays to layouts -----------------------------------------------------------------------------------------------


def layouts_of(columns: Mapping[str, Any], blocks: Ints, switches: Switches) -> Layouts:
    """Layouts from columns named as in ``UNIT`` and ParallelPlan; what is missing is 1, 0 or off."""
    n = len(blocks)

    def column(name: str, default: Any, kind: Any) -> Any:
        return np.broadcast_to(np.asarray(columns.get(name, default)), (n,)).astype(kind)

    sizes = ("tp", "cp", "pp", "vpp", "ep", "dp_replicate", "dp_shard", "copies", "chunks", "rows", "micro_batches")
    values: dict[str, Any] = {name: column(name, 1, np.int64) for name in sizes}
    values |= {name: column(name, 0, np.int64) for name in ("zero", "schedule", "offload")}
    values |= {name: column(name, False, bool) for name in ("sp", "ring", "keep_collectives")}
    values |= {f.name: np.full(n, getattr(switches, f.name)) for f in dataclasses.fields(Switches)}
    values["chunked_tp"] = values["chunked_tp"] | (values["chunks"] > 1)
    values["context_by_document"] = column("by_document", True, bool)
    full: Floats = column("full", 0.0, np.float64)
    names = np.broadcast_to(np.asarray(columns.get("names", np.zeros(len(NAMES), bool))), (n, len(NAMES))).astype(bool)
    return Layouts(**values, full=full, names=names, budget_bytes=np.full(n, np.inf), blocks=blocks)
