"""Options of PII scrubbing and of toxicity lists."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from athanor.model.config import Strict

PiiType = Literal[
    "EMAIL", "PHONE", "RESIDENT_ID", "SOCIAL_CREDIT_CODE", "BANK_CARD", "IBAN", "SSN", "PASSPORT", "PLATE",
    "IP", "MAC", "KEY",
]  # fmt: skip


class PiiOptions(Strict):
    """Personal data → typed placeholders. Types and placeholders can change without reading the corpus again."""

    step: Literal["pii"] = "pii"
    types: list[PiiType] = Field(default_factory=list, description="which are replaced; empty: all")
    placeholder: Literal["typed", "indexed", "hashed"] = Field(
        default="typed",
        description="<EMAIL>; <EMAIL_1>, equal values alike within a document; <EMAIL_9f2c41d0>, alike in the corpus",
    )
    salt: str = Field(
        default="", description="secret key of hashed placeholders; without it short numbers can be guessed"
    )
    max_items_per_kb: float | None = Field(
        default=None, gt=0, description="drop documents with more items in 1,000 bytes: leaked lists, directories"
    )


class ToxicityOptions(Strict):
    """Terms from lists that you bring (one a line, ``*.txt``) and/or a scorer of your own. No list is shipped."""

    step: Literal["toxicity"] = "toxicity"
    lists: dict[str, str] = Field(
        default_factory=dict,
        description='language → file of terms; documents of that language ("any": of all) are matched',
    )
    scorer: str | None = Field(default=None, description="module:function, list of texts → list of scores 0 … 1")
    max_terms_per_1000_words: float | None = Field(
        default=5.0, ge=0, description="drop above (one Chinese character = one word)"
    )
    min_terms: int = Field(default=2, ge=1, description="a document with fewer terms is never dropped for its density")
    max_score: float | None = Field(default=0.5, ge=0, le=1, description="drop above the scorer's value")
