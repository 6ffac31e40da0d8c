"""Keys of a stage that say what it reads and in which order: mixture, weighting, order, online re-weighting."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from athanor.model.config import Strict


class MixtureFrom(Strict):
    """A mixture that is not given source by source: exactly one of the three keys.

    ``domains``: shares of domains, whatever source their documents come from; ``preset``: a published mixture
    (``athanor.data.mixtures.PRESETS``); ``file``: YAML that a re-weighted run exported.
    """

    preset: str | None = Field(default=None, description="for example pangu-ultra/general")
    file: str | None = Field(default=None, description="mixture.yaml of a run (path relative to where it is run)")
    domains: dict[str, float] | None = Field(default=None, description="weight by domain")

    @model_validator(mode="after")
    def _exactly_one(self) -> MixtureFrom:
        given = [name for name in ("preset", "file", "domains") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of preset, file, domains; given: {', '.join(given) or 'none'}")
        return self


def _which(value: Any) -> str:
    """Weights by source, unless the keys can only be those of ``MixtureFrom``."""
    if isinstance(value, MixtureFrom):
        return "from"
    named = isinstance(value, dict) and value and set(value) <= set(MixtureFrom.model_fields)
    return "from" if named and not any(isinstance(v, int | float) for v in value.values()) else "sources"


#: Weight by source, or where else the weights come from.
MixtureKey = Annotated[
    Annotated[dict[str, float], Tag("sources")] | Annotated[MixtureFrom, Tag("from")], Discriminator(_which)
]


class _Named(Strict):
    """Settings whose ``kind`` may stand alone: ``order: easy_to_hard`` for ``order: {kind: easy_to_hard}``."""

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


class WeightingRecipe(_Named):
    """How often an epoch has a document. ``document``: in proportion to its ``weight`` (mean 1 within a source)."""

    kind: Literal["none", "document"] = "none"
    power: float = Field(default=1.0, ge=0, description="weights are raised to this; 0: all equal")
    max_copies: float = Field(default=8.0, ge=1, description="no document more often an epoch than this")


class OrderRecipe(_Named):
    """In which order a stage reads the documents of a source.

    ``easy_to_hard``: by ``difficulty``, over the whole stage: the stage's share of each of ``blocks`` equal parts of
    the source, easiest part first, shuffled within. A document moves by up to ``jitter`` of the whole order.
    """

    kind: Literal["shuffled", "easy_to_hard"] = "shuffled"
    blocks: int = Field(default=16, ge=1, le=1024)
    jitter: float = Field(default=0.1, ge=0, le=1, description="share of the order; 1: hardly any order is left")


class ReweightRecipe(Strict):
    """Shares of the stage's sources follow the losses seen while it trains.

    ``excess`` (after DoReMi, arXiv 2305.10429): shares grow by exp(eta · excess), where excess is a source's loss above
    its ``reference`` loss, not below 0. ``bandit`` (ODM, arXiv 2312.02406): no reference, the loss itself is the
    reward. Both sample by the shares; neither scales the loss. ``watch`` changes nothing and writes losses by source:
    a run with it is the best reference, because its losses are of the same text as those it is compared with.
    """

    method: Literal["excess", "bandit", "watch"] = "excess"
    every_steps: int = Field(default=10, ge=1, description="steps between two updates")
    warmup_steps: int = Field(default=0, ge=0, description="steps before the first update")
    eta: float = Field(default=1.0, gt=0, description="step size of the exponentiated gradient")
    smoothing: float = Field(
        default=0.1, ge=0, le=1, description="part of every share that stays the stage's own mixture"
    )
    loss_memory: float = Field(default=0.5, ge=0, lt=1, description="what a new mean loss keeps of the one before")
    max_excess: float = Field(default=0.3, gt=0, description="nats; what is above counts as this")
    reference: str | dict[str, float] | None = Field(
        default=None,
        description="loss by source, or a finished run: its training losses by source, else its held-out ones",
    )
    replay: str | None = Field(
        default=None, description="events.jsonl of a run: take its recorded shares, decide nothing"
    )

    @model_validator(mode="after")
    def _has_reference(self) -> ReweightRecipe:
        if self.method == "excess" and self.reference is None and self.replay is None:
            raise ValueError("method excess needs `reference`: losses by source, or a run directory; or method: bandit")
        return self
