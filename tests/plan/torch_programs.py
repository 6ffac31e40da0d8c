"""What torch's schedules really do on each rank, recorded from torch itself: posts, waits and computations in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from torch.distributed.pipelining import schedules as torch_schedules

from athanor.parallel.plan import ScheduleName

MULTI = {
    "interleaved_1f1b": torch_schedules.ScheduleInterleaved1F1B,
    "zbv": torch_schedules.ScheduleZBVZeroBubble,
    "dualpipev": torch_schedules.ScheduleDualPipeV,
}
SINGLE = {"gpipe": torch_schedules.ScheduleGPipe, "1f1b": torch_schedules.Schedule1F1B}

#: ("run", "3F7"), ("post", message) or ("wait", message); a message is ("send" or "recv", name of what made it)
Step = tuple[str, Any]


def programs(schedule: ScheduleName, pp: int, vpp: int, n: int) -> list[list[Step]]:
    """The steps of every rank, in torch's order."""
    if schedule in SINGLE:
        return [_recorded(schedule, rank, pp, n) for rank in range(pp)]
    return _lowered(_multi(schedule, pp, vpp, n), pp * vpp)


def compute_names(schedule: ScheduleName, pp: int, vpp: int, n: int) -> list[list[str]]:
    """Only the computations; of a pair, ``a+b``."""
    if schedule in SINGLE:
        return [[what for step, what in steps if step == "run"] for steps in programs(schedule, pp, vpp, n)]
    order = _multi(schedule, pp, vpp, n).pipeline_order
    return [[_name(action) for action in order[rank] if action is not None] for rank in range(pp)]


def _multi(schedule: ScheduleName, pp: int, vpp: int, n: int) -> Any:
    """torch's schedule object of rank 0, which knows the order of every rank."""
    indices = [pp * chunk for chunk in range(vpp)] if schedule == "interleaved_1f1b" else [0, 2 * pp - 1]
    stages = [
        SimpleNamespace(stage_index=i, num_stages=pp * vpp, group_size=pp, group_rank=0, group=None, submod=None)
        for i in indices
    ]
    return MULTI[schedule](stages, n, loss_fn=lambda out, _: out)  # type: ignore[arg-type]


def _name(action: Any) -> str:
    if action.sub_actions is not None:
        return "+".join(map(_name, action.sub_actions))
    return f"{action.stage_index}{action.computation_type.value}{action.microbatch_index}"


# --- GPipe and 1F1B: their loops, run with a stage that only takes notes ----------------------------------------------


class _Notes:
    """A stage for ``Schedule*._step_microbatches``."""

    def __init__(self, rank: int, pp: int) -> None:
        self.steps: list[Step] = []
        self.stage_index, self.num_stages, self.group, self.group_size, self.group_rank = rank, pp, None, pp, rank
        self.is_first, self.is_last, self.has_backward = rank == 0, rank == pp - 1, True

    def get_fwd_recv_ops(self, i: int) -> list[Any]:
        return [] if self.is_first else [("recv", f"{self.stage_index - 1}F{i}")]

    def get_fwd_send_ops(self, i: int) -> list[Any]:
        return [] if self.is_last else [("send", f"{self.stage_index}F{i}")]

    def get_bwd_recv_ops(self, i: int) -> list[Any]:
        return [] if self.is_last else [("recv", f"{self.stage_index + 1}B{i}")]

    def get_bwd_send_ops(self, i: int) -> list[Any]:
        return [] if self.is_first else [("send", f"{self.stage_index}B{i}")]

    def forward_one_chunk(self, i: int, *_: Any, **__: Any) -> None:
        self.steps.append(("run", f"{self.stage_index}F{i}"))

    def backward_one_chunk(self, i: int, *_: Any, **__: Any) -> None:
        self.steps.append(("run", f"{self.stage_index}B{i}"))

    def perform_reduce_grad(self, _: int) -> None:
        pass


@contextmanager
def _messages_noted(steps: list[Step]) -> Iterator[None]:
    def post(ops: list[Any], desc: str | None = None) -> list[Any]:
        steps.extend(("post", op) for op in ops)
        return ops

    def wait(works: list[Any]) -> None:
        steps.extend(("wait", work) for work in works)

    instead = {"_batch_p2p": post, "_sorted_batch_p2p": lambda ops, desc=None: {0: post(ops)}, "_wait_batch_p2p": wait}
    before = {name: getattr(torch_schedules, name) for name in instead}
    try:
        for name, function in instead.items():
            setattr(torch_schedules, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(torch_schedules, name, function)


def _recorded(schedule: ScheduleName, rank: int, pp: int, n: int) -> list[Step]:
    stage = _Notes(rank, pp)
    made: Any = SINGLE[schedule](stage, n)  # type: ignore[arg-type]
    made._initialize_stage = lambda *_: None
    made._check_inputs = lambda *_: ([()] * n, [{}] * n)
    with _messages_noted(stage.steps):
        made._step_microbatches([()] * n, [{}] * n)
    return stage.steps


# --- the others: torch lowers them to a list with sends and receives --------------------------------------------------


def _lowered(made: Any, stages: int) -> list[list[Step]]:
    """As ``_PipelineScheduleRuntime._step_microbatches`` runs them: a computation waits for its receive, sends are
    waited for at the end."""
    found = []
    for rank in sorted(made.pipeline_order_with_comms):
        here = [s for s in range(stages) if made.stage_index_to_group_rank[s] == rank]
        steps: list[Step] = []
        for action in made.pipeline_order_with_comms[rank]:
            for part in action.sub_actions or (action,):
                steps += _steps(part, here, stages)
        found.append(steps)
    return found


def _steps(action: Any, here: list[int], stages: int) -> list[Step]:
    kind, s, i = action.computation_type.value, action.stage_index, action.microbatch_index
    letters = {"SEND_F": f"{s}F{i}", "RECV_F": f"{s - 1}F{i}", "SEND_B": f"{s}B{i}", "RECV_B": f"{s + 1}B{i}"}
    if kind in letters:
        return [("post", (kind[:4].lower(), letters[kind]))]
    if kind not in ("F", "B", "I", "W"):
        return []
    steps: list[Step] = []
    if kind == "F" and s > 0 and s - 1 not in here:
        steps.append(("wait", ("recv", f"{s - 1}F{i}")))
    if kind in "BI" and s < stages - 1 and s + 1 not in here:
        steps.append(("wait", ("recv", f"{s + 1}B{i}")))
    return [*steps, ("run", f"{s}{kind}{i}")]
