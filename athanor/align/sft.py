"""Supervised fine-tuning: packed conversations, loss on the assistant's tokens, through the one trainer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import typer

from athanor.align.post_training import fit_and_save, one_stage, open_for_chat
from athanor.align.sources import load_conversations
from athanor.data.conversations import Conversation, tokenize_conversations
from athanor.data.loader import PackedLoader, held_out_batches
from athanor.data.readers import expand, stamp
from athanor.data.shards import INDEX, ShardSet
from athanor.errors import AthanorError
from athanor.files import digest, remove_tree
from athanor.parallel.session import begin, engine_for, main_first
from athanor.recipe.schema import Recipe, SourceRecipe, TrainRecipe
from athanor.tokenizer.tokenizer import Tokenizer
from athanor.train.objective import CausalLM
from athanor.train.planned import predict, settle
from athanor.train.run_dir import RunDir
from athanor.train.sources import BatchPlan, PackedSource
from athanor.train.stages import EvalSet, Stage


def run_sft(recipe: Recipe, model_dir: str | Path, out: str | Path) -> Path:
    """Fine-tune ``model_dir`` on ``recipe.sft``; returns the model directory ``out/model``.

    Run again it resumes, or does nothing when it is done. A source with ``holdout`` keeps that share of its
    conversations for the held-out loss, by the hash of the conversation.
    """
    settings = recipe.sft
    one_stage(settings.train, "sft.train")
    if not settings.sources:
        raise AthanorError("no conversations", where="sft.sources", fix="e.g. sft.sources.math.kind=arithmetic")
    begin(recipe)
    speaker = open_for_chat(model_dir)
    recipe = settle(recipe, settings.train, speaker.model.config, out)
    with main_first("run directory"):
        run = RunDir.open(out, recipe, sections=("seed", "sft"))
    if run.is_done:
        return run.model_dir
    learned, held_out = {}, {}
    with main_first("data"):
        for name, source in settings.sources.items():
            learned[name] = _shards(run, name, source, recipe.seed, speaker.tokenizer, held_out=False)
            if source.holdout:
                held_out[name] = _shards(run, name, source, recipe.seed, speaker.tokenizer, held_out=True)
    train = settings.train
    loader = PackedLoader(learned, None, train.seq_len, recipe.seed, pad_id=speaker.tokenizer.pad_id)
    for note in loader.notes:
        run.event("data_note", note=note)
        typer.echo(f"sft: {note}", err=True)
    plan = BatchPlan(train.seq_len, train.global_batch_tokens, where="sft.train")
    evals: dict[str, EvalSet] = {
        name: held_out_batches(shards, train.seq_len, train.eval_tokens, pad_id=speaker.tokenizer.pad_id)
        for name, shards in held_out.items()
    }
    batches = PackedSource(loader, plan, train.micro_batch_tokens)
    stage = Stage("sft", batches, _steps(train, plan), train.schedule, evals=evals)
    engine = engine_for(recipe, train, speaker.model.config)
    predict(run, recipe, train, speaker.model.config, [stage])
    return fit_and_save(run, speaker, CausalLM(), stage, train, recipe.seed, model_dir, engine)


def _steps(train: TrainRecipe, plan: BatchPlan) -> int:
    if train.steps is not None:
        return train.steps
    if train.tokens is not None:
        return plan.steps_for(train.tokens)
    raise AthanorError(
        "how long to train is not given", where="sft.train", fix="sft.train.steps=200 or sft.train.tokens=…"
    )


def _shards(run: RunDir, name: str, source: SourceRecipe, seed: int, tokenizer: Tokenizer, held_out: bool) -> ShardSet:
    """Masked shards of one source in the run directory; made when they are missing or were made from something else."""
    where = f"sft.sources.{name}"
    folder = run.path / "data" / (f"{name}-held-out" if held_out else name)
    stats = [stamp(file) for file in expand(source.paths)[0]] if source.paths else []
    origin = digest([source.model_dump(mode="json"), seed, tokenizer.fingerprint, stats])
    if (folder / INDEX).exists():
        shards = ShardSet.open(folder)
        if shards.index["origin"] == origin:
            return shards
    remove_tree(folder)
    chosen = _part(load_conversations(source, seed, where), source.holdout, held_out)
    try:
        return tokenize_conversations(chosen, tokenizer, folder, origin=origin)
    except AthanorError as error:
        if error.what != "no conversations":
            raise
        part = "held-out part" if held_out else "training part"
        raise AthanorError(f"no conversations in its {part}", where=where, fix="add some, or change holdout") from None


def _part(talks: Iterator[Conversation], holdout: float, held_out: bool) -> Iterator[Conversation]:
    """One side of the split by the hash of the conversation's text, so that a copy falls on the same side."""
    for place, messages in talks:
        text = "\x00".join(message["content"] for message in messages)
        share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
        if (share < holdout) == held_out:
            yield place, messages
