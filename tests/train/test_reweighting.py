"""Shares that follow losses in a real run: what is recorded, repeated after a stop, replayed, and equal over ranks."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from athanor.data.loader import PackedLoader, held_out_batches
from athanor.data.mixtures import read_mixture
from athanor.data.shards import ShardSet, ShardWriter
from athanor.parallel.engine import parallel_engine
from athanor.parallel.plan import ParallelPlan
from athanor.recipe.mixing import OrderRecipe, ReweightRecipe, WeightingRecipe
from athanor.recipe.schema import ScheduleRecipe
from athanor.train.callbacks import Callback
from athanor.train.data_log import DataLog, seen_so_far
from athanor.train.engine import LocalEngine
from athanor.train.objective import CausalLM, CausalLMBySource
from athanor.train.reweighting import Reweighting
from athanor.train.run_dir import RunDir
from athanor.train.sources import BatchPlan, PackedSource
from athanor.train.stages import Stage
from athanor.train.stop import Stopped
from athanor.train.trainer import Trainer
from tests.parallel.ranks import run_ranks
from tests.train.tiny import VOCAB, lines, make_model, recipe_of, untimed

SEQ, ROWS, STEPS = 16, 8, 24
MIXTURE = {"count": 0.6, "noise": 0.3, "same": 0.1}
RULE: dict[str, Any] = {"every_steps": 3, "reference": {"count": 1.0, "noise": 4.0, "same": 0.5}, "eta": 1.0}


def write_shards(folder: Path) -> None:
    """Three sources: counting, random tokens, one token over and over."""
    generator = torch.Generator().manual_seed(0)
    for name in MIXTURE:
        with ShardWriter(folder / name, "f", VOCAB) as writer:
            for i in range(200):
                n = 5 + i % 30
                tokens = {
                    "count": [(i + k) % (VOCAB - 2) + 2 for k in range(n)],
                    "noise": (torch.randint(2, VOCAB, (n,), generator=generator)).tolist(),
                    "same": [i % 7 + 2] * n,
                }[name]
                writer.add(tokens, label=(name, "und"), weight=1.0 + i % 3, difficulty=i / 200)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder)
    return folder


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.at = step

    def on_start(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_step(self, info: Any) -> None:
        if info.step == self.at:
            self.trainer.signals.received = signal.SIGTERM


def train(
    data: str, out: str, rule: dict[str, Any], stop_at: int = 0, plan: ParallelPlan | None = None, **drawing: Any
) -> list[Any]:
    """Train (or go on); the rows that were read in the end, and what was seen."""
    sources = {name: ShardSet.open(Path(data) / name) for name in MIXTURE}
    loader = PackedLoader(sources, MIXTURE, SEQ, seed=3, tag_sources=bool(rule), **drawing)
    source = PackedSource(loader, BatchPlan(SEQ, SEQ * ROWS), SEQ * 2)
    evals = {name: held_out_batches(shards, SEQ, 4 * SEQ) for name, shards in sources.items()}
    stage = Stage("mix", source, STEPS, ScheduleRecipe(kind="constant", lr=1e-2), evals=evals)
    run = RunDir(out)
    callbacks: list[Callback] = [DataLog(), StopAt(stop_at)]
    if rule:
        callbacks.append(Reweighting({"mix": ReweightRecipe(**rule)}, run))
    trainer = Trainer(
        make_model(dtype=torch.float64),
        CausalLMBySource(loader.names) if rule else CausalLM(),
        [stage],
        recipe_of(checkpoint_every_steps=5, eval_every_steps=12),
        run,
        0,
        callbacks,
        CausalLM(),
        quiet=True,
        engine=LocalEngine if plan is None else parallel_engine(plan),
    )
    try:
        trainer.fit()
    except Stopped:
        return []
    seen = seen_so_far(trainer.stages, trainer.step)
    return [loader.rows(0, STEPS * ROWS).input_ids_BT.tolist(), loader.switches, seen]


def events(out: Path, kind: str) -> list[dict]:
    return [{k: v for k, v in e.items() if k != "time"} for e in lines(out / "events.jsonl") if e["kind"] == kind]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    out = tmp_path_factory.mktemp("whole")
    return out, train(str(data), str(out), RULE)


def test_shares_move_to_what_is_above_its_reference(whole: tuple[Path, list[Any]], data: Path) -> None:
    out, (rows, switches, seen) = whole
    found = events(out, "mixture")
    # the first update is after step 3; it holds two steps later, from row (3 + 1) · 8 on
    assert [(e["step"], e["from_row"]) for e in found] == [(s, (s + 1) * ROWS) for s in range(3, 22, 3)]
    assert [(e["from_row"], e["shares"]) for e in found] == [(row, shares) for row, shares, _ in switches]
    last = found[-1]["shares"]
    assert last["noise"] < MIXTURE["noise"] and last["same"] > MIXTURE["same"]  # noise is near its reference
    metrics = [line for line in lines(out / "metrics.jsonl") if "loss" in line]
    assert {f"loss/{name}" for name in MIXTURE} <= set(metrics[0]) and not any("loss_sum" in key for key in metrics[0])
    # the rows differ from the static run's only behind the first switch
    static = PackedLoader({n: ShardSet.open(data / n) for n in MIXTURE}, MIXTURE, SEQ, seed=3)
    plain = static.rows(0, STEPS * ROWS).input_ids_BT.tolist()
    assert rows[: 4 * ROWS] == plain[: 4 * ROWS] and rows != plain
    exported = yaml.safe_load((out / "mixture-mix.yaml").read_text())
    mean = {name: sum(e["shares"][name] for e in found) / len(found) for name in MIXTURE}
    assert read_mixture(out / "mixture-mix.yaml") == pytest.approx(mean, abs=1e-5) and exported["updates"] == 7
    # and what was read is exact
    counts = {name: 0 for name in MIXTURE}
    loader = PackedLoader({n: ShardSet.open(data / n) for n in MIXTURE}, MIXTURE, SEQ, seed=3)
    for switch in switches:
        loader.switch(*switch)
    for name, n in loader.rows(0, STEPS * ROWS).meta["source_tokens"].items():
        counts[name] += n
    assert seen.tokens == counts == seen.domains
    assert events(out, "data_seen")[-1]["tokens"] == counts


def test_losses_by_source_add_up(whole: tuple[Path, list[Any]], data: Path) -> None:
    """Against autograd-free losses of the same model, source by source, in the first step."""
    out, _ = whole
    model = make_model(dtype=torch.float64)
    loader = PackedLoader({n: ShardSet.open(data / n) for n in MIXTURE}, MIXTURE, SEQ, seed=3, tag_sources=True)
    batch = loader.rows(0, ROWS)
    with torch.no_grad():
        logits = model(batch.input_ids_BT, batch.positions_BT, batch.doc_lens)
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), batch.labels_BT, ignore_index=-100, reduction="none"
    )
    first = next(line for line in lines(out / "metrics.jsonl") if "loss" in line)
    for number, name in enumerate(loader.names):
        here = (batch.extras["source"] == number)[:, None] & (batch.labels_BT != -100)
        if here.any():
            assert first[f"loss/{name}"] == pytest.approx(float(losses[here].mean()), rel=1e-6)
    mean = float(losses.sum() / (batch.labels_BT != -100).sum())
    assert first["loss"] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("stop_at", [8, 16])
def test_a_stopped_run_repeats_the_same_decisions(
    whole: tuple[Path, list[Any]], data: Path, tmp_path: Path, stop_at: int
) -> None:
    out, result = whole
    assert train(str(data), str(tmp_path), RULE, stop_at=stop_at) == []
    assert train(str(data), str(tmp_path), RULE) == result
    assert events(tmp_path, "mixture") == events(out, "mixture")
    assert untimed(tmp_path / "metrics.jsonl") == untimed(out / "metrics.jsonl")
    resumed = [e for e in events(tmp_path, "data_seen") if e["step"] == stop_at]
    assert len(resumed) == 1 and events(tmp_path, "data_seen")[-1] == events(out, "data_seen")[-1]


def test_recorded_shares_are_replayed(whole: tuple[Path, list[Any]], data: Path, tmp_path: Path) -> None:
    out, (rows, switches, _) = whole
    replay = {"replay": str(out / "events.jsonl")}
    again = train(str(data), str(tmp_path), replay)
    assert again[0] == rows and again[1] == switches and not events(tmp_path, "mixture")
    # also when it is stopped on the way
    assert train(str(data), str(tmp_path / "two"), replay, stop_at=9) == []
    assert train(str(data), str(tmp_path / "two"), replay)[0] == rows


@pytest.mark.parametrize("layout", [{"dp_shard": 2}, {"pp": 2}])
def test_every_layout_decides_alike(
    whole: tuple[Path, list[Any]], data: Path, tmp_path: Path, layout: dict[str, int]
) -> None:
    _, result = whole
    ranks = run_ranks(2, train, str(data), str(tmp_path), RULE, 0, ParallelPlan(**layout), keep=True)
    assert ranks[0] == result and ranks[1] == result
    assert [(e["from_row"], e["shares"]) for e in events(tmp_path, "mixture")] == [
        (row, shares) for row, shares, _ in result[1]
    ]


def test_accounting_is_the_same_after_a_resume_with_weights_and_curriculum(data: Path, tmp_path: Path) -> None:
    drawing = {
        "weighting": WeightingRecipe(kind="document"),
        "order": OrderRecipe(kind="easy_to_hard", blocks=4),
        "n_rows": STEPS * ROWS,
    }
    one = train(str(data), str(tmp_path / "one"), {}, **drawing)
    assert train(str(data), str(tmp_path / "two"), {}, stop_at=13, **drawing) == []
    assert train(str(data), str(tmp_path / "two"), {}, **drawing) == one
    assert events(tmp_path / "one", "data_seen")[-1] == events(tmp_path / "two", "data_seen")[-1]
    assert untimed(tmp_path / "one" / "metrics.jsonl") == untimed(tmp_path / "two" / "metrics.jsonl")
    assert json.dumps(one[2].epochs)  # plain numbers
