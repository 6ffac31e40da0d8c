"""Evaluation: a model that answers, one that does not, and the loss against plain logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.align.sources import Question
from athanor.align.verifiers import arithmetic
from athanor.data.arithmetic import questions
from athanor.data.build import is_held_out
from athanor.errors import AthanorError
from athanor.evaluate import run as evaluation
from athanor.evaluate import tasks
from athanor.evaluate.tasks import QuestionTask, TaskResult
from athanor.inference.engine import Generation
from athanor.inference.sampling import Sampling
from athanor.inference.session import Speaker
from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.hf import save_model_dir
from athanor.model.init import init_weights
from athanor.recipe.schema import Recipe
from athanor.tokenizer.tokenizer import Tokenizer
from athanor.tokenizer.train import train_tokenizer


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    tokenizer = train_tokenizer([p.question + p.worked() for p in questions(80, 0, "train")], 400)
    config = ModelConfig(
        vocab_size=400,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=192,
    )
    model = Decoder(config)
    init_weights(model, 0)
    return Speaker(model.eval(), tokenizer)


@pytest.fixture(scope="module")
def model_dir(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eval") / "model"
    save_model_dir(speaker.model, path)
    speaker.tokenizer.save(path)
    return path


def recipe(**fields: Any) -> Recipe:
    return Recipe.model_validate({"eval": {"questions": 12, "max_new_tokens": 8, **fields}})


def test_eval_json_holds_what_is_returned(model_dir: Path, tmp_path: Path) -> None:
    report = evaluation.run_eval(recipe(), model_dir, tmp_path / "out", device="cpu")
    assert json.loads((tmp_path / "out" / "eval.json").read_text()) == report
    result = report["tasks"]["arithmetic"]
    assert result["metrics"]["accuracy"] == 0.0
    assert result["metrics"]["questions"] == 12
    assert {"accuracy.en", "accuracy.zh", "finished", "answer_tokens"} <= result["metrics"].keys()
    assert len(result["samples"]) == 12
    again = evaluation.run_eval(recipe(), model_dir, tmp_path / "again", device="cpu")
    assert again["tasks"]["arithmetic"]["samples"] == result["samples"]


def test_questions_are_of_the_test_split() -> None:
    asked = list(evaluation.ARITHMETIC.questions(recipe(questions=50)))
    assert {q.id for q in asked} == {p.key for p in questions(50, 0, "test")}
    assert sum(q.language == "zh" for q in asked) == 25


def test_accuracy_counts_by_language_and_kind(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers put into the model's mouth: right in English, and for every second sample."""
    asked = [
        Question(f"{language}{i}", ({"role": "user", "content": f"{language}{i}?"},), str(i), language, f"k{i % 2}")
        for language in ("en", "zh")
        for i in range(4)
    ]
    right = {q.messages[0]["content"]: q.answer for q in asked if q.language == "en"}

    def spoken(model: Any, prompts: list[list[int]], sampling: Sampling, *_: Any, **__: Any) -> list[Generation]:
        out = []
        for i, prompt in enumerate(prompts):
            content = speaker.tokenizer.decode(prompt)
            said = right.get(content, "999") if sampling.greedy or i % 2 else "998"
            out.append(Generation(speaker.tokenizer.encode(f"The answer is {said}."), [], True))
        return out

    monkeypatch.setattr(tasks, "generate", spoken)
    task = QuestionTask("toy", lambda recipe: asked, arithmetic)
    metrics = task.run(speaker, recipe(samples=2)).metrics
    assert metrics["accuracy"] == 0.5
    assert (metrics["accuracy.en"], metrics["accuracy.zh"]) == (1.0, 0.0)
    assert (metrics["accuracy.k0"], metrics["accuracy.k1"]) == (0.5, 0.5)
    assert metrics["finished"] == 1.0
    assert metrics["sampled_accuracy"] == 0.25
    assert metrics["any_of_2"] == 0.5


def test_a_new_task_plugs_in(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Parameters:
        name = "parameters"

        def run(self, speaker: Speaker, recipe: Recipe) -> TaskResult:
            return TaskResult({"count": float(sum(p.numel() for p in speaker.model.parameters()))})

    monkeypatch.setitem(evaluation.TASKS, "parameters", Parameters())
    report = evaluation.run_eval(recipe(tasks=["parameters"]), model_dir, tmp_path, device="cpu")
    assert report["tasks"]["parameters"]["metrics"]["count"] > 1000
    with pytest.raises(AthanorError, match="arithmetic, loss"):
        evaluation.run_eval(recipe(tasks=["mmlu"]), model_dir, tmp_path)


def _documents(tmp_path: Path) -> dict[str, Any]:
    for source in ("prose", "code"):
        folder = tmp_path / source
        folder.mkdir()
        for i in range(12):
            (folder / f"{i}.txt").write_text(f"{source} number {i}: " + "the apples and the boxes " * (i % 3 + 1))
    (tmp_path / "code" / "copy.txt").write_text((tmp_path / "prose" / "0.txt").read_text())
    return {
        "prose": {"paths": [str(tmp_path / "prose")], "domain": "prose", "holdout": 0.5},
        "code": {"paths": [str(tmp_path / "code")], "domain": "code", "holdout": 0.5},
    }


def test_loss_equals_plain_logits_on_held_out_documents(speaker: Speaker, tmp_path: Path) -> None:
    sources = _documents(tmp_path)
    chosen = Recipe.model_validate({"data": {"sources": sources}, "train": {"seq_len": 128}})
    metrics = evaluation.TASKS["loss"].run(speaker, chosen).metrics
    tokenizer: Tokenizer = speaker.tokenizer
    for name in sources:
        total, count = 0.0, 0
        files = [f for f in sorted((tmp_path / name).iterdir()) if f.name != "copy.txt"]
        held_out = [f for f in files if is_held_out(f"{name}/{f.name}", 0.5)]
        assert 0 < len(held_out) < len(files)
        for file in held_out:
            ids = torch.tensor([[*tokenizer.encode(file.read_text()), tokenizer.eos_id]])
            with torch.no_grad():
                logp = speaker.model(ids[:, :-1])[0].log_softmax(-1).gather(-1, ids[0, 1:, None])
            total, count = total - float(logp.sum()), count + len(logp)
        assert metrics[f"loss.{name}"] == pytest.approx(total / count, abs=1e-5)
        assert metrics[f"loss.domain.{name}"] == metrics[f"loss.{name}"]
    assert metrics["loss"] == pytest.approx((metrics["loss.prose"] + metrics["loss.code"]) / 2)


def test_loss_without_held_out_documents_is_named(speaker: Speaker, tmp_path: Path) -> None:
    sources = _documents(tmp_path)
    for holdout, says in ((0.0, "no source keeps documents"), (1e-12, "no document is held out")):
        for source in sources.values():
            source["holdout"] = holdout
        with pytest.raises(AthanorError, match=says):
            evaluation.TASKS["loss"].run(speaker, Recipe.model_validate({"data": {"sources": sources}}))
