"""Options of the curation steps: plain typed values, so that a recipe is checked before anything is read."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from athanor.recipe.steps.clean import (
    C4Options,
    ChineseOptions,
    CodeOptions,
    FineWebOptions,
    GopherOptions,
    IrrelevantOptions,
    LanguageOptions,
    NormaliseOptions,
    RepetitionOptions,
)
from athanor.recipe.steps.dedup import DecontaminateOptions, ExactDedupOptions, MinhashOptions, SubstringDedupOptions
from athanor.recipe.steps.length import LengthOptions
from athanor.recipe.steps.pii import PiiOptions, ToxicityOptions
from athanor.recipe.steps.quality import JudgeOptions, PerplexityOptions, QualityOptions

#: Any step of ``data.steps``, told apart by its ``step``.
StepOptions = Annotated[
    NormaliseOptions
    | LanguageOptions
    | LengthOptions
    | GopherOptions
    | RepetitionOptions
    | C4Options
    | FineWebOptions
    | ChineseOptions
    | CodeOptions
    | IrrelevantOptions
    | PiiOptions
    | ToxicityOptions
    | ExactDedupOptions
    | MinhashOptions
    | SubstringDedupOptions
    | DecontaminateOptions
    | PerplexityOptions
    | QualityOptions
    | JudgeOptions,
    Field(discriminator="step"),
]
