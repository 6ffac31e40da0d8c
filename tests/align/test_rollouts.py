"""Rollouts: a function of seed, step and weights; and reinforcement learning that learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from athanor.align.grpo import GRPO
from athanor.align.rollouts import RolloutSource
from athanor.align.sources import Question, load_questions
from athanor.align.verifiers import VERIFIERS, Verifier
from athanor.data.types import IGNORE, Batch
from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.recipe.schema import RLRecipe, SourceRecipe, TrainRecipe
from athanor.tokenizer.tokenizer import Tokenizer
from athanor.tokenizer.train import train_tokenizer
from athanor.train.checkpoint import read_checkpoint, write_checkpoint


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat"] * 3, 270)


def decoder(seed: int = 0) -> Decoder:
    config = ModelConfig(
        vocab_size=270,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model = Decoder(config)
    init_weights(model, seed)
    return model


def letters(text: str, expected: str) -> float:
    """Share of the answer that is lower-case ASCII letters."""
    return sum("a" <= c <= "z" for c in text) / max(len(text), 4)


QUESTIONS = [Question(str(i), ({"role": "user", "content": f"q{i}"},), "7") for i in range(6)]


def recipe(**changes: object) -> RLRecipe:
    fields: dict[str, object] = {
        "prompts_per_step": 4,
        "group_size": 8,
        "max_new_tokens": 4,
        "train": TrainRecipe(seq_len=64),
    }
    return RLRecipe(**(fields | changes))  # type: ignore[arg-type]


def source(tokenizer: Tokenizer, verify: Verifier = letters, seed: int = 0, **changes: object) -> RolloutSource:
    return RolloutSource(QUESTIONS, tokenizer, verify, recipe(**changes), seed)


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.input_ids_BT, y.input_ids_BT)
        and torch.equal(x.labels_BT, y.labels_BT)
        and all(torch.equal(x.extras[k], y.extras[k]) for k in x.extras)
        for x, y in zip(a, b, strict=True)
    )


def test_same_seed_step_and_weights_give_the_same_batch(tokenizer: Tokenizer) -> None:
    model = decoder()
    batches = source(tokenizer).micro_batches(3, model)
    assert same(batches, source(tokenizer).micro_batches(3, decoder())), "a fresh source continues in the same place"
    assert not same(batches, source(tokenizer).micro_batches(4, model))
    assert not same(batches, source(tokenizer, seed=1).micro_batches(3, model))
    assert not same(batches, source(tokenizer).micro_batches(3, decoder(1)))


def test_batches_hold_the_recorded_answers(tokenizer: Tokenizer) -> None:
    model, src = decoder(), source(tokenizer)
    rollouts = src.rollout(0, model)
    (batch,) = src.micro_batches(0, model)
    assert batch.n_targets == sum(len(e.answer) for e in rollouts.episodes())
    logp_BT, _ = model.token_logprobs(batch.input_ids_BT, batch.labels_BT, batch.positions_BT, batch.doc_lens)
    torch.testing.assert_close(logp_BT.detach(), batch.extras["old_logprob_BT"], atol=1e-4, rtol=1e-4)
    mask = batch.labels_BT != IGNORE
    assert (batch.extras["advantage_BT"][~mask] == 0).all()
    for group in rollouts.generations:
        for g in group:
            assert len(g.ids) == 4 or g.ids[-1] in src.stop_ids


def test_every_question_once_an_epoch(tokenizer: Tokenizer) -> None:
    src = source(tokenizer)
    asked = [i for step in range(3) for i in src.picks(step)]
    assert sorted(asked[:6]) == sorted(asked[6:]) == list(range(6))
    assert asked[:6] != asked[6:]
    twice = source(tokenizer, updates_per_batch=2)
    assert twice.picks(0) == src.picks(0)
    assert twice.picks(2) == src.picks(1)


def test_groups_without_difference_are_dropped_and_counted(tokenizer: Tokenizer) -> None:
    def first_two(text: str, expected: str) -> float:
        return letters(text, expected) if expected == "yes" else 1.0

    questions = [Question(str(i), q.messages, "yes" if i < 2 else "no") for i, q in enumerate(QUESTIONS)]
    src = RolloutSource(questions, tokenizer, first_two, recipe(prompts_per_step=6), 0)
    rollouts = src.rollout(0, decoder())
    assert len(rollouts.kept()) == 2
    assert rollouts.metrics["dropped_groups"] == (4.0, 6)
    assert rollouts.metrics["solved_groups"] == (4.0, 6)
    assert rollouts.metrics["accuracy"][1] == 48
    assert len(rollouts.episodes()) == 16


def test_a_step_without_any_difference_changes_nothing(tokenizer: Tokenizer) -> None:
    model = decoder()
    (batch,) = source(tokenizer, verify=lambda text, expected: 0.0).micro_batches(0, model)
    loss = GRPO()(model, batch)
    loss.loss_sum.backward()
    assert loss.weight > 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert loss.metrics["dropped_groups"] == (4.0, 4)


def test_a_batch_used_twice_survives_a_restart(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model, src = decoder(), source(tokenizer, updates_per_batch=2)
    first = src.micro_batches(0, model)
    assert "metrics" in first[0].meta
    again = src.micro_batches(1, decoder(5))
    assert same(first, again)
    assert "metrics" not in again[0].meta, "rewards are counted once"
    write_checkpoint(tmp_path, 1, {"source": src.state_dict()})
    restarted = source(tokenizer, updates_per_batch=2)
    with pytest.raises(AthanorError, match="rollouts of step 0 are gone"):
        restarted.micro_batches(1, model)
    restarted.load_state_dict(read_checkpoint(tmp_path)["source"])
    assert same(first, restarted.micro_batches(1, decoder(5)))
    assert source(tokenizer).state_dict() == {}


def test_other_questions_are_another_position(tokenizer: Tokenizer) -> None:
    src = source(tokenizer)
    assert src.position(3) == source(tokenizer).position(3) != src.position(2)
    other = RolloutSource(QUESTIONS[1:], tokenizer, letters, recipe(), 0)
    assert other.position(3)["data"] != src.position(3)["data"]


def test_a_row_too_short_for_the_longest_answer_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(AthanorError, match="more than a row of 6"):
        source(tokenizer, train=TrainRecipe(seq_len=6))
    with pytest.raises(AthanorError, match="more than the context"):
        long = [Question("x", ({"role": "user", "content": "q" * 70},), "7")]
        src = RolloutSource(long, tokenizer, letters, recipe(train=TrainRecipe(seq_len=128)), 0)
        src.micro_batches(0, decoder())
    with pytest.raises(AthanorError, match="kl_coef needs a reference model"):
        source(tokenizer, kl_coef=0.1)


@pytest.mark.parametrize("updates", [1, 2])
def test_reward_rises(tokenizer: Tokenizer, updates: int) -> None:
    """One layer learns to write letters: random at first, nearly always after 24 updates."""
    model = decoder()
    src = source(tokenizer, updates_per_batch=updates, prompts_per_step=6)
    objective = GRPO(on_policy=updates == 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    rewards = []
    for step in range(24):
        batches = src.micro_batches(step, model)
        weight = sum(objective.weight(b) for b in batches)
        for batch in batches:
            loss = objective(model, batch)
            (loss.loss_sum / weight).backward()
            if "reward" in loss.metrics:
                total, n = loss.metrics["reward"]
                rewards.append(total / n)
        optimizer.step()
        optimizer.zero_grad()
    assert len(rewards) == 24 // updates
    assert rewards[0] < 0.3
    assert rewards[-1] > 0.8


def test_questions_from_the_generator_and_from_files(tmp_path: Path) -> None:
    made = load_questions({"math": SourceRecipe(kind="arithmetic", documents=10)}, 0, "rl", "rl.sources")
    assert {q.language for q in made} == {"en", "zh"}
    assert all(VERIFIERS["arithmetic"](f"Answer: {q.answer}", q.answer) == 1.0 for q in made)
    file = tmp_path / "q.jsonl"
    file.write_text(
        '{"question": "1+1?", "answer": 2}\n\n{"messages": [{"role": "user", "content": "二？"}], "answer": "2"}\n'
    )
    read = load_questions({"own": SourceRecipe(paths=[str(file)], language="zh")}, 0, "rl", "rl.sources")
    assert [(q.messages[0]["content"], q.answer, q.language) for q in read] == [
        ("1+1?", "2", "zh"),
        ("二？", "2", "zh"),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{oops", "not a JSON line"),
        ("[1]", "list instead of an object"),
        ('{"answer": "1"}', "row without a question"),
        ('{"question": "1?"}', "row without an answer"),
        ('{"messages": [{"role": "robot", "content": ""}], "answer": "1"}', "robot"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "1?", "answer": "1"}\n' + line + "\n")
    with pytest.raises(AthanorError, match=says) as caught:
        load_questions({"own": SourceRecipe(paths=[str(file)])}, 0, "rl", "rl.sources")
    assert str(caught.value.where).endswith("q.jsonl:2")


def test_sources_without_content_are_named(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("\n")
    for sources in (
        {},
        {"own": SourceRecipe(paths=[str(tmp_path / "q.jsonl")])},
        {"math": SourceRecipe(kind="arithmetic")},
    ):
        with pytest.raises(AthanorError, match="rl.sources"):
            load_questions(sources, 0, "rl", "rl.sources")
