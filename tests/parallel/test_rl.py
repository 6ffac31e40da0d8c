"""RL over ranks: the rollouts of one process token for token, its rewards, losses and parameters to rounding."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.align.grpo import GRPO, run_rl
from athanor.align.packing import Episode, cut_rows, pack_episodes
from athanor.align.rollouts import ONE_PROCESS, Rollouts, RolloutSource
from athanor.align.sources import Question
from athanor.align.verifiers import VERIFIERS
from athanor.data.types import IGNORE
from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.model.hf import load_model_dir, save_model_dir
from athanor.model.init import init_weights
from athanor.parallel.checks import fill_rows
from athanor.parallel.engine import parallel_engine
from athanor.parallel.plan import ParallelPlan
from athanor.recipe.schema import Recipe, RLRecipe, ScheduleRecipe, TrainRecipe
from athanor.tokenizer.train import train_tokenizer
from athanor.train.engine import LocalEngine
from athanor.train.run_dir import RunDir
from athanor.train.stages import Stage
from athanor.train.stop import Stopped
from athanor.train.trainer import Trainer
from tests.parallel.ranks import run_ranks
from tests.train.tiny import lines

MOE = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, num_shared_experts=1)
QUESTIONS = [Question(str(i), ({"role": "user", "content": "q" * (1 + i % 3)},), "7") for i in range(6)]
#: what a metrics line must say alike
KEYS = {"loss", "grad_norm", "reward", "entropy", "targets", "answer_tokens", "finished", "clip_share", "kl"}


def letters(text: str, expected: str) -> float:
    """Share of the answer that is lower-case ASCII letters: a new model earns some by chance."""
    return sum("a" <= c <= "z" for c in text) / max(len(text), 4)


class Recorded(RolloutSource):
    """Keeps what was said."""

    def rollout(self, step: int, model: Decoder) -> Rollouts:
        self.said = getattr(self, "said", [])
        rollouts = super().rollout(step, model)
        self.said.append([[g.ids for g in answers] for answers in rollouts.generations])
        return rollouts


def decoder(moe: bool, seed: int = 0) -> Decoder:
    config = ModelConfig(
        vocab_size=270,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        norm_placement="depth_scaled_sandwich",
        init="normal",
        initializer_range=0.1,
        max_position_embeddings=64,
        moe=MOE if moe else None,
    )
    model = Decoder(config)
    init_weights(model, seed)
    return model.double()


def train(plan: ParallelPlan | None, moe: bool, changes: dict[str, Any], folder: str) -> tuple[Any, Any, Any]:
    """(everything that was said, metrics lines, final parameters) of three steps; the last two on the main rank."""
    schedule = ScheduleRecipe(kind="constant", lr=5e-3)
    loop = TrainRecipe(seq_len=32, micro_batch_tokens=64, precision="fp32", tensorboard=False, schedule=schedule)
    recipe = RLRecipe(**{"prompts_per_step": 3, "group_size": 4, "max_new_tokens": 5, "train": loop, **changes})
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 3, 270)
    source = Recorded(
        QUESTIONS,
        tokenizer,
        letters,
        recipe,
        0,
        batch_size=5,
        plan=plan or ONE_PROCESS,
        reference=lambda: decoder(moe, 1).requires_grad_(False),
    )
    objective = GRPO(on_policy=recipe.updates_per_batch == 1, kl_coef=recipe.kl_coef)
    engine = LocalEngine if plan is None else parallel_engine(plan)
    trainer = Trainer(
        decoder(moe),
        objective,
        [Stage("rl", source, 3, schedule)],
        loop,
        RunDir(folder),
        quiet=True,
        resumable=False,
        engine=engine,
    )
    trainer.fit()
    whole = trainer.model if plan is None else trainer.engine.whole_model()
    if whole is None:
        return source.said, [], {}
    written = [line for line in lines(Path(folder) / "metrics.jsonl") if "loss" in line]
    return source.said, written, {n: p.detach() for n, p in whole.named_parameters()}


@cache
def alone(moe: bool, changes: tuple[tuple[str, Any], ...]) -> tuple[Any, Any, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return train(None, moe, dict(changes), folder)


def compare(keys: dict[str, Any], moe: bool, changes: dict[str, Any], tolerance: float) -> None:
    plan = ParallelPlan(**keys)
    said, written, params = alone(moe, tuple(changes.items()))
    lengths = {len(ids) for step in said for group in step for ids in group}
    assert len(lengths) > 1 or changes, "answers of three batches should differ in length"
    assert any(line["reward"] > 0 and line["grad_norm"] > 0 for line in written if "reward" in line)
    with tempfile.TemporaryDirectory() as folder:
        found = run_ranks(plan.world_size, train, plan, moe, changes, folder)
    assert all(theirs == said for theirs, _, _ in found), "other tokens than one process samples"
    assert len(found[0][1]) == len(written) == 3
    for ours, theirs in zip(found[0][1], written, strict=True):
        assert ours.keys() == theirs.keys()
        for key in KEYS & theirs.keys():
            assert ours[key] == pytest.approx(theirs[key], rel=tolerance, abs=tolerance), key
    for name, value in params.items():
        torch.testing.assert_close(
            found[0][2][name], value, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    ("keys", "moe"),
    [
        ({"dp_shard": 2}, False),
        ({"dp_shard": 2, "zero": 0}, False),
        ({"dp_shard": 2, "ep": 2}, True),
        ({"tp": 2}, False),
        ({"pp": 2}, True),
        ({"cp": 2}, False),
        ({"dp_shard": 2, "tp": 2}, True),
        ({"dp_shard": 2, "pp": 2}, False),
    ],
    ids=str,
)
def test_equals_one_process(keys: dict[str, Any], moe: bool) -> None:
    """On policy, float64 to 1e-9: layouts change the order of sums only."""
    compare(keys, moe, {}, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "moe"),
    [
        ({"dp_shard": 2, "tp": 2, "pp": 2}, False),
        ({"dp_replicate": 2, "dp_shard": 2, "zero": 2}, True),
        ({"tp": 2, "pp": 2}, True),
        ({"cp": 2, "dp_shard": 2, "ep": 2}, True),
        ({"dp_shard": 2, "offload": "all"}, False),
        ({"tp": 2, "copies": 2}, False),
    ],
    ids=str,
)
def test_more_layouts(keys: dict[str, Any], moe: bool) -> None:
    compare(keys, moe, {}, 1e-9)


@pytest.mark.parametrize("keys", [{"dp_shard": 2}, {"tp": 2, "pp": 2}], ids=str)
def test_off_policy_with_a_reference(keys: dict[str, Any]) -> None:
    """Log-probabilities recorded while sampling are float32, so the last of their bits may differ."""
    compare(keys, False, {"updates_per_batch": 2, "kl_coef": 0.1}, 2e-6)


def test_a_forgotten_rank_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the test: data ranks that keep their own answers."""
    with pytest.raises((AssertionError, RuntimeError)):
        with tempfile.TemporaryDirectory() as folder:
            found = run_ranks(2, selfish, folder)
        assert all(said == alone(False, ())[0] for said, _, _ in found)


def selfish(folder: str) -> tuple[Any, Any, Any]:
    from athanor.parallel import inference

    class Selfish(inference.Share):
        def gather(self, done: dict[int, Any]) -> dict[int, Any]:
            first = next(iter(done.values()))
            return {i: done.get(i, first) for i in range(12)}

    inference.Share = Selfish  # type: ignore[misc]  # this process ends with the test
    return train(ParallelPlan(dp_shard=2), False, {}, folder)


@pytest.mark.parametrize(
    ("keys", "n_rows", "most", "want"),
    [
        ({"dp_shard": 2}, 5, None, (2, 3)),
        ({"dp_shard": 2}, 5, 2, (4, 2)),
        ({"dp_shard": 4}, 1, None, (4, 1)),
        ({"pp": 2}, 5, None, (2, 3)),
        ({"pp": 4, "dp_shard": 2}, 3, 8, (8, 1)),
        ({"pp": 2, "vpp": 2, "schedule": "interleaved_1f1b"}, 5, 2, (4, 2)),
        ({"pp": 2, "vpp": 2, "schedule": "dualpipev"}, 2, None, (4, 1)),
        ({"tp": 2, "copies": 2}, 5, 1, (3, 2)),
    ],
)
def test_rows_that_fill_a_layout(keys: dict[str, Any], n_rows: int, most: int | None, want: tuple[int, int]) -> None:
    plan = ParallelPlan(**keys)
    count, rows = fill_rows(plan, n_rows, most)
    assert (count, rows) == want
    assert count % plan.dp == 0
    assert count * rows >= n_rows


def test_cut_rows_are_the_same_rows() -> None:
    """Cut for ranks and back again: every labelled row once, in order; the rest is padding without labels."""
    episodes = [Episode([5] * (2 + i), [7 + i] * (1 + i), [-1.0] * (1 + i), 1.0 + i) for i in range(7)]
    packed = pack_episodes(episodes, 16, 32, 1)
    plan = ParallelPlan(dp_shard=5, pp=2)
    spread = cut_rows(packed, 32, 1, plan)
    assert len(spread) % (plan.dp * plan.pp) == 0
    assert len({batch.input_ids_BT.shape for batch in spread}) == 1
    back = cut_rows(spread, 32, 1, ONE_PROCESS)
    of: list[Callable[[Any], torch.Tensor]] = [
        lambda b: b.input_ids_BT,
        lambda b: b.labels_BT,
        lambda b: b.positions_BT,
        lambda b: b.extras["advantage_BT"],
        lambda b: b.extras["old_logprob_BT"],
    ]
    assert len(back) == len(packed)
    for ours, theirs in zip(back, packed, strict=True):
        assert all(torch.equal(field(ours), field(theirs)) for field in of)
        assert ours.doc_lens == theirs.doc_lens
    assert sum(b.n_targets for b in spread) == sum(len(e.answer) for e in episodes)
    padding = [b for b in spread if (b.labels_BT == IGNORE).all(1).any()]
    assert padding and all(not b.extras["advantage_BT"][(b.labels_BT == IGNORE).all(1)].any() for b in padding)


def stage(recipe: Recipe, model_dir: str, out: str, stop_at: int) -> None:
    """``run_rl`` in this process, which may be a rank; a stop signal comes after ``stop_at`` steps (0: never)."""
    VERIFIERS["arithmetic"] = letters  # this process ends with the test, or the fixture puts it back
    due = Trainer._checkpoint_if_due

    def stop_then(trainer: Trainer, *args: Any) -> None:
        if trainer.step == stop_at:
            trainer.signals.received = 15
        due(trainer, *args)

    Trainer._checkpoint_if_due = stop_then  # type: ignore[method-assign]
    try:
        run_rl(recipe, model_dir, out)
    except Stopped:
        assert stop_at
    finally:
        Trainer._checkpoint_if_due = due  # type: ignore[method-assign]


def test_the_stage_stops_in_one_layout_and_goes_on_in_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two updates on the same rollouts, which the checkpoint then holds."""
    monkeypatch.setitem(VERIFIERS, "arithmetic", letters)
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 3, 270)
    # float64 is stored, but a stage computes in float32: tokens must be the same, numbers to its rounding
    model = decoder(False).float()
    save_model_dir(model, tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(f'{{"question": "{"q" * (1 + i % 3)}", "answer": "7"}}\n' for i in range(6)))
    loop = {"seq_len": 32, "micro_batch_tokens": 64, "precision": "fp32", "tensorboard": False, "steps": 4}
    rl = {"sources": {"own": {"paths": [str(questions)]}}, "prompts_per_step": 3, "group_size": 4, "max_new_tokens": 5}
    parts = {"train": {**loop, "schedule": {"kind": "constant", "lr": 2e-3}}, "updates_per_batch": 2}

    def recipe(**layout: int) -> Recipe:
        return Recipe.model_validate({"rl": {**rl, **parts}, "parallel": layout})

    args = str(tmp_path / "model"), str(tmp_path / "run")
    stage(recipe(), args[0], str(tmp_path / "alone"), 0)
    run_ranks(2, stage, recipe(dp_shard=2), *args, 1)
    run_ranks(2, stage, recipe(pp=2), *args, 3)
    stage(recipe(), *args, 0)
    want, got = ([x for x in lines(tmp_path / name / "metrics.jsonl") if "loss" in x] for name in ("alone", "run"))
    assert len(got) == len(want) == 4
    for ours, theirs in zip(got, want, strict=True):
        for key in KEYS & theirs.keys():
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-4), key
    for name, value in load_model_dir(tmp_path / "alone" / "model").state_dict().items():
        torch.testing.assert_close(
            load_model_dir(tmp_path / "run" / "model").state_dict()[name], value, atol=2e-4, rtol=1e-3
        )
