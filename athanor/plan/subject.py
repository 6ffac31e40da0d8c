"""What is planned: a recipe, a preset or a Hugging Face model, with its batch, precision and token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.model.hf import read_config
from athanor.parallel.plan import ParallelPlan
from athanor.plan.cluster import Cluster
from athanor.plan.cost import Problem
from athanor.plan.of_stage import athanor_engine
from athanor.plan.shape import Documents
from athanor.plan.traits import Engine
from athanor.recipe import PRESETS, Recipe, load, load_text
from athanor.recipe.schema import StageRecipe
from athanor.recipe.source import to_yaml

#: Row and batch of a model that comes without a recipe, in tokens.
SEQ_LEN, BATCH_TOKENS = 4096, 4_194_304


@dataclass(frozen=True)
class Subject:
    """One stage of training of a model. ``plan``: the layout that the recipe demands; ``tokens``: of all its stages."""

    name: str
    stage: str
    config: ModelConfig
    seq_len: int
    rows: int  #: of a step
    micro_batch_rows: int | None
    plan: ParallelPlan | None
    tokens: int | None
    precision: str
    documents: Documents

    def problem(self, cluster: Cluster, engine: Engine | None = None) -> Problem:
        """On ``cluster``; ``engine``: other traits than Athanor's."""
        dtype = self.precision
        if dtype == "auto":
            dtype = "bf16" if "bf16" in cluster.device.peak_flops_per_s else "fp32"
        return Problem(self.config, self.seq_len, self.rows, cluster, engine or athanor_engine(dtype), self.documents)


def load_subject(
    word: str, overrides: Sequence[str] = (), *, stage: str | None = None, doc_lens: Sequence[int] = ()
) -> Subject:
    """A recipe file, a preset's name, or a Hugging Face model directory (or its ``config.json``).

    ``overrides`` are those of recipes; ``stage``: of a recipe with several (None: the one with most tokens);
    ``doc_lens``: documents in rows. AthanorError for anything wrong.
    """
    recipe = _recipe(word, overrides)
    if recipe.model is None:
        raise AthanorError("the recipe has no model", where=word, fix="add `model:`, for example `preset: mini`")
    chosen = _stage(recipe, stage, word)
    train = recipe.train
    seq_len = chosen.seq_len or train.seq_len
    batch = chosen.batch_ramp[-1].global_batch_tokens if chosen.batch_ramp else chosen.global_batch_tokens
    batch = batch or train.global_batch_tokens
    if batch % seq_len:
        raise AthanorError(
            f"global_batch_tokens {batch} is not a multiple of seq_len {seq_len}",
            where=f"{word}: stage {chosen.name}",
            fix=f"for example {-(-batch // seq_len) * seq_len}",
        )
    plan = recipe.parallel if isinstance(recipe.parallel, ParallelPlan) and recipe.parallel.world_size > 1 else None
    tokens = sum(s.tokens or 0 for s in train.stages) or train.tokens or None
    return Subject(
        name=recipe.name,
        stage=chosen.name,
        config=recipe.model,
        seq_len=seq_len,
        rows=batch // seq_len,
        micro_batch_rows=max(1, train.micro_batch_tokens // seq_len) if train.micro_batch_tokens else None,
        plan=plan,
        tokens=tokens,
        precision=train.precision,
        documents=Documents.of(list(doc_lens)) if doc_lens else Documents.rows(),
    )


def _recipe(word: str, overrides: Sequence[str]) -> Recipe:
    path = Path(word)
    if word in PRESETS and not path.exists():
        return _of_model({"preset": word}, PRESETS[word], word, overrides)
    if path.is_dir() or path.name == "config.json":
        config = read_config(path if path.is_dir() else path.parent)
        return _of_model(config.model_dump(mode="json"), config, path.resolve().name, overrides)
    if not path.exists():
        raise AthanorError(
            "no such recipe, preset or model directory", where=word, fix=f"a file, a folder, or: {', '.join(PRESETS)}"
        )
    return load(path, overrides)


def _of_model(model: dict[str, object], config: ModelConfig, name: str, overrides: Sequence[str]) -> Recipe:
    seq_len = min(SEQ_LEN, config.max_position_embeddings)
    batch = max(BATCH_TOKENS // seq_len, 1) * seq_len
    train = {"seq_len": seq_len, "global_batch_tokens": batch}
    return load_text(to_yaml({"name": name, "model": model, "train": train}), overrides, name)


def _stage(recipe: Recipe, name: str | None, word: str) -> StageRecipe:
    stages = recipe.train.stages or [StageRecipe(name="train")]
    if name is None:
        return max(stages, key=lambda s: s.tokens or 0)
    for stage in stages:
        if stage.name == name:
            return stage
    known = ", ".join(s.name for s in stages)
    raise AthanorError(f"no stage {name!r}", where=word, fix=f"one of: {known}")
