"""Toxic language by lists and scorers that a person brings. Nothing is shipped: what is toxic is theirs to say.

A list is UTF-8 text with one term a line; lines that begin with ``#`` are comments. Terms are matched without regard to
case: those in scripts with spaces as whole words, those with Chinese, Japanese or Korean characters anywhere.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from athanor.data.steps.base import Columns, Docs, Step, Survey, Verdict
from athanor.data.steps.quality_train import file_digest
from athanor.errors import AthanorError
from athanor.recipe.steps.pii import ToxicityOptions

Scorer = Callable[[list[str]], Sequence[float]]

VERSION = 1
_SPACELESS = re.compile(r"[぀-ヿ㐀-鿿가-힣]")
_WORD = re.compile(r"[぀-ヿ㐀-鿿]|[^\W_]+")


class Toxicity(Step):
    """Terms found, words in all, and the scorer's value (nan without one)."""

    name = "toxicity"
    fields = {"terms": pa.int32(), "words": pa.int32(), "score": pa.float32()}

    def __init__(self, options: ToxicityOptions) -> None:
        super().__init__(options)
        self._patterns: dict[str, re.Pattern[str]] | None = None
        self._scorer: Scorer | None = None

    def compute_key(self) -> Any:
        """The lists' contents and the scorer's name."""
        lists = {language: file_digest(path) for language, path in sorted(self.options.lists.items())}
        return [VERSION, lists, self.options.scorer]

    def prepare(self) -> None:
        """Read the lists and import the scorer."""
        if self._patterns is None:
            if not self.options.lists and self.options.scorer is None:
                raise AthanorError("toxicity has nothing to go by", where="step toxicity", fix="give lists or a scorer")
            self._patterns = {language: compiled(read_terms(path)) for language, path in self.options.lists.items()}
            self._scorer = load_scorer(self.options.scorer) if self.options.scorer else None

    def annotate(self, docs: Docs) -> Columns:
        """Counts of each document by the list of its language and the one for ``any``."""
        self.prepare()
        assert self._patterns is not None
        terms, words = [], []
        for text, language in zip(docs.texts, docs.column("language"), strict=True):
            patterns = [self._patterns[name] for name in {language, "any"} if name in self._patterns]
            terms.append(sum(len(pattern.findall(text)) for pattern in patterns))
            words.append(len(_WORD.findall(text)) if patterns else 0)
        scores = np.full(len(docs), np.nan, dtype=np.float32)
        if self._scorer is not None and len(docs):
            scores = _checked(self._scorer(docs.texts), len(docs), self.options.scorer)
        return {"terms": terms, "words": words, "score": scores}

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """Drops dense documents and high scores."""
        o: ToxicityOptions = self.options
        terms, words, scores = (np.asarray(columns[name]) for name in ("terms", "words", "score"))
        density = 1000 * terms / np.maximum(words, 1)
        reasons: list[str | None] = [None] * len(docs)
        for i in range(len(docs)):
            if (
                o.max_terms_per_1000_words is not None
                and terms[i] >= o.min_terms
                and density[i] > o.max_terms_per_1000_words
            ):
                reasons[i] = f"listed terms: {terms[i]} in {words[i]} words"
            elif o.max_score is not None and scores[i] > o.max_score:
                reasons[i] = f"toxicity score: {scores[i]:.2f}"
        return Verdict(reasons)

    def report(self, survey: Survey) -> Mapping[str, Any]:
        """What stays in: documents with any term, and terms in all. What went out is counted by its reason."""
        terms = survey.numpy("terms")
        return {"kept_documents_with_terms": int((terms > 0).sum()), "terms_in_kept_documents": int(terms.sum())}


def read_terms(path: str | Path) -> list[str]:
    """Terms of a list, without comments and blank lines. AthanorError where there is none."""
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AthanorError(
            f"cannot be read: {error}", where=str(path), fix="a UTF-8 text file, one term a line"
        ) from None
    terms = [line.strip() for line in lines]
    terms = list(dict.fromkeys(term for term in terms if term and not term.startswith("#")))
    if not terms:
        raise AthanorError("no term in this list", where=str(path), fix="one term a line")
    return terms


def compiled(terms: Sequence[str]) -> re.Pattern[str]:
    """One pattern of all terms, as a tree of their beginnings: a place in a text is tried once, not once a term."""
    spaceless = [term.lower() for term in terms if _SPACELESS.search(term)]
    spaced = [term.lower() for term in terms if not _SPACELESS.search(term)]
    parts = [_tree(spaceless)] if spaceless else []
    if spaced:
        parts.append(rf"(?<![^\W_]){_tree(spaced)}(?![^\W_])")
    return re.compile("|".join(parts), re.IGNORECASE)


def _tree(terms: Sequence[str]) -> str:
    """Terms as one expression; of terms that begin alike the longest is matched. Blank space matches any."""
    heads: dict[str, list[str]] = {}
    for term in sorted(set(terms)):
        if term:
            heads.setdefault(term[0], []).append(term)
    branches = []
    for several in heads.values():
        shared = os.path.commonprefix(several)
        branches.append(_plain(shared) + _tree([term[len(shared) :] for term in several]))
    if len(branches) <= 1 and "" not in terms:
        return "".join(branches)
    return f"(?:{'|'.join(branches)})" + ("?" if "" in terms else "") if branches else ""


def _plain(text: str) -> str:
    return r"\s+".join(map(re.escape, re.split(r"\s+", text)))


def load_scorer(name: str) -> Scorer:
    """The function of ``module:function``. AthanorError where there is none."""
    module, _, function = name.partition(":")
    try:
        found: Scorer = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise AthanorError(
            f"no such scorer: {error}", where=f"toxicity: scorer: {name}", fix="module:function"
        ) from None
    if not callable(found):
        raise AthanorError("the scorer is not a function", where=f"toxicity: scorer: {name}", fix="module:function")
    return found


def _checked(values: Sequence[float], n: int, name: str | None) -> Any:
    scores = np.asarray(values, dtype=np.float32)
    if scores.shape != (n,):
        raise AthanorError(
            f"{scores.shape} scores for {n} texts", where=f"toxicity: scorer: {name}", fix="one number a text"
        )
    return scores
