"""A run stopped in one layout goes on in another: the same data, the same numbers (float64, as in test_parity)."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.errors import AthanorError
from athanor.parallel.engine import parallel_engine
from athanor.parallel.plan import ParallelPlan
from athanor.recipe.schema import ScheduleRecipe, TrainRecipe
from athanor.train.callbacks import Callback
from athanor.train.engine import LocalEngine
from athanor.train.objective import CausalLM
from athanor.train.run_dir import RunDir
from athanor.train.sources import BatchPlan, PackedSource
from athanor.train.stages import Stage
from athanor.train.stop import Stopped
from athanor.train.trainer import Trainer
from tests.parallel.ranks import run_ranks
from tests.parallel.test_parity import ROWS, SEQ_LEN, make_model
from tests.train.tiny import TinyLoader, lines

STEPS, STOP_AT = 6, 3
Weights = dict[str, torch.Tensor]


class StopOneRank(Callback):
    """As if the last rank alone had got a SIGTERM during step ``at``."""

    def __init__(self, at: int) -> None:
        self.at, self.trainer = at, None

    def on_start(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_gradients(self, step: int, model: Any, optimizer: Any) -> None:
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        me = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if step == self.at and me == world - 1:
            self.trainer.signals.received = signal.SIGTERM


def train(folder: str, plan: ParallelPlan | None, stop_at: int, kind: str) -> Weights | None:
    """Train, or go on; None when it was stopped, or on ranks that hold no whole model."""
    source = PackedSource(TinyLoader(SEQ_LEN), BatchPlan(SEQ_LEN, SEQ_LEN * ROWS), SEQ_LEN)
    stage = Stage("pretrain", source, STEPS, ScheduleRecipe(kind="cosine", lr=1e-2, warmup_steps=2))
    engine = LocalEngine if plan is None else parallel_engine(plan)
    recipe = TrainRecipe(precision="fp32", tensorboard=False)
    callbacks = [StopOneRank(stop_at)] if stop_at else []
    model = make_model(kind, torch.float64)
    trainer = Trainer(
        model, CausalLM(), [stage], recipe, RunDir(folder), callbacks=callbacks, quiet=True, engine=engine
    )
    try:
        trainer.fit()
    except Stopped:
        return None
    whole = trainer.model if plan is None else trainer.engine.whole_model()
    state = None if whole is None else {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
    return None if state is None else {name: value.detach() for name, value in state.items()}


def run(folder: Path, keys: dict[str, Any] | None, stop_at: int = 0, kind: str = "dense") -> Weights | None:
    if keys is None:
        return train(str(folder), None, stop_at, kind)
    plan = ParallelPlan(**keys)
    weights: Weights | None = run_ranks(plan.world_size, train, str(folder), plan, stop_at, kind, keep=True)[0]
    return weights


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("dense", {"dp_shard": 4}, {"tp": 2, "pp": 2}),
        ("dense", {"tp": 2, "pp": 2}, None),
        ("dense", None, {"cp": 2, "dp_shard": 2, "zero": 1}),
        ("moe-bias", {"dp_shard": 2, "ep": 2}, {"tp": 2}),
    ],
    ids=str,
)
def test_continues_in_another_layout(tmp_path: Path, kind: str, before: Any, after: Any) -> None:
    expected = run(tmp_path / "whole", None, kind=kind)
    assert expected is not None
    assert run(tmp_path / "moved", before, STOP_AT, kind) is None
    got = run(tmp_path / "moved", after, kind=kind)
    assert got is not None
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-9, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    steps = [[(x["step"], x["loss"]) for x in lines(tmp_path / p / "metrics.jsonl")] for p in ("whole", "moved")]
    assert [step for step, _ in steps[1]] == list(range(1, STEPS + 1))
    torch.testing.assert_close([loss for _, loss in steps[1]], [loss for _, loss in steps[0]], atol=1e-9, rtol=1e-9)


def test_a_damaged_shard_is_set_aside_by_all_ranks(tmp_path: Path) -> None:
    """The only checkpoint has a flipped byte: every rank refuses it, naming the file."""
    assert run(tmp_path, {"dp_shard": 2}, STOP_AT) is None
    shard = sorted((tmp_path / "checkpoints" / f"step-{STOP_AT}").glob("*.distcp"))[-1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(RuntimeError, match=f"(?s){AthanorError.__name__}.*{shard.name}"):
        run(tmp_path, {"dp_shard": 2})
