"""A recipe's vocabulary from a finished corpus, and a report: how it serves each domain, what else was possible."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.errors import AthanorError
from athanor.files import write_atomic, write_json
from athanor.tokenizer.classes import classes
from athanor.tokenizer.counts import PieceCounts, count_pieces
from athanor.tokenizer.frequency import frequencies, tokens_by_domain
from athanor.tokenizer.measure import comparison
from athanor.tokenizer.methods import METHODS, Method, Settings, train_domains, unreachable
from athanor.tokenizer.page import page, table
from athanor.tokenizer.texts import Corpus, TrainingTexts, held_out
from athanor.tokenizer.tokenizer import Tokenizer
from athanor.tokenizer.train import train_tokenizer

if TYPE_CHECKING:
    from athanor.recipe.schema import TokenizerRecipe

Say = Callable[[str], None]
_SAY_EVERY_S = 5.0


def train_from_corpus(wanted: TokenizerRecipe, corpus: Corpus, out: Path, say: Say) -> Tokenizer:
    """Train by ``wanted.method``; all but ``joint`` write ``report.json``, ``.txt`` and ``.html`` to ``out``.

    ``AthanorError`` when the corpus is too small for the vocabulary, with the size that is possible.
    """
    texts = TrainingTexts(corpus, wanted.train_bytes)
    if wanted.method == "joint":
        return train_tokenizer(
            (text for _, text in texts),
            wanted.vocab_size,
            min_frequency=wanted.min_frequency,
            digits=wanted.digits,
            reserved=wanted.reserved,
        )
    pieces = count_pieces(texts, "three/end" if wanted.digits == "three" else "single/end")
    natural = texts.natural_bytes
    for name, n in zip(pieces.domains, pieces.n_bytes.tolist(), strict=True):
        say(f"tokenizer: {name}: {n / 1e6:.2f} MB counted of {natural[name] / 1e6:.2f} MB")
    settings = _settings(wanted, wanted.method)
    tokenizer = train_domains(pieces, settings, natural, _progress(settings, say))
    result = _report(wanted, tokenizer, pieces, natural, corpus, say)
    write_json(out / "report.json", result)
    write_atomic(out / "report.txt", table(result) + "\n")
    write_atomic(out / "report.html", page(result))
    for line in table(result).splitlines():
        say(line)
    return tokenizer


def _settings(wanted: TokenizerRecipe, method: Any) -> Settings:
    return Settings(
        vocab_size=wanted.vocab_size,
        method=method,
        min_frequency=wanted.min_frequency,
        reserved=wanted.reserved,
        balance=wanted.balance,
        weights=wanted.weights,
        refine_rounds=wanted.refine_rounds,
    )


def _progress(settings: Settings, say: Say) -> Callable[[int], None]:
    told = time.monotonic()

    def tell(n: int) -> None:
        nonlocal told
        if time.monotonic() - told > _SAY_EVERY_S:
            told = time.monotonic()
            say(f"tokenizer: {settings.method}: {n:,} of {settings.n_merges:,} merges")

    return tell


def _report(
    wanted: TokenizerRecipe,
    tokenizer: Tokenizer,
    pieces: PieceCounts,
    natural: dict[str, int],
    corpus: Corpus,
    say: Say,
) -> dict[str, Any]:
    sample, without = held_out(corpus)
    made: dict[str, Tokenizer] = {wanted.method: tokenizer}
    missing: dict[str, str] = {}
    others: tuple[Method, ...] = METHODS if wanted.compare and len(pieces.domains) > 1 else ()
    for method in others:
        if method not in made:
            settings = _settings(wanted, method)
            try:
                made[method] = train_domains(pieces, settings, natural, _progress(settings, say))
            except AthanorError as error:  # this one has too little text; the vocabulary asked for stands
                missing[method] = str(error)
    figures = comparison(made, sample.groups, "natural" if "natural" in made else None)
    return {
        "method": wanted.method,
        "settings": wanted.model_dump(),
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "unreachable": len(unreachable(tokenizer)),
        "classes": classes(tokenizer),
        "tokens_by_domain": tokens_by_domain(tokenizer, pieces),
        "frequencies": frequencies(pieces),
        "counted_bytes": dict(zip(pieces.domains, pieces.n_bytes.tolist(), strict=True)),
        "natural_bytes": natural,
        "measured_on": "held-out documents"
        + (f"; training documents of {', '.join(without)}, which hold none out" if without else ""),
        "not_possible": missing,
        **figures,
    }
