"""The loop: micro-batches, stages, evaluation, callbacks, gradients that are not finite."""

import math

import pytest
import torch
from tiny import CONFIG, Noise, TinyLoader, lines, make_model, make_stages, make_trainer, recipe_of

from athanor.data.types import IGNORE
from athanor.errors import AthanorError
from athanor.recipe.schema import ScheduleRecipe
from athanor.train import engine as engine_module
from athanor.train import trainer as trainer_module
from athanor.train.callbacks import Callback
from athanor.train.objective import CausalLM, Loss
from athanor.train.sources import BatchPlan, PackedSource
from athanor.train.stages import Stage, evaluate

FLAT = ScheduleRecipe(kind="constant", lr=1e-2)


def train_lines(path):
    return [line for line in lines(path / "metrics.jsonl") if "loss" in line]


def events(path, kind):
    return [event for event in lines(path / "events.jsonl") if event["kind"] == kind]


def test_micro_batches_do_not_change_the_run(tmp_path):
    losses = {}
    for micro in (None, 16, 48):
        make_trainer(tmp_path / str(micro), recipe_of(), stages=make_stages(micro=micro)).fit()
        losses[micro] = [line["loss"] for line in train_lines(tmp_path / str(micro))]
    assert losses[16] == pytest.approx(losses[None], rel=2e-5)
    assert losses[48] == pytest.approx(losses[None], rel=2e-5)
    assert losses[16] != losses[None]  # the sums really were taken in another order


def test_micro_batches_and_padding_do_not_change_the_gradient_in_float64(tmp_path):
    """Four rows at once, one by one, and with a padded row: the same gradient, and the same as plain autograd."""
    loader = TinyLoader(16)
    whole = loader.rows(0, 4)
    padded = loader.rows(0, 4)
    pad = loader.rows(90, 1)
    pad.labels_BT.fill_(IGNORE)
    reference = make_model(dtype=torch.float64)
    logits = reference(whole.input_ids_BT, whole.positions_BT, whole.doc_lens)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), whole.labels_BT.flatten(), ignore_index=IGNORE).backward()
    expected = {name: p.grad for name, p in reference.named_parameters()}
    for case, batches in {
        "one": [whole],
        "four": [loader.rows(i, 1) for i in range(4)],
        "padded": [padded, pad],
    }.items():
        trainer = make_trainer(tmp_path / case, recipe_of(), model=make_model(dtype=torch.float64))
        source = type("Fixed", (), {"micro_batches": lambda self, step, model, b=batches: b})()
        trainer._forward_backward(trainer._prepare(Stage("s", source, 1, FLAT), 0))
        for name, grad in trainer.optimizer.grads.items():
            assert grad.dtype == torch.float64
            scale = float(expected[name].abs().max())
            assert float((grad - expected[name]).abs().max()) <= 1e-12 * max(scale, 1e-3), name


def test_stages_switch_rope_length_schedule_and_carry_the_optimizer(tmp_path):
    seen = []

    class Watch(Callback):
        def on_stage_start(self, trainer, stage):
            seen.append((stage.name, trainer.step, trainer.model.rope_theta, float(trainer.optimizer.steps_done)))

    trainer = make_trainer(tmp_path, recipe_of(), callbacks=[Watch()])
    result = trainer.fit()
    assert seen == [("general", 0, CONFIG.rope_theta, 0.0), ("long", 6, 50_000.0, 6.0)]
    got = train_lines(tmp_path)
    assert [line["stage"] for line in got] == ["general"] * 6 + ["long"] * 6
    assert [line["tokens"] for line in got] == [32, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704]
    assert result.tokens == 704 and got[0]["lr"] == got[6]["lr"] == 5e-3
    assert trainer.model.config.rope_theta == 50_000.0
    assert float(trainer.optimizer.steps_done) == 12
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_evaluation_at_stage_ends_and_within(tmp_path):
    trainer = make_trainer(tmp_path, recipe_of(eval_every_steps=4))
    result = trainer.fit()
    got = [(line["step"], line["stage"], line["at"]) for line in lines(tmp_path / "metrics.jsonl") if "eval" in line]
    assert got == [
        (0, "general", "start"),
        (4, "general", "within"),
        (6, "general", "end"),
        (6, "long", "start"),
        (10, "long", "within"),
        (12, "long", "end"),
    ]
    batch = TinyLoader(16, seed=77).rows(0, 4)
    with torch.no_grad():
        logits = trainer.model(batch.input_ids_BT, batch.positions_BT, batch.doc_lens)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels_BT.flatten(), ignore_index=IGNORE)
    assert result.last_eval["held_out"] == pytest.approx(float(expected), rel=1e-5)


def test_equal_evaluation_is_not_taken_twice(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(engine_module, "evaluate", lambda *a: taken.append(1) or evaluate(*a))
    source = PackedSource(TinyLoader(16), BatchPlan(16, 32))
    evals = {"held_out": [TinyLoader(16, seed=77).rows(0, 1)]}
    stages = [Stage(name, source, 2, FLAT, evals=evals) for name in ("a", "b")]
    make_trainer(tmp_path, recipe_of(), stages=stages).fit()
    assert len(taken) == 3
    assert [line["at"] for line in lines(tmp_path / "metrics.jsonl") if "eval" in line] == ["start", "end"] * 2


def test_evaluation_without_targets_is_nan_and_restores_the_mode():
    model = make_model().train()
    assert math.isnan(evaluate(model, CausalLM(), [])) and model.training


def test_callbacks_see_gradients_weights_and_add_metrics(tmp_path):
    rows = []

    class Ratios(Callback):
        def on_gradients(self, step, model, optimizer):
            self.before = {name: w.clone() for name, w in optimizer.masters.items()}
            self.norm = math.sqrt(sum(float(g.double().square().sum()) for g in optimizer.grads.values()))

        def on_step(self, info):
            moved = {n: float((w - self.before[n]).norm() / w.norm()) for n, w in info.optimizer.masters.items()}
            rows.append((info.step, info.stage_step, self.norm, info.grad_norm, min(moved.values())))
            info.metrics["smallest_ratio"] = min(moved.values())

    make_trainer(tmp_path, recipe_of(), callbacks=[Ratios()]).fit()
    assert [row[:2] for row in rows] == [(i + 1, i % 6) for i in range(12)]
    assert all(norm == pytest.approx(reported, rel=1e-5) for _, _, norm, reported, _ in rows)
    assert [line["smallest_ratio"] for line in train_lines(tmp_path)] == [row[4] for row in rows]
    assert all(row[4] > 0 for row in rows)


class BadAt:
    """CausalLM whose loss is NaN in some updates (counted from 1)."""

    name = "bad"

    def __init__(self, *steps):
        self.steps, self.calls = steps, 0

    def weight(self, batch):
        return CausalLM().weight(batch)

    def __call__(self, model, batch):
        self.calls += 1
        loss = CausalLM()(model, batch)
        return Loss(loss.loss_sum * math.nan, loss.weight) if self.calls in self.steps else loss


@pytest.mark.parametrize("log_every", [1, 5])
def test_bad_gradients_skip_the_update_and_are_recorded(tmp_path, log_every):
    trainer = make_trainer(tmp_path, recipe_of(log_every_steps=log_every), objective=BadAt(4, 5))
    trainer.fit()
    assert all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())
    assert float(trainer.optimizer.steps_done) == 10
    got = events(tmp_path, "non_finite_gradient")
    if log_every == 1:
        assert [event["step"] for event in got] == [4, 5]
        bad = [line for line in train_lines(tmp_path) if line.get("skipped")]
        assert [(line["step"], line["loss"]) for line in bad] == [(4, None), (5, None)]
    else:
        assert [(event["step"], event["updates"]) for event in got] == [(5, 2)]
        assert [line["step"] for line in train_lines(tmp_path)] == [5, 6, 10, 12]


def test_run_that_only_skips_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "MAX_SKIPPED_IN_A_ROW", 4)
    with pytest.raises(AthanorError, match=r"4 updates in a row \(up to step 6\)"):
        make_trainer(tmp_path, recipe_of(), objective=BadAt(*range(3, 13))).fit()


def test_step_without_targets_changes_nothing_and_is_recorded(tmp_path):
    loader = TinyLoader(16)

    class Sometimes:
        def micro_batches(self, step, model):
            batch = loader.rows(step, 1)
            if step == 1:
                batch.labels_BT.fill_(IGNORE)
            return [batch]

    trainer = make_trainer(tmp_path, recipe_of(), stages=[Stage("s", Sometimes(), 3, FLAT)])
    trainer.fit()
    assert [event["step"] for event in events(tmp_path, "no_targets")] == [2]
    assert float(trainer.optimizer.steps_done) == 2 and not events(tmp_path, "non_finite_gradient")


def test_sources_that_follow_the_model_are_asked_in_step(tmp_path):
    """Without ``prefetch`` a step's batches are made after the step before has updated the model."""
    asked = []

    class Follows:
        def micro_batches(self, step, model):
            asked.append((step, float(model.embed_tokens.weight.detach().float().sum())))
            return [TinyLoader(16).rows(step, 1)]

    make_trainer(tmp_path, recipe_of(), stages=[Stage("s", Follows(), 4, FLAT)]).fit()
    assert [step for step, _ in asked] == [0, 1, 2, 3] and len({total for _, total in asked}) == 4


def test_loss_falls_and_bf16_follows_fp32(tmp_path):
    stages = [Stage("s", PackedSource(TinyLoader(32), BatchPlan(32, 256)), 60, FLAT)]
    ends = {}
    for precision in ("fp32", "bf16"):
        make_trainer(tmp_path / precision, recipe_of(precision=precision), stages=stages).fit()
        got = [line["loss"] for line in train_lines(tmp_path / precision)]
        assert got[0] == pytest.approx(math.log(61), rel=0.1)
        ends[precision] = sum(got[-5:]) / 5
    assert ends["fp32"] < 1.0 and ends["bf16"] == pytest.approx(ends["fp32"], abs=0.1)


def test_tensorboard_and_metric_fields(tmp_path):
    make_trainer(tmp_path, recipe_of(tensorboard=True), callbacks=[Noise()]).fit()
    assert list((tmp_path / "tensorboard").glob("events.out.*"))
    line = train_lines(tmp_path)[-1]
    for key in ("tokens_per_s", "mfu", "step_s", "data_s", "peak_bytes", "targets", "time"):
        assert line[key] >= 0, key
    (start,) = events(tmp_path, "start")
    assert start["precision"] == "float32" and start["peak_flops"] > 0 and "causal" in start["mfu_convention"]


def test_warmup_longer_than_a_stage_is_recorded(tmp_path):
    schedule = ScheduleRecipe(lr=1e-3, warmup_steps=9)
    stage = Stage("s", PackedSource(TinyLoader(16), BatchPlan(16, 16)), 2, schedule)
    make_trainer(tmp_path, recipe_of(), stages=[stage]).fit()
    assert events(tmp_path, "warmup_never_ends")[0]["stage"] == "s"


def test_no_stage_is_refused(tmp_path):
    with pytest.raises(AthanorError, match="no stage"):
        trainer_module.Trainer(make_model(), CausalLM(), [], recipe_of(), None)


def test_quiet_run_without_checkpoints(tmp_path, capsys):
    make_trainer(tmp_path, recipe_of(), quiet=True, resumable=False).fit()
    assert capsys.readouterr().err == "" and not (tmp_path / "checkpoints").exists()
    assert len(train_lines(tmp_path)) == 12
