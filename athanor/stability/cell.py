"""One run of the laboratory: the product's Decoder, initialisation, optimizer and Trainer, with a recorder."""

from __future__ import annotations

import contextlib
import io
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from athanor.data.types import Batch
from athanor.files import write_atomic
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.stability.corpus import ByteCorpus, ByteSource, heldout_batches
from athanor.stability.probe import UpdateRatio, grouped_norms, output_rms, post_norm_gains
from athanor.stability.settings import Cell, LabSettings, parse_arch
from athanor.stability.spikes import Spike, grad_spikes, loss_spikes
from athanor.train.callbacks import Callback, StepInfo
from athanor.train.objective import CausalLM
from athanor.train.optimizer import AdamW
from athanor.train.run_dir import RunDir, jsonable
from athanor.train.stages import Stage, evaluate
from athanor.train.stop import Stopped
from athanor.train.trainer import Trainer

#: Rows of a held-out batch (evaluation only: the result does not depend on it beyond rounding).
HELDOUT_ROWS = 32


class Recorder(Callback):
    """Keeps every step's loss and gradient norm, and what the model looks like inside at the probed steps.

    Probed are every ``probe_every`` steps and the last.

    ``grad_top``: which block (or module outside the blocks) had the largest share of the squared gradient norm, a step.
    """

    def __init__(
        self, model: Decoder, probe_batch: Batch, settings: LabSettings, on_progress: Callable[[], None] | None
    ) -> None:
        self.batch, self.settings, self.on_progress = probe_batch, settings, on_progress
        self.loss: list[float] = []
        self.grad_norm: list[float] = []
        self.grad_top: list[tuple[str, float]] = []
        self.probes: dict[str, list[Any]] = {}
        self._ratio = UpdateRatio(model)
        self._layers = model.config.num_hidden_layers

    def probe(self, step: int, model: Decoder) -> None:
        """Measure the model as it is after ``step`` updates."""
        for name, value in {"step": step, **output_rms(model, self.batch), **post_norm_gains(model)}.items():
            self.probes.setdefault(name, []).append(value)

    def _due(self, step: int) -> bool:
        return step % self.settings.probe_every == 0 or step == self.settings.steps

    def on_gradients(self, step: int, model: Decoder, optimizer: AdamW) -> None:
        """Which block the gradient sits in; before a probed update, its gradient by depth and the weights."""
        norms = grouped_norms(optimizer.grads)
        total = sum(value * value for value in norms.values())
        top = max(norms, key=lambda group: norms[group])
        self.grad_top.append((str(top), norms[top] ** 2 / total if total > 0 else 0.0))
        if self._due(step):
            self.probes.setdefault("grad_by_block", []).append([norms[block] for block in range(self._layers)])
            self._ratio.before()

    def on_step(self, info: StepInfo) -> None:
        """Keep the step; after a probed one, measure."""
        self.loss.append(info.loss)
        self.grad_norm.append(info.grad_norm)
        if self._due(info.step):
            self.probes.setdefault("update_step", []).append(info.step)
            self.probes.setdefault("update_ratio", []).append(self._ratio.after())
            self.probe(info.step, info.model)
        if self.on_progress is not None:
            self.on_progress()


def _spikes(found: list[Spike]) -> list[dict[str, Any]]:
    return [asdict(spike) for spike in found]


def _cpu_s() -> float:
    """CPU seconds of this process and its finished children (the compiler)."""
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def _peak_bytes() -> int:
    """Largest resident memory of this process so far (Linux counts in KiB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _fit(trainer: Trainer) -> None:
    """Train without the trainer's own progress lines, and let Ctrl-C mean what it says: this run is not kept."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            trainer.fit()
        except Stopped as stopped:
            raise KeyboardInterrupt from stopped


def train_cell(
    cell: Cell, settings: LabSettings, corpus: ByteCorpus, on_progress: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Train one cell from scratch and return its result (JSON values; numbers that are not finite are null).

    On one thread the result is a function of (cell, settings, corpus, torch build) alone, to the last bit.
    """
    started_wall, started_cpu = time.perf_counter(), _cpu_s()
    model = Decoder(settings.model_config_for(parse_arch(cell.arch)))
    init_weights(model, cell.seed)
    recipe = settings.train_recipe(cell.lr)
    heldout = heldout_batches(corpus, settings.heldout_bytes, HELDOUT_ROWS, settings.seq_len)
    probe_batch = heldout_batches(
        corpus, settings.batch_rows * settings.seq_len, settings.batch_rows, settings.seq_len
    )[0]
    recorder = Recorder(model, probe_batch, settings, on_progress)
    recorder.probe(0, model)
    source = ByteSource(corpus, cell.seed, settings.batch_rows, settings.seq_len)
    stage = Stage("stability", source, settings.steps, recipe.schedule)
    objective = CausalLM()
    with tempfile.TemporaryDirectory(prefix="athanor-lab-") as folder:
        run_dir = RunDir.open(folder, {"cell": asdict(cell), **settings.model_dump(mode="json")})
        _fit(Trainer(model, objective, [stage], recipe, run_dir, cell.seed, [recorder]))
    with torch.compiler.set_stance("force_eager"):  # another batch shape: not worth a compilation
        heldout_loss = evaluate(model, objective, heldout)
    return jsonable(  # type: ignore[no-any-return]
        {
            "cell": asdict(cell),
            "loss": recorder.loss,
            "grad_norm": recorder.grad_norm,
            "grad_top": recorder.grad_top,
            "probes": recorder.probes,
            "heldout_loss": heldout_loss,
            "loss_spikes": _spikes(loss_spikes(recorder.loss)),
            "grad_spikes": _spikes(grad_spikes(recorder.grad_norm)),
            "tokens": settings.steps * settings.batch_rows * settings.seq_len,
            "cpu_s": _cpu_s() - started_cpu,
            "wall_s": time.perf_counter() - started_wall,
            "process_peak_bytes": _peak_bytes(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
    )


def write_cell(
    path: Path,
    key: str,
    cell: Cell,
    settings: LabSettings,
    corpus: ByteCorpus,
    on_progress: Callable[[], None] | None = None,
) -> None:
    """Train one cell and write its result, whole or not at all."""
    write_atomic(path, json.dumps({"key": key, **train_cell(cell, settings, corpus, on_progress)}))
