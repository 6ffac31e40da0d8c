"""A whole pre-training with every key of mixing: presets, weights, curriculum, re-weighting, and a stop on the way."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from athanor.data.mixtures import read_mixture
from athanor.recipe.schema import Recipe
from athanor.report.html import write_report
from athanor.train import trainer as trainer_module
from athanor.train.stage import run_pretrain
from athanor.train.stop import Stopped
from tests.train.tiny import lines, untimed

VOCAB = 290


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for language, text in (
        ("en", "item {} of the list costs {} coins and nobody paid"),
        ("zh", "第{}项的价格是{}元，没有人付钱"),
    ):
        with open(folder / f"{language}.jsonl", "w", encoding="utf-8") as out:
            for i in range(60):
                body = "\n".join(text.format(i + j, 7 * i + j) for j in range(6))
                out.write(json.dumps({"text": body}, ensure_ascii=False) + "\n")
    return folder


def recipe(folder: Path, **stage_two: object) -> Recipe:
    return Recipe.model_validate(
        {
            "seed": 1,
            "model": {
                "vocab_size": VOCAB,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "norm_placement": "depth_scaled_sandwich",
                "max_position_embeddings": 128,
            },
            "tokenizer": {"vocab_size": VOCAB},
            "data": {
                "sources": {
                    "en": {"paths": [str(folder / "en.jsonl")], "language": "en", "holdout": 0.2},
                    "zh": {"paths": [str(folder / "zh.jsonl")], "language": "zh", "holdout": 0.2},
                    "sums": {"kind": "arithmetic", "documents": 60, "domain": "mathematics", "holdout": 0.2},
                }
            },
            "train": {
                "seq_len": 32,
                "global_batch_tokens": 256,
                "eval_tokens": 64,
                "precision": "fp32",
                "tensorboard": False,
                "checkpoint_every_steps": 4,
                "schedule": {"lr": 0.01},
                "stages": [
                    {"name": "general", "mixture": {"preset": "pangu-ultra/reasoning"}, "steps": 5},
                    {
                        "name": "mixed",
                        "mixture": {"domains": {"general": 3, "mathematics": 1}},
                        "weighting": "document",
                        "steps": 12,
                        "reweight": {"method": "bandit", "every_steps": 3},
                        **stage_two,
                    },
                ],
            },
        }
    )


def events(out: Path, kind: str) -> list[dict]:
    return [event for event in lines(out / "events.jsonl") if event["kind"] == kind]


def test_a_life_with_all_of_it(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_pretrain(recipe(corpus), tmp_path / "one")
    notes = [event["note"] for event in events(tmp_path / "one", "data_note")]
    assert any("code (37 %)" in note and "others in proportion" in note for note in notes)
    assert any("no weight" in note for note in notes)
    first = events(tmp_path / "one", "stage_data")[0]["sources"]
    shares = {name: entry["token_share"] for name, entry in first.items()}
    # of English 14, Chinese 6, mathematics 28; arithmetic in both languages is mathematics
    assert shares == pytest.approx({"en": 14 / 48, "zh": 6 / 48, "sums": 28 / 48})
    switches = events(tmp_path / "one", "mixture")
    assert [event["step"] for event in switches] == [8, 11, 14] and switches[0]["stage"] == "mixed"
    assert set(switches[0]["losses"]) == {"en", "zh", "sums"}
    seen = events(tmp_path / "one", "data_seen")[-1]
    assert seen["step"] == 17 and set(seen["tokens"]) == {"en", "zh", "sums"}
    assert sum(seen["tokens"].values()) == sum(seen["domains"].values()) > 0.9 * 17 * 256
    assert "Mixture that followed the losses" in write_report(tmp_path / "one").read_text(encoding="utf-8")

    # stopped between two decisions, it goes on to the same end
    real = trainer_module.Trainer._train_step

    def stop(trainer, stage, stage_step):
        real(trainer, stage, stage_step)
        if trainer.step == 12:
            trainer.signals.received = signal.SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "_train_step", stop)
        with pytest.raises(Stopped):
            run_pretrain(recipe(corpus), tmp_path / "two")
    run_pretrain(recipe(corpus), tmp_path / "two")
    assert untimed(tmp_path / "two" / "metrics.jsonl") == untimed(tmp_path / "one" / "metrics.jsonl")
    assert {(e["step"], json.dumps(e["shares"])) for e in events(tmp_path / "two", "mixture")} == {
        (e["step"], json.dumps(e["shares"])) for e in switches
    }

    # and its mixture is the next run's
    exported = tmp_path / "one" / "mixture-mixed.yaml"
    shares = read_mixture(exported)
    run_pretrain(recipe(corpus, mixture={"file": str(exported)}, reweight=None, steps=2), tmp_path / "next")
    second = events(tmp_path / "next", "stage_data")[1]["sources"]
    assert {name: entry["token_share"] for name, entry in second.items()} == pytest.approx(shares, abs=1e-5)
