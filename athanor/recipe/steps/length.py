"""Options of the length step."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from athanor.model.config import Strict


class LengthOptions(Strict):
    """Keep documents of a length between two bounds, in characters."""

    step: Literal["length"] = "length"
    min_chars: int = Field(default=1, ge=0)
    max_chars: int | None = Field(default=None, gt=0)
