"""Options of synthesised data: what ``athanor data synthesise`` and a source of ``kind: synthesis`` take."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from athanor.model.config import Strict


def _both_languages() -> list[Literal["zh", "en"]]:
    return ["zh", "en"]


class EndpointOptions(Strict):
    """An OpenAI-compatible chat endpoint, or a model directory of our own, that poses and solves problems."""

    url: str | None = Field(default=None, description="base URL, e.g. http://localhost:8000/v1")
    model: str = Field(default="default", description="name the endpoint knows the model by")
    model_dir: str | None = Field(default=None, description="an Athanor model directory instead of an endpoint")
    api_key_env: str | None = Field(default=None, description="environment variable that holds the key")
    mode: Literal["pose", "solve"] = Field(
        default="pose",
        description="pose: problems for points without a generator; solve: computed ones",
    )
    samples: int = Field(default=5, ge=1, description="independent solutions a problem, for the majority vote")
    agreement: float = Field(default=0.6, gt=0, le=1, description="share of the samples that must agree")
    temperature: float = Field(default=0.8, ge=0)
    max_new_tokens: int = Field(default=1024, gt=0)
    concurrency: int = Field(default=8, ge=1)
    timeout_s: float = Field(default=120.0, gt=0)
    retries: int = Field(default=5, ge=0)
    max_requests: int | None = Field(default=None, ge=1, description="budget: no more requests than this")
    max_tokens: int | None = Field(default=None, ge=1, description="budget: no more tokens (prompt + answer) than this")
    cache: str | None = Field(default=None, description="file of answers already had; makes a run resumable")

    @model_validator(mode="after")
    def _one_model(self) -> EndpointOptions:
        if (self.url is None) == (self.model_dir is None):
            raise ValueError("give url (an endpoint) or model_dir, one of the two")
        return self


class SynthesisOptions(Strict):
    """Which tasks, in which languages, from which taxonomy."""

    subjects: list[str] = Field(default_factory=list, description="math, code, yours; empty: all")
    languages: list[Literal["zh", "en"]] = Field(default_factory=_both_languages, min_length=1)
    points: list[str] = Field(default_factory=list, description="patterns of ids, e.g. math.algebra.*; empty: all")
    taxonomy: list[str] = Field(default_factory=list, description="YAML files laid on the built-in taxonomy")
    difficulty: tuple[int, int] = (1, 5)
    code: list[str] = Field(default_factory=list, description="code trees to explain; empty: Python's own library")
    split: Literal["train", "heldout", "all"] = "all"
    holdout: float = Field(default=0.0, ge=0, lt=1, description="share of questions that are held out, by their key")
    endpoint: EndpointOptions | None = None

    @model_validator(mode="after")
    def _sensible(self) -> SynthesisOptions:
        if not 1 <= self.difficulty[0] <= self.difficulty[1] <= 5:
            raise ValueError("difficulty: [low, high] within 1–5")
        if self.split == "heldout" and self.holdout == 0:
            raise ValueError("split: heldout needs holdout above 0")
        return self
