"""Pre-training from a recipe: builds what is missing, resumes, refuses what does not fit."""

import json
import signal

import pytest
import torch
from tiny import lines, untimed

from athanor.errors import AthanorError
from athanor.model.hf import load_model_dir
from athanor.recipe.schema import Recipe
from athanor.tokenizer import Tokenizer
from athanor.train import trainer as trainer_module
from athanor.train.stage import run_pretrain
from athanor.train.stop import Stopped

VOCAB = 290


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(24):
        body = "".join(f"item {i + j} of the list costs {3 * j} coins; 第{j}项。\n" for j in range(8))
        (folder / f"{i}.txt").write_text(body, encoding="utf-8")
    return folder


def recipe_of(text, **changes):
    tree = {
        "seed": 1,
        "model": {
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "norm_placement": "depth_scaled_sandwich",
            "max_position_embeddings": 128,
        },
        "tokenizer": {"vocab_size": VOCAB},
        "data": {
            "sources": {
                "text": {"paths": [str(text)], "holdout": 0.25},
                "sums": {"kind": "arithmetic", "documents": 40},
            }
        },
        "train": {
            "seq_len": 32,
            "global_batch_tokens": 128,
            "eval_tokens": 64,
            "precision": "fp32",
            "tensorboard": False,
            "schedule": {"lr": 0.01},
            "stages": [
                {"name": "general", "mixture": {"text": 1, "sums": 1}, "steps": 3},
                {"name": "annealing", "mixture": {"sums": 1}, "tokens": 300},
                {"name": "longer", "seq_len": 64, "steps": 2, "rope_theta": 40000.0},
            ],
        },
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        node = tree
        for part in path:
            node = node[part]
        node[last] = value
    return Recipe.model_validate(tree)


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return out, run_pretrain(recipe_of(text), out)


def test_leaves_a_model_directory_and_says_done(finished):
    out, model_dir = finished
    assert model_dir == out / "model" and (out / "DONE").exists()
    model, tokenizer = load_model_dir(model_dir), Tokenizer.load(model_dir)
    assert model.config.vocab_size == tokenizer.vocab_size == VOCAB and model.rope_theta == 40000.0
    assert model.config.eos_token_id == tokenizer.eos_id
    done = json.loads((out / "DONE").read_text())
    assert done["steps"] == 8 and done["tokens"] == 8 * 128
    got = lines(out / "metrics.jsonl")
    assert [line["stage"] for line in got if "loss" in line] == ["general"] * 3 + ["annealing"] * 3 + ["longer"] * 2
    assert {name for line in got if "eval" in line for name in line["eval"]} == {"text"}


def test_stages_of_one_row_length_go_on_behind_each_other(finished):
    """The second stage reads the rows of its source that the first has not read."""
    out, _ = finished
    data = {e["stage"]: e for e in lines(out / "events.jsonl") if e["kind"] == "stage_data"}
    assert data["general"]["steps"] == 3 and data["annealing"]["steps"] == 3 and data["longer"]["seq_len"] == 64
    assert set(data["annealing"]["sources"]) == {"sums"}


def test_run_again_does_nothing(finished, text, monkeypatch):
    out, model_dir = finished
    before = (out / "metrics.jsonl").read_text()
    monkeypatch.setattr(trainer_module.Trainer, "fit", None)
    assert run_pretrain(recipe_of(text), out) == model_dir
    assert (out / "metrics.jsonl").read_text() == before


def test_stopped_and_run_again_gives_the_same_model(finished, text, tmp_path, monkeypatch):
    whole, _ = finished
    step = trainer_module.Trainer._train_step

    def stop_at_five(self, stage, stage_step):
        step(self, stage, stage_step)
        if self.step == 5:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trainer_module.Trainer, "_train_step", stop_at_five)
    with pytest.raises(Stopped):
        run_pretrain(recipe_of(text), tmp_path / "run")
    assert not (tmp_path / "run" / "DONE").exists()
    monkeypatch.undo()
    again = load_model_dir(run_pretrain(recipe_of(text), tmp_path / "run"))
    assert untimed(tmp_path / "run" / "metrics.jsonl") == untimed(whole / "metrics.jsonl")
    expected = load_model_dir(whole / "model").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_other_recipe_in_the_same_directory_is_refused(finished, text):
    with pytest.raises(AthanorError, match=r"train.stages\[0\].steps: 3 → 4"):
        run_pretrain(
            recipe_of(
                text,
                train__stages=[{"name": "general", "mixture": {"text": 1, "sums": 1}, "steps": 4}]
                + recipe_of(text).model_dump()["train"]["stages"][1:],
            ),
            finished[0],
        )


def test_given_parts_are_used_and_weights_begin_where_they_are_told(finished, text, tmp_path):
    out, model_dir = finished
    recipe = recipe_of(text, train__stages=[{"name": "more", "steps": 1}], train__schedule={"lr": 1e-9})
    made = run_pretrain(recipe, tmp_path / "run", data_dir=out / "tokens", init_from=model_dir)
    assert not (tmp_path / "run" / "corpus").exists() and not (tmp_path / "run" / "tokenizer").exists()
    before, after = load_model_dir(model_dir).state_dict(), load_model_dir(made).state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-7) for name in before)
    with pytest.raises(AthanorError, match="model.hidden_size: 16 → 32"):
        other = recipe_of(text, model__hidden_size=32)
        run_pretrain(other, tmp_path / "other", data_dir=out / "tokens", init_from=model_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__vocab_size": 4096}, "another vocabulary"),
        ({"model__vocab_size": 280}, "another vocabulary"),
        ({"model": None}, "no model"),
        ({"train__global_batch_tokens": 100}, "not a multiple of seq_len 32"),
        ({"train__steps": 5}, "beside stages"),
        ({"train__stages": []}, "how long to train"),
        ({"train__stages": [{"name": "a", "steps": 1}] * 2}, "two stages are named 'a'"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(finished, text, tmp_path, changes, message):
    out, _ = finished
    with pytest.raises(AthanorError, match=message):
        run_pretrain(
            recipe_of(text, **changes), tmp_path / "run", tokenizer_dir=out / "tokenizer", data_dir=out / "tokens"
        )
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_rows_longer_than_a_given_model_reads_are_refused(finished, text, tmp_path):
    out, model_dir = finished
    recipe = recipe_of(text, model=None, train__seq_len=256, train__global_batch_tokens=256)
    with pytest.raises(AthanorError, match="rows of 256 positions, the model has 128"):
        run_pretrain(recipe, tmp_path / "run", data_dir=out / "tokens", init_from=model_dir)
