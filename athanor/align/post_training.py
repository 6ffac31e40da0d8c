"""What every post-training stage does around its objective: open the model, fit, save, mark as done."""

from __future__ import annotations

from pathlib import Path

from athanor.errors import AthanorError
from athanor.inference.session import Speaker
from athanor.model.decoder import Decoder
from athanor.model.hf import save_model_dir
from athanor.ranks import world_size
from athanor.recipe.schema import TrainRecipe
from athanor.tokenizer.chat import END
from athanor.train.engine import EngineFactory, LocalEngine
from athanor.train.objective import Objective
from athanor.train.run_dir import RunDir
from athanor.train.stages import Stage
from athanor.train.trainer import Trainer


def open_for_chat(model_dir: str | Path) -> Speaker:
    """The model (float32, on this machine's device; over ranks on the meta device, with ``first_values``) and its
    tokenizer, which must know the chat tokens."""
    speaker = Speaker.open(model_dir, later=world_size() > 1)
    if not speaker.tokenizer.has_chat:
        raise AthanorError(
            f"this model's vocabulary has no chat tokens such as {END}",
            where=str(model_dir),
            fix="start from a model whose tokenizer was trained here",
        )
    speaker.model.train()
    return speaker


def one_stage(train: TrainRecipe, where: str) -> None:
    """Refuse ``stages`` here: post-training has one stage, so they would be ignored without a word."""
    if train.stages:
        raise AthanorError("post-training has one stage", where=f"{where}.stages", fix=f"use {where}.steps and so on")


def fit_and_save(
    run: RunDir,
    speaker: Speaker,
    objective: Objective,
    stage: Stage,
    train: TrainRecipe,
    seed: int,
    model_dir: str | Path,
    engine: EngineFactory = LocalEngine,
) -> Path:
    """Train (or go on), write ``run/model`` with the tokenizer, and mark the run as done; returns the model directory.

    The model directory names the end of a turn as an end token, so that other programs stop there too.
    """
    tokenizer = speaker.tokenizer
    trainer = Trainer(speaker.model, objective, [stage], train, run, seed=seed, engine=engine)
    result = trainer.fit()

    def save(model: Decoder) -> None:
        model.config = model.config.model_copy(update={"eos_token_id": [tokenizer.eos_id, tokenizer.special(END)]})
        save_model_dir(model, run.model_dir, tokenizer_files_from=model_dir)

    trainer.engine.export(save)
    run.mark_done(steps=result.steps, tokens=result.tokens, started_from=str(model_dir))
    return run.model_dir
