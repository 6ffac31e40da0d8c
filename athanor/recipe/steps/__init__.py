"""Options of the curation steps: plain typed values, so that a recipe is checked before anything is read."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from athanor.recipe.steps.length import LengthOptions

#: Any step of ``data.steps``, told apart by its ``step``.
StepOptions = Annotated[LengthOptions, Field(discriminator="step")]
