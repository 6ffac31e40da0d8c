"""Options of deduplication and decontamination."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from athanor.model.config import Strict

Keep = Literal["longest", "quality", "earliest"]


class _Comparing(Strict):
    """What every step that compares documents takes.

    ``keep``  which of several duplicates stays: the longest, the one of the highest quality measure, or the one of the
    earliest date in ``meta``; ties go to the longest, then by the content's hash. ``quality``: that measure's name
    (``step.measure``; without it the first that starts with ``quality.``). ``against``: index folders of earlier
    builds; a document that duplicates one of theirs is dropped. ``index``: leave such a folder for later builds.
    """

    keep: Keep = "longest"
    quality: str | None = None
    against: tuple[str, ...] = ()
    index: bool = True


class ExactDedupOptions(_Comparing):
    """Exact duplicates by ``document`` (the whole text), ``url`` or ``paragraph`` (cut where another document has it).

    ``text``: ``raw`` compares bytes, ``folded`` ignores case and how white space is cut. Paragraphs are lines of at
    least ``min_paragraph_chars``; a document of which less than ``min_left_chars`` stays after the cuts is dropped.
    """

    step: Literal["exact_dedup"] = "exact_dedup"
    by: tuple[Literal["document", "url", "paragraph"], ...] = ("document", "url")
    text: Literal["raw", "folded"] = "folded"
    min_paragraph_chars: int = Field(default=100, ge=1)
    min_left_chars: int = Field(default=200, ge=0)


class MinhashOptions(_Comparing):
    """Near duplicates by MinHash: ``bands`` × ``rows`` hashes over n-grams of ``ngram`` words (Han: characters).

    Two documents of Jaccard similarity J share a band with probability 1 - (1 - J^rows)^bands; with ``groupings: 2``
    the same hashes are dealt to a second set of bands. Pairs whose signatures estimate J below ``min_jaccard`` are
    left alone (0: every pair that shares a band counts).
    """

    step: Literal["minhash"] = "minhash"
    ngram: int = Field(default=5, ge=1, le=64)
    bands: int = Field(default=14, ge=1, le=256)
    rows: int = Field(default=8, ge=1, le=64)
    groupings: Literal[1, 2] = 2
    min_jaccard: float = Field(default=0.7, ge=0, le=1)
    seed: int = Field(default=1, ge=0, lt=2**32)


class SubstringDedupOptions(Strict):
    """Repeated passages of at least ``min_tokens`` tokens (words; Han: characters) are cut where they come again.

    A document of which less than ``min_left_chars`` stays, or less than ``min_left_share`` of it, is dropped.
    ``boundary``: cuts begin and end at sentences (where that costs at most half the passage) or at words.
    """

    step: Literal["substring_dedup"] = "substring_dedup"
    min_tokens: int = Field(default=50, ge=8)
    boundary: Literal["sentence", "word"] = "sentence"
    min_left_chars: int = Field(default=200, ge=0)
    min_left_share: float = Field(default=0.2, ge=0, le=1)
    keep: Keep = "longest"
    quality: str | None = None


class DecontaminateOptions(Strict):
    """Documents that hold items of evaluation sets: every jsonl, json, parquet, csv or tsv file below ``sets``.

    ``ngram``  words in a row that must not be shared (``ngram_han`` characters where Han prevails).
    ``min_coverage``  share of an item's n-grams that must be found together (0: one n-gram is enough).
    ``fuzzy``  share of an item's n-grams of ``fuzzy_ngram`` found close together that counts as the item itself
    (above 1: off). ``action``: drop the document, or cut the passages and the sentences around them.
    ``max_items``: n-grams of more items than this are a set's template and protect nothing.
    ``ignore_fields``: fields of items that are not looked at, besides identifiers and labels.
    """

    step: Literal["decontaminate"] = "decontaminate"
    sets: tuple[str, ...] = Field(min_length=1)
    ngram: int = Field(default=13, ge=5)
    ngram_han: int = Field(default=20, ge=8)
    min_matches: int = Field(default=1, ge=1)
    min_coverage: float = Field(default=0.1, ge=0, le=1)
    fuzzy_ngram: int = Field(default=5, ge=3)
    fuzzy: float = Field(default=0.5, ge=0.3)
    max_items: int = Field(default=10, ge=1)
    action: Literal["drop", "cut"] = "drop"
    min_left_chars: int = Field(default=200, ge=0)
    ignore_fields: tuple[str, ...] = ()
    cache: str | None = None

    @model_validator(mode="after")
    def _orders(self) -> DecontaminateOptions:
        if self.ngram_han < self.ngram:
            raise ValueError(f"ngram_han {self.ngram_han} is below ngram {self.ngram}: Han needs the longer n-gram")
        if self.fuzzy_ngram >= self.ngram:
            raise ValueError(f"fuzzy_ngram {self.fuzzy_ngram} is not below ngram {self.ngram}")
        return self
