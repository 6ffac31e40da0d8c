"""One layout in full: the cost model's parts, the timeline of its pipeline, memory by rank and category.

The value that the search refines its best plans with, and that command line, JSON and report show.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from athanor.errors import AthanorError
from athanor.parallel.checks import check_plan
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.plan.cost import Costs, Problem, evaluate
from athanor.plan.layouts import V_SHAPED, Floats, Layouts, Switches
from athanor.plan.memory import in_flight, on_ranks
from athanor.plan.recompute_choice import NONE, Choice, Mix, choices, choose, columns
from athanor.plan.timeline import PipelineWork, Timeline, simulate

#: Actions above which a step is not simulated event by event.
MOST_ACTIONS = 1_000_000
CATEGORIES = ("parameters", "gradients", "optimizer", "gathered", "activations", "transient", "buffers")


@dataclass(frozen=True, eq=False)
class Estimate:
    """A layout on a machine. Seconds of one optimizer step, bytes by pipeline rank (of its fullest tensor rank)."""

    problem: Problem
    plan: ParallelPlan  #: as a recipe pins it; a mix of recomputations is its budget
    rows: int  #: of a micro-batch
    micro_batches: int
    mix: Mix
    costs: Costs  #: of the layout without recomputation
    closed_s: float  #: step by the closed form; nan for a mix
    timeline: Timeline
    memory: dict[str, Floats]  #: bytes by category [P]
    fragments: Floats  #: bytes lost between the allocator's blocks [P]
    remade_s: float  #: repeated compute and collectives of a step, mean of the ranks
    hardware_flops: float
    blocks: tuple[int, ...]  #: of each stage
    late_s: float  #: contention of data-parallel collectives and a tied embedding's sum

    @cached_property
    def step_s(self) -> float:
        """Pipeline with its data-parallel collectives by the timeline, and the optimizer."""
        return self.timeline.wall_s + self.late_s + float(self.costs.optimizer_s[0])

    @cached_property
    def peak_bytes(self) -> Floats:
        """Bytes of a device at the peak, by rank [P]: allocated, lost, and held by driver and runtime."""
        held = np.sum([self.memory[name] for name in CATEGORIES], axis=0)
        return np.asarray(held + self.fragments + self.problem.cluster.device.reserved_bytes)

    @property
    def memory_bytes(self) -> float:
        """Of a device."""
        return self.problem.cluster.device.memory_bytes

    @property
    def fits(self) -> bool:
        """Whether every rank does."""
        return bool((self.peak_bytes <= self.memory_bytes).all())

    @property
    def margin_bytes(self) -> float:
        """What the fullest rank has left (negative: lacks)."""
        return float(self.memory_bytes - self.peak_bytes.max())

    @property
    def tokens_per_s(self) -> float:
        """Of the whole machine."""
        return float(self.costs.tokens / self.step_s)

    def mfu(self, convention: str = "causal") -> float:
        """Model operations over the devices' peak; ``causal`` or ``full`` pairs."""
        return self._share(self.costs.model_flops[convention])

    @property
    def hfu(self) -> float:
        """With repeated operations, convention ``full``."""
        return self._share(self.hardware_flops)

    def _share(self, flops: float) -> float:
        return float(flops / (self.plan.world_size * self.costs.peak_flops_per_s * self.step_s))

    @cached_property
    def parts(self) -> dict[str, float]:
        """Seconds of the step, mean of the ranks; they add up to ``step_s``."""
        line = self.timeline
        busy = float(line.busy_s.mean()) - float(line.exposed_collective_s.mean())
        return {
            "compute": busy - self.remade_s,
            "recomputation": self.remade_s,
            "bubble": float(line.bubble_s.mean()),
            "exposed tensor, context and expert collectives": float(line.exposed_collective_s.mean()),
            "exposed sends between stages": float(line.exposed_p2p_s.mean()),
            "exposed data-parallel collectives": float(line.exposed_dp_s.mean()) + self.late_s,
            "optimizer": float(self.costs.optimizer_s[0]),
        }

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        line = self.timeline
        closed = None if np.isnan(self.closed_s) else self.closed_s
        return {
            "plan": self.plan.model_dump(),
            "micro_batch_rows": self.rows,
            "micro_batches": self.micro_batches,
            "recompute": self.mix.label,
            "blocks_by_stage": list(self.blocks),
            "step_s": self.step_s,
            "closed_form_step_s": closed,
            "tokens_per_s": self.tokens_per_s,
            "mfu_causal": self.mfu("causal"),
            "mfu_full": self.mfu("full"),
            "hfu_full": self.hfu,
            "bubble_idle_share_of_wall": line.idle_share,
            "bubble_idle_over_ideal": line.idle_ratio,
            "parts_s": self.parts,
            "fits": self.fits,
            "peak_bytes": float(self.peak_bytes.max()),
            "margin_bytes": self.margin_bytes,
            "device_memory_bytes": self.memory_bytes,
            "memory_by_rank_bytes": {
                **{name: self.memory[name].tolist() for name in CATEGORIES},
                "fragments": self.fragments.tolist(),
                "runtime": [self.problem.cluster.device.reserved_bytes] * len(self.fragments),
            },
        }


def estimate(
    problem: Problem,
    plan: ParallelPlan,
    rows: int,
    *,
    switches: Switches | None = None,
    refine: bool = False,
) -> Estimate:
    """``plan`` with micro-batches of ``rows`` rows. ``refine``: instead of the plan's recomputation, the integer
    programme's least one that fits. AthanorError for a plan that the checks refuse, a budget that cannot be kept, or a
    step of more than ``MOST_ACTIONS`` actions."""
    effects = _checked(problem, plan, rows, switches)
    mix = effects.least() if refine else effects.planned(plan.recompute)
    return effects.estimate(mix)


def leanest(
    problem: Problem, plan: ParallelPlan, rows: int, most_s: float, *, switches: Switches | None = None
) -> Estimate:
    """``plan`` with the recomputation of all blocks that leaves most memory within ``most_s`` seconds a step."""
    effects = _checked(problem, plan, rows, switches)
    peak = np.where(effects.costs.step_s <= most_s, effects.costs.peak_bytes, np.inf)
    best = int(peak.argmin()) if np.isfinite(peak).any() else 0
    return effects.estimate(effects.uniform(effects.table[best]))


def _checked(problem: Problem, plan: ParallelPlan, rows: int, switches: Switches | None) -> _Effects:
    check_plan(
        plan, problem.config, world_size=plan.world_size, seq_len=problem.seq_len,
        global_batch_tokens=problem.global_rows * problem.seq_len, micro_batch_tokens=rows * problem.seq_len,
    )  # fmt: skip
    return _Effects.of(problem, plan, rows, switches)


@dataclass(frozen=True, eq=False)
class _Effects:
    """What each choice of recomputation does to one layout: row o of the arrays is choice o for all blocks."""

    problem: Problem
    plan: ParallelPlan
    rows: int
    table: list[Choice]
    at: Layouts
    costs: Costs

    @classmethod
    def of(cls, problem: Problem, plan: ParallelPlan, rows: int, switches: Switches | None) -> _Effects:
        """Evaluate ``plan`` with every choice."""
        table = choices(problem.config)
        plain = plan.model_copy(update={"recompute": RecomputePlan()})
        m = problem.global_rows // plan.dp // rows
        one = Layouts.of([plain], problem.config.num_hidden_layers, rows, m, switches)
        at = one.take(np.zeros(len(table), np.int64))
        at = dataclasses.replace(at, **columns(table, np.arange(len(table))))
        return cls(problem, plan, rows, table, at, evaluate(problem, at))

    @cached_property
    def stage_rank(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """[S]."""
        return self.at.stage_rank()[0]

    @cached_property
    def blocks(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """[S]."""
        return self.at.blocks[0]

    @cached_property
    def on_rank(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Blocks of each rank [P]."""
        return np.bincount(self.stage_rank, self.blocks, minlength=self.plan.pp).astype(np.int64)

    @cached_property
    def flying(self) -> Floats:
        """Micro-batches in flight [P]."""
        return in_flight(self.at)[0]

    @cached_property
    def kept(self) -> Floats:
        """[P, O] bytes that one block of the rank keeps, all micro-batches in flight together."""
        held = on_ranks(self.at, self.costs.activation_bytes).T
        return np.asarray(held * self.flying[:, None] / np.maximum(self.on_rank, 1)[:, None])

    # --- which mix ---------------------------------------------------------------------------------------------------

    def uniform(self, choice: Choice) -> Mix:
        """All blocks alike."""
        blocks = np.zeros((self.plan.pp, len(self.table)), np.int64)
        blocks[:, self.table.index(choice)] = self.on_rank
        return Mix(self.table, blocks)

    def planned(self, recompute: RecomputePlan) -> Mix:
        """What a plan says."""
        saved = recompute.communication == "save"
        if recompute.mode == "budget":
            assert recompute.budget_bytes is not None
            mix = self._solved(np.full(self.plan.pp, float(recompute.budget_bytes)) - self._worst_again)
            if mix is None:
                raise AthanorError(
                    f"activations do not fit {recompute.budget_bytes:,} bytes on every rank with all made again",
                    where="parallel.recompute.budget_bytes",
                    fix=f"at least {self._least_budget:,.0f}",
                )
            return mix
        if recompute.mode == "selective":
            wanted = set(recompute.names)
            same = [
                c for c in self.table if set(c.names) == wanted and not c.full and c.saved == (saved and bool(wanted))
            ]
            same = same or [c for c in self.table if set(c.names) >= wanted and not c.full and c.saved == saved]
            return self.uniform(same[0])
        if recompute.mode == "none":
            return self.uniform(NONE)
        full = self.table.index(Choice((), True, saved))
        share = 1.0 if recompute.mode == "full" else 1.0 / recompute.every_k
        blocks = np.zeros((self.plan.pp, len(self.table)), np.int64)
        blocks[:, full] = np.ceil(self.on_rank * share)
        blocks[:, 0] = self.on_rank - blocks[:, full]
        return Mix(self.table, blocks)

    def least(self) -> Mix:
        """Nothing made again where that fits, else what the integer programme finds; all blocks if nothing fits."""
        if bool(self.costs.fits[0]):
            return self.uniform(NONE)
        device, held = self.problem.cluster.device, self.costs.memory
        lost = 1 + device.fragmentation
        states = held.parameters[0] + held.gradients[0] + held.optimizer[0] + held.gathered[0]
        free = device.memory_bytes - device.reserved_bytes - states
        room = free / lost - held.buffers[0] - held.transient.max(axis=0)
        mix = self._solved(room)
        return mix if mix is not None else self.uniform(next(c for c in self.table if c.full and not c.saved))

    def _solved(self, room_bytes: Floats) -> Mix | None:
        base_s = self.costs.forward_s + self.costs.backward_input_s + self.costs.backward_weight_s
        again = (self.costs.backward_input_s - self.costs.backward_input_s[0]).sum(axis=1) / int(self.blocks.sum())
        m, v = float(self.at.micro_batches[0]), self.plan.vpp
        v_shaped = int(self.at.schedule[0]) in V_SHAPED
        ranks_s = on_ranks(self.at, base_s)[0]
        weight = (m if v_shaped else m - 1 / v, 1 / v)
        return choose(self.table, self.kept, again, self.on_rank, room_bytes, ranks_s, weight)

    @property
    def _worst_again(self) -> float:
        """Bytes of a block that is being made again, beside what it kept."""
        return float((self.kept[:, 0] / np.maximum(self.flying, 1)).max())

    @property
    def _least_budget(self) -> float:
        return float((self.kept.min(axis=1) * self.on_rank).max() + self._worst_again)

    # --- the estimate ------------------------------------------------------------------------------------------------

    def stages(self, mix: Mix) -> Floats:
        """[S, O] blocks of each stage by choice; a rank's first blocks repeat most, as what they keep lies longest."""
        out = np.zeros((len(self.blocks), len(self.table)))
        for rank in range(self.plan.pp):
            queue = [o for choice, n in mix.of_rank(rank) for o in [self.table.index(choice)] * n]
            for stage in np.flatnonzero(self.stage_rank == rank):
                mine, queue = queue[: self.blocks[stage]], queue[self.blocks[stage] :]
                np.add.at(out[stage], mine, 1)
        return out

    def estimate(self, mix: Mix) -> Estimate:
        """The layout with this mix."""
        costs, share = self.costs, self.stages(mix) / np.maximum(self.blocks, 1)[:, None]
        share[self.blocks == 0, 0] = 1.0  # a stage without blocks: as evaluated
        more = {
            name: (share * (getattr(costs, name) - getattr(costs, name)[0]).T).sum(axis=1)
            for name in ("backward_input_s", "backward_exposed_s", "activation_bytes")
        }
        used = np.asarray(mix.blocks.sum(axis=0) > 0)
        transient = np.where(used[:, None], costs.memory.transient, 0.0).max(axis=0)
        memory = {name: getattr(costs.memory, name)[0].copy() for name in CATEGORIES}
        memory["transient"] = transient
        memory["activations"] += self.flying * np.bincount(self.stage_rank, more["activation_bytes"], self.plan.pp)
        moving = memory["activations"] + memory["transient"] + memory["buffers"]
        uniform = mix.uniform
        closed = float(costs.step_s[self.table.index(uniform)]) if uniform else float("nan")
        part = mix.blocks.sum(axis=0) / max(int(self.blocks.sum()), 1)
        m = float(self.at.micro_batches[0])
        return Estimate(
            problem=self.problem,
            plan=self._pinned(mix, memory),
            rows=self.rows,
            micro_batches=int(m),
            mix=mix,
            costs=costs,
            closed_s=closed,
            timeline=simulate(self._work(more, memory)),
            memory=memory,
            fragments=self.problem.cluster.device.fragmentation * moving,
            remade_s=m * float((more["backward_input_s"] - more["backward_exposed_s"]).sum()) / self.plan.pp,
            hardware_flops=float((part * costs.hardware_flops).sum()),
            blocks=tuple(int(n) for n in self.blocks),
            late_s=self._late_s(),
        )

    def _pinned(self, mix: Mix, memory: dict[str, Floats]) -> ParallelPlan:
        """The plan that says this mix: a choice, or the budget at which each rank makes its own."""
        recompute = mix.uniform.plan if mix.uniform else None
        if recompute is None and self.plan.recompute.mode in ("budget", "every_k"):
            recompute = self.plan.recompute
        if recompute is None:
            budget = int(np.ceil(memory["activations"].max() + self._worst_again))
            recompute = RecomputePlan(mode="budget", budget_bytes=budget)
        return self.plan.model_copy(update={"recompute": recompute})

    def _late_s(self) -> float:
        """What ``cost.py`` adds behind the pipeline beside exposed collectives: compute that was slower beside hidden
        ones, and the sum of a tied embedding's gradient."""
        data, node = self.costs.data, self.problem.cluster.node
        gathers, reductions = self._counts
        exposed = gathers * (data.gather_s - data.gather_hidden_s) + reductions * (data.reduce_s - data.reduce_hidden_s)
        slower = node.contention * (gathers * data.gather_hidden_s + reductions * data.reduce_hidden_s)
        tied = float(data.exposed_s[0] - (exposed + slower)[0].max())
        return float(slower[0].max()) + max(tied, 0.0)

    @cached_property
    def _counts(self) -> tuple[float, float]:
        """Gathers and reductions of a step."""
        m = float(self.at.micro_batches[0])
        often = bool(self.problem.engine.sums_each(self.at.zero, self.at.pp)[0])
        return (2 * m if self.plan.zero == 3 else 1.0), (m if often else 1.0)

    def _work(self, more: dict[str, Floats], memory: dict[str, Floats]) -> PipelineWork:
        """The pipeline with this mix. Collectives that run for every micro-batch are part of its actions."""
        costs, plan, rank = self.costs, self.plan, self.stage_rank
        actions = 2 * int(self.at.micro_batches[0]) * plan.stages
        if actions > MOST_ACTIONS:
            raise AthanorError(
                f"{actions:,} actions are too many for a timeline", where="estimate", fix="larger micro-batches"
            )
        weight = np.maximum(self.blocks, 0.25)  # a stage's part of its rank's parameters
        part = weight / np.bincount(rank, weight, plan.pp)[rank]
        data = {
            name: getattr(costs.data, f"{name}_s")[0][rank] * part
            for name in ("gather", "gather_hidden", "reduce", "reduce_hidden")
        }
        gathers, reductions = self._counts
        gather_each = (data["gather"] - data["gather_hidden"]) if gathers > 1 else 0 * part
        reduce_each = (data["reduce"] - data["reduce_hidden"]) if reductions > 1 else 0 * part
        ahead, behind = costs.forward_exposed_s[0], costs.backward_exposed_s[0] + more["backward_exposed_s"]
        input_s = costs.backward_input_s[0] + more["backward_input_s"] - behind
        static = sum(memory[name] for name in ("parameters", "gradients", "optimizer", "gathered", "buffers"))
        return PipelineWork(
            plan.schedule if plan.pp > 1 else "1f1b",
            plan.pp,
            plan.vpp,
            int(self.at.micro_batches[0]),
            forward_s=costs.forward_s[0] - ahead,
            backward_input_s=np.maximum(input_s, 0.0),
            backward_weight_s=costs.backward_weight_s[0],
            forward_comm_s=ahead + gather_each,
            backward_input_comm_s=behind + gather_each + reduce_each,
            p2p_s=float(costs.p2p_s[0]),
            gather_s=0.0 if gathers > 1 else data["gather"],
            gather_hidden_s=0.0 if gathers > 1 else data["gather_hidden"],
            reduce_s=0.0 if reductions > 1 else data["reduce"],
            reduce_hidden_s=0.0 if reductions > 1 else data["reduce_hidden"],
            activation_bytes=costs.activation_bytes[0] + more["activation_bytes"],
            backward_extra_bytes=memory["transient"][rank],
            static_bytes=np.asarray(static) + self.problem.cluster.device.reserved_bytes,
        )
