"""The one loop: batches of an objective → gradients → update, with metrics, evaluation, checkpoints and clean stops.

Determinism: with ``recipe.deterministic`` a run on a CPU is a function of its recipe and seed for a fixed number of
threads (the order of a parallel sum depends on it); a run killed at any step and resumed repeats the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from athanor import files
from athanor.data.types import Batch
from athanor.errors import AthanorError
from athanor.model.decoder import Decoder
from athanor.recipe.schema import TrainRecipe
from athanor.train import flops
from athanor.train.allocator import keep_freed_memory
from athanor.train.callbacks import Callback, StepInfo, overridden
from athanor.train.checkpoint import CheckpointStore
from athanor.train.compiling import NO_COMPILER
from athanor.train.engine import EngineFactory, LocalEngine, Sums
from athanor.train.metrics import Board, Meter, PeakMemory
from athanor.train.objective import CausalLM, Objective
from athanor.train.optimizer import StepStats
from athanor.train.progress import ProgressView
from athanor.train.rng import rng_state, seed_all, set_rng_state
from athanor.train.run_dir import RunDir
from athanor.train.schedule import learning_rate
from athanor.train.stages import Stage
from athanor.train.stop import Stopped, StopSignals

#: After so many updates in a row with a gradient that is not finite the run cannot recover by itself.
MAX_SKIPPED_IN_A_ROW = 25


@dataclass(slots=True)
class Work:
    """The batches of one step with what must be known before the forward pass."""

    batches: list[Batch]
    weight: float
    tokens: int
    targets: int
    pairs: int


@dataclass(frozen=True, slots=True)
class FitResult:
    """``steps`` updates and ``tokens`` positions of the whole run; ``resumed_from`` is None for an unbroken one."""

    steps: int
    tokens: int
    resumed_from: int | None
    last_eval: dict[str, float]


class Trainer:
    """Trains ``model`` through ``stages`` in ``run_dir``; ``fit`` resumes by itself when the run has a checkpoint.

    The model must have its initial float32 weights and be on its device. While training its parameters are in the
    compute precision; after ``fit`` they are float32 again. ``objective`` turns a batch into a loss sum and a weight;
    the mean is taken once, over the global batch, so the size of micro-batches does not change the result.
    ``engine`` carries a step out: in this process, or over ranks. ``quiet`` shows nothing; ``resumable=False`` writes
    no checkpoints (short experiments that are simply run again).
    """

    def __init__(
        self,
        model: Decoder,
        objective: Objective,
        stages: Sequence[Stage],
        recipe: TrainRecipe,
        run_dir: RunDir,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        eval_objective: Objective | None = None,
        quiet: bool = False,
        resumable: bool = True,
        engine: EngineFactory = LocalEngine,
    ) -> None:
        if not stages:
            raise AthanorError("no stage to train", where="train.stages")
        self.objective, self.stages = objective, list(stages)
        self.recipe, self.run, self.seed = recipe, run_dir, seed
        self.resumable = resumable
        self.callbacks = list(callbacks)
        self.eval_objective: Objective = eval_objective or CausalLM()
        self.config = model.config
        self.engine = engine(model, recipe)
        self._silent = quiet or not self.engine.is_main
        self.model, self.optimizer = self.engine.model, self.engine.optimizer
        self.device, self.dtype = self.engine.device, self.engine.dtype
        self.total_steps = sum(stage.total_steps for stage in self.stages)
        self.step = self.tokens = 0
        self.resumed_from: int | None = None
        self.last_eval: dict[str, float] = {}
        self._skipped_in_a_row = 0
        self._skips = torch.zeros((), device=self.device)  # since the last report; counted without waiting
        self._unreported = 0
        self._on_gradients = overridden(self.callbacks, "on_gradients")
        self._on_step = overridden(self.callbacks, "on_step")

    # --- the run -----------------------------------------------------------------------------------------------

    def fit(self) -> FitResult:
        """Train to the end. Raises ``Stopped`` after SIGINT or SIGTERM, with the state saved."""
        with self._session():
            first = self._resume()
            for callback in self.callbacks:
                callback.on_start(self)
            for index in range(first, len(self.stages)):
                self._run_stage(index)
            for callback in self.callbacks:
                callback.on_end(self)
        self.engine.release()
        return FitResult(self.step, self.tokens, self.resumed_from, self.last_eval)

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Everything that is opened for a run and must be closed however it ends."""
        with ExitStack() as stack:
            stack.enter_context(self.run.locked())
            self.view = ProgressView(self.total_steps, Console(quiet=True) if self._silent else None)
            stack.callback(self.view.close)
            io = self.engine.checkpoints
            self.store = CheckpointStore(self.run, self.recipe.keep_checkpoints, warn=self.view.say, io=io)
            stack.callback(self.store.wait, raise_error=False)
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
            stack.callback(self._pool.shutdown, wait=True, cancel_futures=True)
            if self.device.type == "cpu":
                keep_freed_memory()
            stack.enter_context(_deterministic(self.recipe.deterministic and self.device.type == "cpu"))
            self.signals = stack.enter_context(StopSignals())
            if self.recipe.compile and not self.engine.compile():
                self.run.event("not_compiled", why=NO_COMPILER)
                self.view.say(f"{NO_COMPILER}: training goes on without torch.compile, slower")
            self.peak, peak_source = flops.peak_flops(self.device, self.dtype)
            self._start_event = {
                "device": str(self.device),
                "threads": torch.get_num_threads(),
                "precision": str(self.dtype).removeprefix("torch."),
                "peak_flops": self.peak,
                "peak_source": peak_source,
                "mfu_convention": flops.MFU_CONVENTION,
            }
            self.memory = PeakMemory(self.device)
            self.board: Board | None = None
            try:
                yield
            except OSError as error:
                if not files.is_disk_full(error):
                    raise
                fix = "free some space, then run the same command again to resume"
                raise AthanorError(f"the disk is full ({error})", where=str(self.run.path), fix=fix) from None
            finally:
                if self.board is not None:
                    self.board.close()

    def _run_stage(self, index: int) -> None:
        stage = self.stages[index]
        begun, tokens = time.perf_counter(), self.tokens
        first_step = self.step - sum(before.total_steps for before in self.stages[:index])
        if stage.rope_theta is not None:
            self.engine.set_rope_theta(stage.rope_theta)
        if stage.schedule.warmup_steps >= stage.total_steps:
            self.run.event("warmup_never_ends", stage=stage.name, steps=stage.total_steps)
        for callback in self.callbacks:
            callback.on_stage_start(self, stage)
        self.meter = Meter()
        if first_step == 0:
            self.run.event("stage", stage=stage.name, step=self.step, steps=stage.total_steps)
            self._evaluate(stage, at="start", known=self._evaluated_before(index))
        self._next: Future[Work] | None = None
        for stage_step in range(first_step, stage.total_steps):
            self._train_step(stage, stage_step)
            last = stage_step + 1 == stage.total_steps
            every = self.recipe.eval_every_steps
            if last or (every and (stage_step + 1) % every == 0):
                self._evaluate(stage, at="end" if last else "within")
            if last:
                for callback in self.callbacks:
                    callback.on_stage_end(self, stage)
                done = {"wall_s": time.perf_counter() - begun, "tokens": self.tokens - tokens}
                self.run.event("stage_done", stage=stage.name, step=self.step, from_step=first_step, **done)
            self._checkpoint_if_due(index, stage_step + 1, last)

    # --- one step ----------------------------------------------------------------------------------------------

    def _train_step(self, stage: Stage, stage_step: int) -> None:
        begun = time.perf_counter()
        work = self._work(stage, stage_step)
        data_s = time.perf_counter() - begun
        lr = learning_rate(stage.schedule, stage_step, stage.total_steps)
        sums = self._forward_backward(work)
        for callback in self._on_gradients:
            callback.on_gradients(self.step + 1, self.model, self.optimizer)
        if work.weight > 0:
            stats = self.optimizer.step(lr, self.recipe.clip_norm)
            self.engine.post_step()
        else:
            stats = StepStats(torch.zeros(()), torch.zeros(()))
        self._skips = self._skips + stats.skipped
        self._unreported += 1
        self.step += 1
        self.tokens += work.tokens
        self.meter.add(work.tokens, self._flops(work), data_s)
        if self._on_step or self.step % self.recipe.log_every_steps == 0 or stage_step + 1 == stage.total_steps:
            self._report(stage, stage_step, lr, work, sums, stats)

    def _flops(self, work: Work) -> int:
        return flops.train_flops(self.config, work.tokens, work.pairs, work.targets)

    def _work(self, stage: Stage, stage_step: int) -> Work:
        """This step's batches, with sums over all processes.

        On an accelerator the next ones are fetched meanwhile, if they do not need the model. On a CPU a second thread
        would only take the cores' time from the step itself.
        """
        mine = self._next.result() if self._next is not None else self._prepare(stage, stage_step)
        self._next = None
        ahead = self.device.type != "cpu" and getattr(stage.source, "prefetch", False)
        if ahead and stage_step + 1 < stage.total_steps:
            self._next = self._pool.submit(self._prepare, stage, stage_step + 1)
        weight, *counts = self.engine.total([mine.weight, mine.tokens, mine.targets, mine.pairs])
        return Work(mine.batches, weight, *map(int, counts))

    def _prepare(self, stage: Stage, stage_step: int) -> Work:
        batches = self.engine.micro_batches(stage.source, stage_step)
        lens = [n for batch in batches for row in batch.doc_lens for n in row]
        for batch in batches:
            if "n_targets" not in batch.meta:
                batch.meta["n_targets"] = batch.n_targets
        return Work(
            batches,
            weight=sum(self.objective.weight(batch) for batch in batches),
            tokens=sum(batch.input_ids_BT.numel() for batch in batches),
            targets=sum(batch.meta["n_targets"] for batch in batches),
            pairs=flops.attended_pairs(lens, "causal", self.config.sliding_window),
        )

    def _forward_backward(self, work: Work) -> Sums:
        """Gradients of (sum of losses) / (weight of the whole batch); returns this process's metric sums."""
        if work.weight <= 0:
            self.run.event("no_targets", step=self.step + 1)
            return {}
        return self.engine.forward_backward(self.objective, work.batches, work.weight)

    def _report(self, stage: Stage, stage_step: int, lr: float, work: Work, sums: Sums, stats: StepStats) -> None:
        sums = self.engine.totals_of(sums)
        means = {name: float(value) / weight if weight else float("nan") for name, (value, weight) in sums.items()}
        loss, norm, skipped = means.pop("loss", float("nan")), float(stats.grad_norm), bool(stats.skipped)
        if self._on_step:
            info = StepInfo(
                self.step,
                stage.name,
                stage_step,
                loss,
                norm,
                lr,
                self.tokens,
                skipped,
                self.model,
                self.optimizer,
                means,
            )
            for callback in self._on_step:
                callback.on_step(info)
        if self.step % self.recipe.log_every_steps == 0 or stage_step + 1 == stage.total_steps:
            line = {
                "step": self.step,
                "stage": stage.name,
                "loss": loss,
                "grad_norm": norm,
                "lr": lr,
                "tokens": self.tokens,
                "targets": work.targets,
                **self.meter.read(self.peak),
                "peak_bytes": self.memory.read(),
                "time": time.time(),
                **means,
            }
            if skipped:
                line["skipped"] = True
            self._write(line)
        self._watch(loss, norm)

    def _write(self, line: dict[str, Any]) -> None:
        flushed = self.run.metrics.write(line)
        if flushed and self.board is not None:
            self.board.write(self.step, line, "train")
        self.view.update(line)

    def _watch(self, loss: float, norm: float) -> None:
        """Record updates that were left undone, and give up when nothing else happens any more."""
        skips, steps = int(self._skips), self._unreported
        self._unreported = 0
        if not skips:
            self._skipped_in_a_row = 0
            return
        self._skips.zero_()
        self._skipped_in_a_row = self._skipped_in_a_row + skips if skips == steps else 0
        self.run.event("non_finite_gradient", step=self.step, updates=skips, loss=str(loss), grad_norm=str(norm))
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise AthanorError(
                f"the gradient was not finite in {self._skipped_in_a_row} updates in a row (up to step {self.step})",
                where=str(self.run.path),
                fix="lower the learning rate, or look at the data of these steps",
            )

    # --- evaluation --------------------------------------------------------------------------------------------

    def _evaluated_before(self, index: int) -> bool:
        """Whether the end of the stage before has just measured what the start of this one would."""
        if index == 0:
            return False
        before, now = self.stages[index - 1], self.stages[index]
        same = before.evals.keys() == now.evals.keys() and all(now.evals[k] is before.evals[k] for k in now.evals)
        return same and now.rope_theta in (None, before.rope_theta) and self.last_eval.keys() == now.evals.keys()

    def _evaluate(self, stage: Stage, at: str, known: bool = False) -> None:
        if not stage.evals:
            return
        begun = time.perf_counter()
        losses = self.last_eval if known else self._eval_losses(stage)
        self.last_eval = losses
        seconds = time.perf_counter() - begun
        line = {
            "step": self.step,
            "stage": stage.name,
            "at": at,
            "eval": losses,
            "eval_s": seconds,
            "time": time.time(),
        }
        self.run.metrics.write(line)
        if self.board is not None:
            self.board.write(self.step, losses, "eval")
        shown = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        self.view.say(f"step {self.step}/{self.total_steps}  {stage.name}  held-out loss: {shown}")
        for callback in self.callbacks:
            callback.on_eval(self, losses)
        self.meter.away(time.perf_counter() - begun)

    def _eval_losses(self, stage: Stage) -> dict[str, float]:
        # compiled code is for the shapes and the gradients of training: evaluation would compile everything again
        with torch.compiler.set_stance("force_eager") if self.recipe.compile else nullcontext():
            return {
                name: self.engine.evaluate(self.eval_objective, batches() if callable(batches) else batches)
                for name, batches in stage.evals.items()
            }

    # --- checkpoints -------------------------------------------------------------------------------------------

    def _checkpoint_if_due(self, stage_index: int, stage_step: int, stage_ended: bool) -> None:
        every = self.recipe.checkpoint_every_steps
        stop = self.engine.agree(self.signals.received)
        finished = self.step == self.total_steps
        if self.resumable and (stage_ended or stop is not None or (every and stage_step % every == 0)):
            begun = time.perf_counter()
            self.store.save(self.step, self._state(stage_index, stage_step), wait=stop is not None or finished)
            self.meter.away(time.perf_counter() - begun)
        if stop is not None and not finished:
            self.run.event("stopped", step=self.step, signal=stop)
            saved = f"state saved in {self.run.path}. Run the same command again to resume."
            saved = saved if self.resumable else "nothing saved."
            raise Stopped(f"stopped after step {self.step} of {self.total_steps}; {saved}", stop)

    def _state(self, stage_index: int, stage_step: int) -> dict[str, Any]:
        """Everything that decides the rest of the run, as copies on the host."""
        stage = self.stages[stage_index]
        position = getattr(stage.source, "position", None)
        return {
            **self.optimizer.snapshot(),
            "buffers": {name: buffer.detach().to("cpu", copy=True) for name, buffer in self.engine.buffers().items()},
            "trainer": {
                "step": self.step,
                "stage": stage_index,
                "stage_step": stage_step,
                "tokens": self.tokens,
                "seed": self.seed,
                "skipped_in_a_row": self._skipped_in_a_row,
                "metrics_bytes": self.run.metrics.flush(sync=True),
                "stages": self._stage_list(),
                "position": position(stage_step) if position else None,
                "last_eval": self.last_eval,
            },
            "rng": rng_state(self.device),
            "extra": {key: owner.state_dict() for key, owner in self._stateful().items()},
        }

    def _stage_list(self) -> list[list[Any]]:
        return [[stage.name, stage.total_steps] for stage in self.stages]

    def _stateful(self) -> dict[str, Any]:
        """What else has a state to keep: named callbacks, the objective and the sources that offer ``state_dict``."""
        owners: dict[str, Any] = {f"callback.{c.name}": c for c in self.callbacks if c.name}
        owners["objective"] = self.objective
        owners.update({f"source.{i}": stage.source for i, stage in enumerate(self.stages)})
        return {key: o for key, o in owners.items() if hasattr(o, "state_dict") and hasattr(o, "load_state_dict")}

    def _resume(self) -> int:
        """Load the newest good checkpoint if there is one; returns the index of the stage to go on with."""
        found = self.store.load_latest()
        if found is None:
            seed_all(self.seed)
            self.run.metrics.truncate(0)
            self.run.event("start", seed=self.seed, **self._start_event)
        else:
            self._load(*found)
            self.run.event("resume", step=self.step, **self._start_event)
            self.view.say(f"resuming after step {self.step} of {self.total_steps}")
        if self.recipe.tensorboard and self.engine.is_main:
            self.board = Board(self.run, purge_after_step=self.step)
        ends = 0
        for index, stage in enumerate(self.stages):
            ends += stage.total_steps
            if self.step < ends:
                return index
        return len(self.stages)

    def _load(self, step: int, state: dict[str, Any]) -> None:
        where = str(self.run.checkpoints_dir / f"step-{step}")
        trainer = state["trainer"]
        self._refuse_other_run(trainer, where)
        self.optimizer.restore(state, where)
        with torch.no_grad():
            for name, buffer in self.engine.buffers().items():
                buffer.copy_(state["buffers"][name])
        for stage in self.stages[: trainer["stage"] + 1]:
            if stage.rope_theta is not None:
                self.engine.set_rope_theta(stage.rope_theta)
        self.step, self.tokens = trainer["step"], trainer["tokens"]
        self.last_eval, self._skipped_in_a_row = trainer["last_eval"], trainer["skipped_in_a_row"]
        self.resumed_from = self.step
        for key, owner in self._stateful().items():
            if key in state["extra"]:
                owner.load_state_dict(state["extra"][key])
        if not self.run.metrics.truncate(trainer["metrics_bytes"]):
            self.run.event("metrics_lost", step=self.step, expected_bytes=trainer["metrics_bytes"])
            self.view.say(f"{self.run.metrics_path}: shorter than at the checkpoint; some lines are lost")
        set_rng_state(state["rng"], self.device)

    def _refuse_other_run(self, trainer: Mapping[str, Any], where: str) -> None:
        """A checkpoint of other stages, another seed or other data would continue something else without a word."""
        fix = "use the recipe and data that made it, or another --out"
        for what, there, now in (
            ("stages", trainer["stages"], self._stage_list()),
            ("seed", trainer["seed"], self.seed),
        ):
            if there != now:
                raise AthanorError(f"{what} differ from the checkpoint's: {there} → {now}", where=where, fix=fix)
        position = getattr(self.stages[trainer["stage"]].source, "position", None)
        now_at = position(trainer["stage_step"]) if position else None
        if trainer["position"] != now_at:
            raise AthanorError(
                f"the data differ from the checkpoint's: {trainer['position']} → {now_at}", where=where, fix=fix
            )


@contextmanager
def _deterministic(on: bool) -> Iterator[None]:
    """Deterministic kernels where there is a choice; fresh memory is not filled, which costs time for nothing."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    if on:
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = fill
