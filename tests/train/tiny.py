"""A tiny model, a tiny endless loader, and a run of two stages that a subprocess can repeat."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import torch

from athanor.data.types import IGNORE, Batch
from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.recipe.schema import BatchStep, ScheduleRecipe, TrainRecipe
from athanor.train.callbacks import Callback
from athanor.train.checkpoint import read_checkpoint, write_checkpoint
from athanor.train.objective import CausalLM
from athanor.train.run_dir import RunDir
from athanor.train.sources import BatchPlan, PackedSource
from athanor.train.stages import Stage
from athanor.train.trainer import Trainer

VOCAB = 61
CONFIG = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    norm_placement="depth_scaled_sandwich",
    max_position_embeddings=64,
)


class TinyLoader:
    """Row r: documents of uneven length whose tokens count upwards, from a generator seeded by (seed, r)."""

    def __init__(self, seq_len: int, seed: int = 0) -> None:
        self.seq_len, self.seed, self.fingerprint = seq_len, seed, f"tiny-{seed}"

    def row(self, r: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
        g = torch.Generator().manual_seed(self.seed * 100_003 + r)
        lens, left = [], self.seq_len
        while left:
            lens.append(min(left, int(torch.randint(3, 9, (), generator=g))))
            left -= lens[-1]
        ids = [(torch.randint(0, VOCAB, (), generator=g) + torch.arange(n)) % VOCAB for n in lens]
        labels = [torch.cat([doc[1:], torch.tensor([IGNORE])]) for doc in ids]
        return torch.cat(ids), torch.cat(labels), torch.cat([torch.arange(n) for n in lens]), lens

    def rows(self, first_row: int, n: int) -> Batch:
        ids, labels, positions, lens = zip(*(self.row(first_row + i) for i in range(n)), strict=True)
        return Batch(torch.stack(ids), torch.stack(labels), torch.stack(positions), list(lens))


class Noise(Callback):
    """Touches the global generator and keeps a state, as a callback may: both must survive a resume."""

    name = "noise"

    def __init__(self) -> None:
        self.total = 0.0

    def on_step(self, info) -> None:
        self.total += float(torch.rand(()))
        info.metrics["noise"] = self.total

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state) -> None:
        self.total = state["total"]


def make_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes) -> Decoder:
    model = Decoder(CONFIG.model_copy(update=changes))
    init_weights(model, seed)
    return model.to(dtype)


def make_stages(steps: tuple[int, int] = (6, 6), micro: int | None = None, seed: int = 0) -> list[Stage]:
    held_out = [TinyLoader(16, seed=77).rows(0, 4)]
    schedule = ScheduleRecipe(kind="cosine", lr=1e-2, warmup_steps=2, min_lr=1e-4)
    ramp = [BatchStep(after_tokens=64, global_batch_tokens=64)]
    first = PackedSource(TinyLoader(16, seed), BatchPlan(16, 32, ramp), micro)
    second = PackedSource(TinyLoader(32, seed + 1), BatchPlan(32, 64), micro)
    evals = {"held_out": held_out}
    return [
        Stage("general", first, steps[0], schedule, evals=evals),
        Stage("long", second, steps[1], schedule, rope_theta=50_000.0, evals=evals),
    ]


def make_trainer(path: Path | str, recipe: TrainRecipe, **keys) -> Trainer:
    model = keys.pop("model", None) or make_model()
    stages = keys.pop("stages", None) or make_stages()
    return Trainer(model, keys.pop("objective", CausalLM()), stages, recipe, RunDir(path), **keys)


def recipe_of(**keys) -> TrainRecipe:
    return TrainRecipe.model_validate({"precision": "fp32", "tensorboard": False, **keys})


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


#: Of a metrics line, what depends on the clock or the machine.
TIMED = ("time", "tokens_per_s", "mfu", "step_s", "data_s", "peak_bytes", "eval_s")


def untimed(path: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines(path)]


class Killer(Callback):
    """Ends its own process with SIGKILL right after the update ``at``."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, info) -> None:
        if info.step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def train_and_maybe_die(path: Path, precision: str, kill_at: int) -> None:
    """Train the two stages with a checkpoint every second step; the final weights go to ``path``/final.pt."""
    recipe = recipe_of(precision=precision, checkpoint_every_steps=2)
    trainer = make_trainer(path, recipe, callbacks=[Noise(), Killer(kill_at)], seed=5)
    trainer.fit()
    torch.save({"masters": trainer.optimizer.masters, "model": trainer.model.state_dict()}, path / "final.pt")


def main() -> None:
    """``tiny.py PRECISION:KILL_AT:DIR …``: each run in a forked process of its own; prints how each ended."""
    torch.set_num_threads(1)
    # what a run imports on its way (seconds each time) is imported once, before the forks
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "step-0", 0, {"x": torch.zeros(1)})
        read_checkpoint(Path(folder) / "step-0")
    for job in sys.argv[1:]:
        precision, kill_at, folder = job.split(":", 2)
        child = os.fork()
        if child == 0:
            train_and_maybe_die(Path(folder), precision, int(kill_at))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
