"""Held-out loss: next-token cross-entropy on the documents that a recipe keeps from training, by source and domain."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from athanor.data.build import is_held_out, read_source
from athanor.data.loader import held_out_batches
from athanor.data.shards import ShardSet, ShardWriter
from athanor.data.types import Document, Dropped
from athanor.errors import AthanorError
from athanor.evaluate.tasks import TaskResult
from athanor.inference.session import Speaker
from athanor.recipe.schema import Recipe
from athanor.train.objective import CausalLM
from athanor.train.stages import evaluate


class LossTask:
    """Mean loss in nats a token over ``train.eval_tokens`` held-out positions of each source with a ``holdout``.

    Metrics: ``loss.<source>``, ``loss.domain.<domain>`` (mean over its sources) and ``loss`` (mean over all sources).
    The split is that of the corpus: by document id, and a copy of an earlier document is no held-out document.
    """

    name = "loss"

    def run(self, speaker: Speaker, recipe: Recipe) -> TaskResult:
        sources = {name: s for name, s in recipe.data.sources.items() if s.holdout}
        if not sources:
            raise AthanorError(
                "no source keeps documents for validation",
                where="eval.tasks: loss",
                fix="data.sources.NAME.holdout=0.01, or take the task out",
            )
        losses: dict[str, float] = {}
        domains: dict[str, list[float]] = {}
        seen: set[bytes] = set()
        for name, source in recipe.data.sources.items():
            texts = _held_out_texts(recipe, name, seen)
            if source.holdout:
                losses[name] = _loss(speaker, recipe, name, texts)
                domains.setdefault(source.domain, []).append(losses[name])
            else:
                for _ in texts:  # only to know what a held-out document may not repeat
                    pass
        by_domain = {f"loss.domain.{domain}": sum(v) / len(v) for domain, v in domains.items()}
        mean = sum(losses.values()) / len(losses)
        return TaskResult({"loss": mean, **{f"loss.{name}": v for name, v in losses.items()}, **by_domain})


def _held_out_texts(recipe: Recipe, name: str, seen: set[bytes]) -> Iterator[str]:
    """Held-out documents of a source that are no copies; every document read joins ``seen``."""
    holdout = recipe.data.sources[name].holdout
    for item in read_source(recipe, name):
        if isinstance(item, Dropped):
            continue  # the corpus report counts these
        if _is_new(item, seen) and is_held_out(item.id, holdout):
            yield item.text


def _is_new(document: Document, seen: set[bytes]) -> bool:
    key = hashlib.sha256(document.text.encode()).digest()[:16]
    new = key not in seen
    seen.add(key)
    return new


def _loss(speaker: Speaker, recipe: Recipe, name: str, texts: Iterator[str]) -> float:
    model, tokenizer = speaker.model, speaker.tokenizer
    seq_len = min(recipe.train.seq_len, model.config.max_position_embeddings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        with ShardWriter(path, tokenizer.fingerprint, tokenizer.vocab_size, eos_id=tokenizer.eos_id) as writer:
            for text in texts:
                writer.add(tokenizer.encode(text))
        shards = ShardSet.open(path, verify=False)
        if not shards.n_docs:
            raise AthanorError(
                "no document is held out", where=f"data.sources.{name}", fix="a larger holdout, or more documents"
            )
        batches = held_out_batches(shards, seq_len, recipe.train.eval_tokens, pad_id=tokenizer.pad_id)
        return evaluate(model, CausalLM(), batches)
