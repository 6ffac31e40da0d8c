"""Options of quality scores, their weights, perplexity and the language-model judge."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from athanor.model.config import Strict

Axis = Literal["cleanliness", "fluency", "educational", "density"]


def _equal() -> dict[Axis, float]:
    return {"cleanliness": 1.0, "fluency": 1.0, "educational": 1.0, "density": 1.0}


class WeightOptions(Strict):
    """Sampling weight of a document from its quality q (0 … 1).

    ``power``: (q / reference)^exponent; ``linear``: 1 + slope · (q − reference); ``steps``: the weight of the highest
    threshold that q reaches (below all of them: ``floor``). All are kept within ``floor`` … ``ceiling``.
    """

    kind: Literal["power", "linear", "steps", "constant"] = "power"
    exponent: float = Field(default=1.0, ge=0)
    slope: float = Field(default=2.0, ge=0)
    reference: float = Field(default=0.5, gt=0, le=1, description="the quality whose weight is 1")
    steps: dict[float, float] = Field(
        default_factory=lambda: {0.3: 0.5, 0.5: 1.0, 0.7: 2.0}, description="quality: weight"
    )
    floor: float = Field(default=0.1, ge=0)
    ceiling: float = Field(default=4.0, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> WeightOptions:
        if self.floor > self.ceiling:
            raise ValueError(f"floor {self.floor} lies above ceiling {self.ceiling}")
        return self


class DifficultyOptions(Strict):
    """Where easy ends and hard begins on the difficulty's scale of 0 … 1."""

    medium_from: float = Field(default=0.35, ge=0, le=1)
    hard_from: float = Field(default=0.6, ge=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> DifficultyOptions:
        if self.medium_from > self.hard_from:
            raise ValueError(f"medium_from {self.medium_from} lies above hard_from {self.hard_from}")
        return self


class QualityOptions(Strict):
    """Four axes scored 0 … 1, their mean as ``quality``, a sampling ``weight``, and ``difficulty``."""

    step: Literal["quality"] = "quality"
    model: str | None = Field(
        default=None, description="folder of a trained model; null: trained at first use and kept"
    )
    labels: str | None = Field(
        default=None, description="jsonl of {text, domain, axis: 0…1, …} to train on; null: generated"
    )
    examples: int = Field(default=4500, ge=30, description="how many examples are generated to train on")
    seed: int = Field(default=0, ge=0)
    cache_dir: str | None = Field(
        default=None, description="where trained models are kept; null: the user's cache folder"
    )
    axes: dict[Axis, float] = Field(
        default_factory=_equal,
        description="weights of the axes in the combined quality",
    )
    min_quality: float | None = Field(default=None, ge=0, le=1, description="drop documents below")
    min_axis: dict[Axis, float] = Field(default_factory=dict, description="drop documents below on an axis")
    weight: WeightOptions = WeightOptions()
    difficulty: DifficultyOptions = DifficultyOptions()

    @model_validator(mode="after")
    def _some_axis(self) -> QualityOptions:
        if any(weight < 0 for weight in self.axes.values()) or not sum(self.axes.values()) > 0:
            raise ValueError("axes: weights must not be negative, and one must be above zero")
        return self


class JudgeOptions(Strict):
    """A language model behind an OpenAI-compatible endpoint scores documents on the four axes."""

    step: Literal["judge"] = "judge"
    endpoint: str = Field(description="base URL, e.g. http://localhost:8000/v1")
    model: str = Field(description="the model's name at the endpoint")
    api_key_env: str | None = Field(default=None, description="environment variable that holds the key")
    max_documents: int = Field(
        default=1000, ge=0, description="documents a build may have judged; by content hash, the first so many"
    )
    share: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="of the documents, by content hash, that may be judged; their excerpts are kept",
    )
    max_chars: int = Field(default=4000, gt=0, description="of a text that is sent")
    timeout_s: float = Field(default=60.0, gt=0)
    retries: int = Field(default=2, ge=0)
    cache_dir: str | None = Field(
        default=None, description="answers are kept here by content; null: the user's cache folder"
    )
    axes: dict[Axis, float] = Field(default_factory=_equal)
    min_quality: float | None = Field(default=None, ge=0, le=1, description="drop judged documents below")
    weight: WeightOptions = WeightOptions()


class PerplexityOptions(Strict):
    """Perplexity of each document under an Athanor model directory."""

    step: Literal["perplexity"] = "perplexity"
    model: str = Field(description="model directory of the proxy")
    max_tokens: int = Field(default=512, gt=1, description="tokens read of a document")
    batch_tokens: int = Field(default=8192, gt=0)
    device: str | None = Field(default=None, description="null: the accelerator if there is one")
    max_bits_per_byte: float | None = Field(default=None, gt=0, description="drop above")
    min_bits_per_byte: float | None = Field(default=None, ge=0, description="drop below: repetition")
    max_quantile: float | None = Field(default=None, gt=0, le=1, description="drop above this quantile of its language")
    min_quantile: float | None = Field(default=None, ge=0, lt=1, description="drop below this quantile of its language")
