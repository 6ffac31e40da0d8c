"""The pre-training stage of a life: recipe → corpus, tokenizer, shards where missing → trained model directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from athanor.data.build import CorpusDir, Split, build_corpus, open_shards, tokenize_corpus, train_tokenizer_from_corpus
from athanor.data.loader import PackedLoader, held_out_batches, stage_loader
from athanor.data.mixtures import resolve
from athanor.data.shards import ShardSet
from athanor.errors import AthanorError
from athanor.inference.session import default_device
from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.hf import load_model_dir, open_model_dir, read_config, save_model_dir
from athanor.model.init import drawn_later, init_weights
from athanor.parallel.session import begin, engine_for, main_first
from athanor.ranks import world_size
from athanor.recipe.schema import Recipe, StageRecipe, TrainRecipe
from athanor.tokenizer import Tokenizer
from athanor.train.callbacks import Callback
from athanor.train.data_log import DataLog
from athanor.train.engine import EngineFactory, LocalEngine
from athanor.train.objective import CausalLM, CausalLMBySource
from athanor.train.planned import predict, settle
from athanor.train.progress import say
from athanor.train.reweighting import Reweighting
from athanor.train.run_dir import RunDir, recipe_differences
from athanor.train.sources import BatchPlan, PackedSource
from athanor.train.stages import EvalSet, Stage
from athanor.train.trainer import Trainer

#: Parts of a recipe that decide what pre-training gives.
SECTIONS = ("seed", "model", "tokenizer", "data", "train")
#: A model may have this many rows beyond the vocabulary (sizes are rounded up for the hardware).
_MAX_PADDING_ROWS = 256
#: Fields of a model's shape that say how it was begun or what it remembers, not what it is.
_NOT_SHAPE = {
    "init",
    "initializer_range",
    "embedding_init_std",
    "head_init_std",
    "depth_scale_attn",
    "depth_scale_mlp",
    "rope_theta",
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
}

Shards = Mapping[str, Mapping[Split, ShardSet]]


def run_pretrain(
    recipe: Recipe,
    out: str | Path,
    corpus_dir: str | Path | None = None,
    tokenizer_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    init_from: str | Path | None = None,
) -> Path:
    """Train every stage of ``recipe.train`` and return the model directory ``out/model``.

    Idempotent: run again it resumes, or does nothing when it is done. What is not given is made in ``out``: the corpus
    (``corpus``), the tokenizer (``tokenizer``; with ``init_from`` the one of that model) and the shards (``tokens``).
    ``init_from``: a model directory whose weights to begin with, instead of fresh ones.
    """
    begin(recipe)
    shape = recipe.model or (read_config(init_from) if init_from is not None else None)
    if shape is not None:
        recipe = settle(recipe, recipe.train, shape, out)
    if recipe.model is not None:
        engine_for(recipe, recipe.train, recipe.model)  # a layout that does not fit is refused before data is prepared
    with main_first("run directory"):
        run = RunDir.open(out, recipe, SECTIONS)
    if run.is_done:
        say(f"pre-training: done already ({run.model_dir})")
        return run.model_dir
    with run.locked():
        with main_first("data"):
            tokenizer, tokenizer_at, shards = prepare_data(recipe, run, corpus_dir, tokenizer_dir, data_dir, init_from)
        model = begin_model(recipe, tokenizer, init_from)
        engine = engine_for(recipe, recipe.train, model.config)
        stages = pretrain_stages(recipe, shards, model.config, tokenizer.pad_id, run)
        predict(run, recipe, recipe.train, model.config, stages)
        return fit_stages(model, stages, recipe.train, run, recipe.seed, tokenizer_at, engine)


def fit_stages(
    model: Decoder,
    stages: list[Stage],
    train: TrainRecipe,
    run: RunDir,
    seed: int,
    tokenizer_dir: str | Path,
    engine: EngineFactory = LocalEngine,
) -> Path:
    """Train a language model through ``stages``, write ``run/model`` with the tokenizer's files, mark the run done."""
    objective, callbacks = _watchers(stages, train, run)
    trainer = Trainer(model, objective, stages, train, run, seed, callbacks, CausalLM(), engine=engine)
    result = trainer.fit()
    trainer.engine.export(lambda whole: save_model_dir(whole, run.model_dir, tokenizer_files_from=tokenizer_dir))
    run.mark_done(steps=result.steps, tokens=result.tokens, held_out_loss=result.last_eval)
    return run.model_dir


def _watchers(stages: list[Stage], train: TrainRecipe, run: RunDir) -> tuple[CausalLM, list[Callback]]:
    """The objective, and what watches the data: by source where a stage re-weights its mixture."""
    rules = {stage.name: stage.reweight for stage in train.stages if stage.reweight is not None}
    if not rules:
        return CausalLM(), [DataLog()]
    names: dict[str, None] = {}
    for stage in stages:
        if stage.name in rules and isinstance(stage.source, PackedSource):
            names |= dict.fromkeys(getattr(stage.source.loader, "names", []))
    return CausalLMBySource(list(names)), [DataLog(), Reweighting(rules, run)]


def prepare_data(
    recipe: Recipe,
    run: RunDir,
    corpus_dir: str | Path | None = None,
    tokenizer_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    init_from: str | Path | None = None,
) -> tuple[Tokenizer, Path, Shards]:
    """(tokenizer, the directory it is in, shards by source and split); what is missing is made in the run directory."""
    corpus: CorpusDir | None = None
    if corpus_dir is not None:
        corpus = CorpusDir.open(corpus_dir)
    elif data_dir is None or (tokenizer_dir is None and init_from is None):
        corpus = build_corpus(recipe, run.path / "corpus", say=say)
    given = tokenizer_dir or init_from
    tokenizer_at = Path(given) if given is not None else run.path / "tokenizer"
    if given is not None:
        tokenizer = Tokenizer.load(tokenizer_at)
    else:
        assert corpus is not None
        tokenizer = train_tokenizer_from_corpus(recipe, corpus, tokenizer_at, say=say)
    if data_dir is not None:
        return tokenizer, tokenizer_at, open_shards(data_dir, tokenizer)
    assert corpus is not None
    return tokenizer, tokenizer_at, tokenize_corpus(corpus, tokenizer, run.path / "tokens", say=say)


def begin_model(recipe: Recipe, tokenizer: Tokenizer, init_from: str | Path | None = None) -> Decoder:
    """The model before its first step, float32 on this machine's device: fresh from the recipe's seed, or loaded.

    Over ranks it is on the meta device, with ``first_values`` of which each rank will take its part.
    """
    over_ranks = world_size() > 1
    ids = {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    if init_from is not None:
        if over_ranks:
            model = open_model_dir(init_from)
        else:
            model = load_model_dir(init_from, dtype=torch.float32, device=default_device())
        if recipe.model is not None:
            _check_same_shape(recipe.model, model.config, str(init_from))
        _check_vocabulary(model.config, tokenizer, str(init_from))
        return model.train()
    if recipe.model is None:
        raise AthanorError("the recipe has no model", where="model", fix="give a preset or a shape under `model:`")
    _check_vocabulary(recipe.model, tokenizer, "model.vocab_size")
    config = recipe.model.model_copy(update=ids)
    if over_ranks:
        return drawn_later(config, recipe.seed).train()
    model = Decoder(config)
    init_weights(model, recipe.seed)
    return model.to(default_device()).train()


def _check_vocabulary(config: ModelConfig, tokenizer: Tokenizer, where: str) -> None:
    spare = config.vocab_size - tokenizer.vocab_size
    if not 0 <= spare < _MAX_PADDING_ROWS:
        raise AthanorError(
            f"the model has {config.vocab_size} token rows, the tokenizer {tokenizer.vocab_size} tokens: "
            "another vocabulary",
            where=where,
            fix=f"model.vocab_size={tokenizer.vocab_size}, or the tokenizer that belongs to the model",
        )


def _check_same_shape(wanted: ModelConfig, found: ModelConfig, where: str) -> None:
    changes = recipe_differences(found.model_dump(exclude=_NOT_SHAPE), wanted.model_dump(exclude=_NOT_SHAPE), "model")
    if changes:
        raise AthanorError(
            f"this model has another shape than the recipe's (there → recipe): {'; '.join(changes[:8])}",
            where=where,
            fix="leave `model:` out of the recipe, or give the shape of that model",
        )


def pretrain_stages(recipe: Recipe, shards: Shards, config: ModelConfig, pad_id: int, run: RunDir) -> list[Stage]:
    """The stages as the trainer takes them. Notes about the data go to the events and to the person."""
    train = recipe.train
    sources = {name: splits["train"] for name, splits in shards.items() if "train" in splits}
    start: dict[str, int] = {}
    eval_sets: dict[int, dict[str, EvalSet]] = {}
    stages: list[Stage] = []
    before: PackedLoader | None = None
    for item in _stage_recipes(train):
        seq_len = item.seq_len or train.seq_len
        _check_length(seq_len, config, item.name)
        where = f"train.stages.{item.name}" if train.stages else "train"
        plan = BatchPlan(seq_len, item.global_batch_tokens or train.global_batch_tokens, item.batch_ramp, where)
        steps = _steps(item, plan, where)
        drawing = item.weighting.model_dump(), item.order.model_dump()
        if before is None or before.seq_len != seq_len or before.drawing != drawing:
            start = {}  # rows of another length, or drawn otherwise, are other rows: there is no place to go on from
        read = resolve(item.mixture, sources, recipe.data.sources)
        loader = stage_loader(
            item,
            train,
            read.sources,
            recipe.seed,
            pad_id=pad_id,
            start=start,
            mixture=read.shares,
            n_rows=plan.rows(steps)[0],
        )
        for note in [*read.notes, *loader.notes]:
            run.event("data_note", stage=item.name, note=note)
            say(f"{item.name}: {note}")
        if seq_len not in eval_sets:
            eval_sets[seq_len] = _eval_sets(shards, seq_len, train.eval_tokens, pad_id)
        run.event("stage_data", stage=item.name, steps=steps, seq_len=seq_len, sources=loader.describe())
        if curriculum := loader.curriculum():
            run.event("curriculum", stage=item.name, difficulty_by_part=curriculum)
        source = PackedSource(loader, plan, train.micro_batch_tokens)
        schedule = item.schedule or train.schedule
        stages.append(Stage(item.name, source, steps, schedule, item.rope_theta, eval_sets[seq_len]))
        start = {**start, **loader.source_rows(plan.rows(steps)[0])}
        before = loader
    return stages


def _stage_recipes(train: TrainRecipe) -> list[StageRecipe]:
    if not train.stages:
        return [StageRecipe(name="pretrain", tokens=train.tokens, steps=train.steps)]
    names = [stage.name for stage in train.stages]
    if twice := {name for name in names if names.count(name) > 1}:
        raise AthanorError(f"two stages are named {sorted(twice)[0]!r}", where="train.stages", fix="rename one")
    shared = [stage for stage in train.stages if stage.tokens_share is not None]
    for key in ("steps", "tokens"):
        if getattr(train, key) is not None and not (shared and key == "tokens"):
            what = f"{key} is given beside stages, which have their own lengths"
            raise AthanorError(what, where=f"train.{key}", fix=f"remove train.{key}, or remove train.stages")
    if shared and train.tokens is None:
        what = f"stage {shared[0].name} is a share of train.tokens, which are not given"
        raise AthanorError(what, where="train.tokens", fix="train.tokens=1e9, or tokens in each stage")
    return [_with_tokens(stage, train.tokens) for stage in train.stages]


def _with_tokens(stage: StageRecipe, total: int | None) -> StageRecipe:
    """The stage with its share of all tokens as a number of tokens."""
    if stage.tokens_share is None or total is None:
        return stage
    return stage.model_copy(update={"tokens": max(1, round(stage.tokens_share * total)), "tokens_share": None})


def _steps(item: StageRecipe, plan: BatchPlan, where: str) -> int:
    if item.steps is not None:
        return item.steps
    if item.tokens is not None:
        return plan.steps_for(item.tokens)
    raise AthanorError("how long to train is not given", where=where, fix=f"{where}.steps or {where}.tokens")


def _check_length(seq_len: int, config: ModelConfig, stage: str) -> None:
    if seq_len > config.max_position_embeddings:
        raise AthanorError(
            f"stage {stage} trains rows of {seq_len} positions, the model has {config.max_position_embeddings}",
            where="train.seq_len",
            fix=f"model.max_position_embeddings={seq_len}, or shorter rows",
        )


def _eval_sets(shards: Shards, seq_len: int, max_tokens: int, pad_id: int) -> dict[str, EvalSet]:
    """Held-out batches of every source that keeps some back."""
    return {
        name: held_out_batches(splits["valid"], seq_len, max_tokens, pad_id=pad_id)
        for name, splits in shards.items()
        if "valid" in splits
    }
