"""What the parallel engine costs: Athanor over two processes beside a minimal hand-written script, on a CPU.

    python bench/parallel_cpu.py                       # writes bench/results/parallel_cpu.json

Two layouts: ``fsdp2`` (dp_shard 2, ZeRO-3; every rank has rows of its own) and ``tp`` (tensor and sequence parallel 2,
the same rows on both). Athanor runs its trainer: metrics, stop signals and logging included. The peer is
``bench/hand_written.py``: FSDP2, or DTensor's styles, around a textbook decoder, with the usual loop. Both begin
with the same weights and train on the same rows (each row one document) in float32 with fused AdamW and
clipping, eager, one thread a rank. Losses must agree, or the run ends with an error.

Each contender has processes of its own. Steps take turns, the first of each round alternately, so that a change of the
machine's speed meets both; a step's time is that of its slowest rank. ``cpu`` is the processor time of both ranks
together, which a busy machine disturbs less. ``--quick`` runs a toy shape, to see that everything works.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist

from athanor.data.types import Batch
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.parallel.engine import parallel_engine
from athanor.parallel.plan import ParallelPlan
from athanor.recipe.schema import ScheduleRecipe, TrainRecipe
from athanor.train.allocator import keep_freed_memory
from athanor.train.objective import CausalLM
from athanor.train.run_dir import RunDir
from athanor.train.stages import Stage
from athanor.train.trainer import Trainer
from bench.common import Shape, Spread, environment, show, write_result
from bench.workloads import full_rows

WORLD = 2
FULL = Shape("9m", vocab=4096, width=256, layers=6, heads=8, kv_heads=8, ffn=704, context=512, rows=4)
TOY = Shape("toy", vocab=512, width=64, layers=2, heads=4, kv_heads=4, ffn=128, context=64, rows=2)
PLANS = {"fsdp2": ParallelPlan(dp_shard=WORLD), "tp": ParallelPlan(tp=WORLD)}
SIDES = ("athanor", "hand-written")
LR, CLIP = 1e-3, 1.0
#: Athanor's step time over the peer's
TARGET = 1.03
RESULT = Path(__file__).parent / "results" / "parallel_cpu.json"


@dataclass(frozen=True, slots=True)
class Turn:
    """One step of one rank: seconds on the clock, seconds of its processor time, and its loss."""

    wall_s: float
    cpu_s: float
    loss: float


def rows_of(shape: Shape, layout: str, rank: int, batches: int = 2) -> list[Batch]:
    """The batches that a rank trains on, in turn. Data ranks have different rows, tensor ranks the same."""
    first = rank * batches if layout == "fsdp2" else 0
    return [full_rows(shape, first + i, torch.device("cpu")).batch for i in range(batches)]


def first_weights(shape: Shape) -> Decoder:
    """The pre-norm decoder, which is the textbook's mathematics, with the weights that everyone begins with."""
    decoder = Decoder(shape.config(dssn=False))
    init_weights(decoder, 0)
    return decoder


# ---------------------------------------------------------------------------------------------------------------------
# In a rank's process.


class _Over(Exception):
    """The parent has hung up."""


class _Turns:
    """A ``BatchSource`` that waits for its turn before each step: so the trainer's own loop is what is timed."""

    def __init__(self, pipe: Connection, batches: Sequence[Batch]) -> None:
        self.pipe, self.batches = pipe, batches
        self.begun: tuple[float, float] | None = None
        self.loss = float("nan")

    def share(self, step: int, at: int, n: int) -> list[Batch]:
        """End of one step, wait, begin of the next."""
        if self.begun is not None:
            _answer(self.pipe, self.begun, self.loss)
        _wait(self.pipe)
        self.begun = time.perf_counter(), time.process_time()
        return [self.batches[step % len(self.batches)]]

    def micro_batches(self, step: int, model: Decoder) -> list[Batch]:
        """What an engine of one process would ask for; both ranks have an engine that shares."""
        return self.share(step, 0, 1)


class _Objective(CausalLM):
    """The objective of pre-training; remembers this rank's mean loss for the comparison."""

    def __init__(self, turns: _Turns) -> None:
        super().__init__()
        self.turns = turns

    def __call__(self, model: Any, batch: Batch) -> Any:
        loss = super().__call__(model, batch)
        self.turns.loss = float(loss.loss_sum.detach()) / batch.n_targets
        return loss


def _athanor(pipe: Connection, shape: Shape, layout: str, rank: int) -> None:
    turns = _Turns(pipe, rows_of(shape, layout, rank))
    with tempfile.TemporaryDirectory() as folder:
        schedule = ScheduleRecipe(kind="constant", lr=LR)
        stage = Stage("bench", turns, 10**6, schedule)
        recipe = TrainRecipe(precision="fp32", clip_norm=CLIP, tensorboard=False)
        engine = parallel_engine(PLANS[layout])
        objective, run = _Objective(turns), RunDir(Path(folder))
        model = first_weights(shape)
        Trainer(model, objective, [stage], recipe, run, quiet=True, resumable=False, engine=engine).fit()


def _hand_written(pipe: Connection, shape: Shape, layout: str, rank: int) -> None:
    from bench.hand_written import PEERS

    keep_freed_memory()  # the trainer does it for its process: a setting of the allocator is not what is compared
    peer = PEERS[layout](shape, WORLD, first_weights(shape))
    batches = rows_of(shape, layout, rank)
    step = 0
    while True:
        _wait(pipe)
        begun = time.perf_counter(), time.process_time()
        batch = batches[step % len(batches)]
        loss = float(peer.step(batch.input_ids_BT, batch.labels_BT, LR, CLIP))
        _answer(pipe, begun, loss)
        step += 1


def _wait(pipe: Connection) -> None:
    try:
        pipe.recv()
    except EOFError:
        raise _Over from None


def _answer(pipe: Connection, begun: tuple[float, float], loss: float) -> None:
    pipe.send(Turn(time.perf_counter() - begun[0], time.process_time() - begun[1], loss))


def _rank(pipe: Connection, side: str, shape: Shape, layout: str, rank: int, store: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_WORLD_SIZE=str(WORLD))
    files = dist.FileStore(store, WORLD)
    dist.init_process_group("gloo", store=files, rank=rank, world_size=WORLD, timeout=timedelta(minutes=5))
    try:
        (_athanor if side == "athanor" else _hand_written)(pipe, shape, layout, rank)
    except _Over:
        os._exit(0)  # the other rank may be gone: no collective may be waited for
    except BaseException:
        pipe.send(traceback.format_exc())
        os._exit(1)


# ---------------------------------------------------------------------------------------------------------------------
# In the parent.


class Contender:
    """One side of a comparison in processes of its own, one a rank."""

    def __init__(self, side: str, shape: Shape, layout: str, start: str = "spawn") -> None:
        self.side, self.turns = side, list[Turn]()
        context: Any = multiprocessing.get_context(start)
        self._folder = tempfile.TemporaryDirectory()
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(WORLD):
            ours, theirs = context.Pipe()
            args = (theirs, side, shape, layout, rank, f"{self._folder.name}/store")
            process = context.Process(target=_rank, args=args, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_error: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=5)
            process.kill()
        self._folder.cleanup()

    def step(self) -> Turn:
        """One step of all ranks together: the slowest one's clock, the sum of processor times, the mean loss."""
        for pipe in self._pipes:
            pipe.send("step")
        ranks = [self._answer(pipe) for pipe in self._pipes]
        return Turn(
            max(turn.wall_s for turn in ranks),
            sum(turn.cpu_s for turn in ranks),
            statistics.mean(turn.loss for turn in ranks),
        )

    def _answer(self, pipe: Connection) -> Turn:
        try:
            answer = pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.side}: a rank ended without an answer") from None
        if not isinstance(answer, Turn):
            raise RuntimeError(f"{self.side}: a rank failed\n{answer}")
        return answer


def compare(layout: str, shape: Shape, rounds: int, warmup: int, start: str = "spawn") -> list[dict[str, Any]]:
    """Rows of one layout. Raises RuntimeError where the two sides do not compute the same. ``start``: the method of
    ``multiprocessing`` that begins a rank."""
    with ExitStack() as stack:
        sides = [stack.enter_context(Contender(side, shape, layout, start)) for side in SIDES]
        for i in range(warmup + rounds):
            for contender in sides if i % 2 == 0 else reversed(sides):
                contender.turns.append(contender.step())
    require_equal_losses(layout, *([turn.loss for turn in contender.turns] for contender in sides))
    return [_row(layout, contender, warmup) for contender in sides]


def require_equal_losses(layout: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    """RuntimeError unless the two sides' losses agree step by step: else they did not do the same work. Rounding in
    float32 grows with the steps, to about 1e-5 in 20."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if not abs(a - b) <= 1e-3 * b:
            raise RuntimeError(f"{layout}, step {i}: losses differ, {a:.6f} and {b:.6f}")


def _row(layout: str, contender: Contender, warmup: int) -> dict[str, Any]:
    timed = contender.turns[warmup:]
    wall, cpu = Spread.of([turn.wall_s for turn in timed]), Spread.of([turn.cpu_s for turn in timed])
    return {
        "layout": layout,
        "contender": contender.side,
        "step_s": wall.median,
        "spread": wall.spread,
        "cpu_s": cpu.median,
        "steps_s": [turn.wall_s for turn in timed],
        "steps_cpu_s": [turn.cpu_s for turn in timed],
        "losses": [contender.turns[0].loss, contender.turns[-1].loss],
    }


def judge(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bar of each layout. The ratio is the median over rounds of one step by the other of the same round."""
    bars = []
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        ratio, cpu_ratio = (
            statistics.median(a / b for a, b in zip(ours[key], theirs[key], strict=True))
            for key in ("steps_s", "steps_cpu_s")
        )
        bars.append(
            {
                "layout": ours["layout"],
                "ratio": ratio,
                "of_medians": ours["step_s"] / theirs["step_s"],
                "cpu_ratio": cpu_ratio,
                "target": f"≤ {TARGET}",
                "met": ratio <= TARGET,
            }
        )
    return bars


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="toy shape, seconds; no bar is judged")
    parser.add_argument("--rounds", type=int, help="timed steps of each contender (default 40)")
    parser.add_argument("--layouts", nargs="+", choices=list(PLANS), default=list(PLANS))
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")  # for the ranks: there are as many as cores
    shape = TOY if args.quick else FULL
    rounds = args.rounds or (3 if args.quick else 40)
    rows = [row for name in args.layouts for row in compare(name, shape, rounds, warmup=1 if args.quick else 4)]
    columns = ("layout", "contender", "step_s", "spread", "cpu_s")
    title = f"{WORLD} ranks, {shape.rows} × {shape.context} tokens a rank, float32, {rounds} steps each in turn"
    show(title, columns, [[row[name] for name in columns] for row in rows])
    bars = judge(rows)
    if args.quick:
        print("A toy shape: the figures only show that everything runs, no bar is judged.")
    else:
        show("Athanor's step by the peer's", list(bars[0]), [list(bar.values()) for bar in bars])
    out = args.out or (None if args.quick else RESULT)
    write_result({"environment": environment(1), "toy": args.quick, "rows": rows, "bars": bars}, out, shape)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
