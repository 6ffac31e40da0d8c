"""SFT and RL as stages: a model directory in, a model directory out, resumed to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.align import grpo, sft
from athanor.align.verifiers import VERIFIERS
from athanor.data.arithmetic import conversations, documents
from athanor.errors import AthanorError
from athanor.inference.session import Speaker
from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.hf import load_model_dir, save_model_dir
from athanor.model.init import init_weights
from athanor.recipe.schema import Recipe
from athanor.tokenizer.tokenizer import Tokenizer
from athanor.tokenizer.train import train_tokenizer
from athanor.train.stop import Stopped
from athanor.train.trainer import Trainer


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "model"
    tokenizer = train_tokenizer([d.text for d in documents(60, 0)], 400)
    config = ModelConfig(
        vocab_size=400,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        norm_placement="depth_scaled_sandwich",
    )
    model = Decoder(config)
    init_weights(model, 0)
    save_model_dir(model, path)
    tokenizer.save(path)
    return path


def recipe(**sections: Any) -> Recipe:
    schedule = {"kind": "constant", "lr": 0.02}
    common = {"precision": "fp32", "tensorboard": False, "schedule": schedule}
    base: dict[str, Any] = {
        "sft": {
            "sources": {"math": {"kind": "arithmetic", "documents": 60, "holdout": 0.2}},
            "train": {"seq_len": 128, "global_batch_tokens": 512, "steps": 8, "eval_tokens": 512, **common},
        },
        "rl": {
            "sources": {"math": {"kind": "arithmetic", "documents": 20}},
            "prompts_per_step": 3,
            "group_size": 4,
            "max_new_tokens": 6,
            "train": {"seq_len": 256, "steps": 6, **common},
        },
    }
    for section, changes in sections.items():
        train = base[section]["train"] | changes.pop("train", {})
        base[section] = base[section] | changes | {"train": train}
    return Recipe.model_validate(base)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_model_dir(path).state_dict()


def equal(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[k], second[k]) for k in first)


class _StopAt:
    """Stands for a signal that arrives after so many steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        due = Trainer._checkpoint_if_due

        def stop_then(trainer: Trainer, *args: Any) -> None:
            if trainer.step == step:
                trainer.signals.received = 15
            due(trainer, *args)

        monkeypatch.setattr(Trainer, "_checkpoint_if_due", stop_then)


def test_sft_learns_answers_only(model_dir: Path, tmp_path: Path) -> None:
    out = sft.run_sft(recipe(), model_dir, tmp_path / "run")
    seen = lines(tmp_path / "run")
    evals = [line["eval"]["math"] for line in seen if "eval" in line]
    steps = [line for line in seen if "loss" in line]
    assert len(steps) == 8
    assert evals[-1] < evals[0] - 0.5
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    # of all positions only the assistant's are targets
    assert all(0 < line["targets"] < 0.7 * 512 for line in steps)
    speaker = Speaker.open(out, device="cpu")
    assert speaker.model.config.eos_token_id == [0, speaker.tokenizer.special("end")]
    assert Tokenizer.load(out).fingerprint == Tokenizer.load(model_dir).fingerprint
    assert sft.run_sft(recipe(), model_dir, tmp_path / "run") == out
    assert len(lines(tmp_path / "run")) == len(seen), "a finished run does nothing"
    with pytest.raises(AthanorError, match="another recipe"):
        sft.run_sft(recipe(sft={"train": {"steps": 9}}), model_dir, tmp_path / "run")


def test_sft_stopped_and_resumed_is_the_same_run(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sft.run_sft(recipe(), model_dir, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        _StopAt(patch, 3)
        sft.run_sft(recipe(), model_dir, tmp_path / "cut")
    assert equal(whole, sft.run_sft(recipe(), model_dir, tmp_path / "cut"))


def test_sft_reads_files_and_names_what_is_wrong(model_dir: Path, tmp_path: Path) -> None:
    talks = [{"messages": m} for m in conversations(30, 0, "sft")]
    file = tmp_path / "talks.jsonl"
    file.write_text("\n".join(json.dumps(t, ensure_ascii=False) for t in talks))
    own = {"sources": {"own": {"paths": [str(file)]}}, "train": {"steps": 2}}
    run = tmp_path / "run"
    sft.run_sft(recipe(sft=dict(own)), model_dir, run)
    assert not [line for line in lines(run) if "eval" in line]
    short = {"sources": {"own": {"paths": [str(file)]}}, "train": {"steps": 2, "seq_len": 32}}
    sft.run_sft(recipe(sft=short), model_dir, tmp_path / "short")
    events = (tmp_path / "short" / "events.jsonl").read_text()
    assert "longer than a row" in events, "cut conversations are counted"
    file.write_text('{"messages": [{"role": "user", "content": "?"}]}\n')
    with pytest.raises(AthanorError, match="talks.jsonl:1"):
        sft.run_sft(recipe(sft={"sources": {"own": {"paths": [str(file)]}}}), model_dir, tmp_path / "bad")
    with pytest.raises(AthanorError, match="no conversations in its held-out part"):
        tiny = {"sources": {"math": {"kind": "arithmetic", "documents": 1, "holdout": 1e-9}}}
        sft.run_sft(recipe(sft=tiny), model_dir, tmp_path / "none")
    for bad, says in (
        ({"sources": {}}, "sft.sources"),
        ({"train": {"steps": None}}, "how long to train"),
        ({"train": {"stages": [{"name": "a", "steps": 1}]}}, "one stage"),
    ):
        with pytest.raises(AthanorError, match=says):
            sft.run_sft(recipe(sft=bad), model_dir, tmp_path / says)


def digits(text: str, expected: str) -> float:
    """Something a new model can earn by chance: the share of digits."""
    return sum(c.isdigit() for c in text) / max(len(text), 1)


@pytest.mark.parametrize(("updates", "kl_coef"), [(1, 0.0), (2, 0.1)])
def test_rl_stopped_and_resumed_is_the_same_run(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates: int, kl_coef: float
) -> None:
    monkeypatch.setitem(VERIFIERS, "arithmetic", digits)
    chosen = recipe(rl={"updates_per_batch": updates, "kl_coef": kl_coef})
    whole = grpo.run_rl(chosen, model_dir, tmp_path / "whole")
    seen = [line for line in lines(tmp_path / "whole") if "loss" in line]
    assert [line["step"] for line in seen] == list(range(1, 7))
    fresh = [line for line in seen if "reward" in line]
    assert len(fresh) == 6 // updates
    assert fresh[-1]["reward"] > fresh[0]["reward"]
    assert all(k in fresh[0] for k in ("accuracy", "solved_groups", "unsolved_groups", "answer_tokens", "entropy"))
    assert ("kl" in seen[0]) == (kl_coef > 0)
    if kl_coef:
        assert abs(seen[0]["kl"]) < 1e-6 < seen[-1]["kl"]
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        _StopAt(patch, 3)
        grpo.run_rl(chosen, model_dir, tmp_path / "cut")
    assert equal(whole, grpo.run_rl(chosen, model_dir, tmp_path / "cut"))
    again = [line for line in lines(tmp_path / "cut") if "loss" in line]
    keys = ("step", "loss", "grad_norm", "targets", "reward", "entropy")
    assert [{k: line.get(k) for k in keys} for line in again] == [{k: line.get(k) for k in keys} for line in seen]


def test_rl_names_what_is_missing(model_dir: Path, tmp_path: Path) -> None:
    for bad, says in (({"sources": {}}, "no source of questions"), ({"train": {"steps": None}}, "rl.train.steps=40")):
        with pytest.raises(AthanorError, match=says):
            grpo.run_rl(recipe(rl=bad), model_dir, tmp_path / says)
    (model_dir.parent / "text").mkdir(exist_ok=True)
    with pytest.raises(AthanorError, match="no tokenizer|no config.json|no such model"):
        grpo.run_rl(recipe(), model_dir.parent / "text", tmp_path / "none")
