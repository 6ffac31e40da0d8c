"""What every extractor gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Extracted:
    """One document's text (Markdown: ``#`` headings, pipe or HTML tables, ``$…$`` and ``$$…$$`` formulas, fenced code).

    ``meta``: JSON values only: ``format``, and where known ``title``, ``url``, ``language``, ``pages``,
    ``scanned_pages``, ``tables``, ``formulas``. ``part`` tells the documents of one container apart ("" for the only
    one): a record of a WARC, a row of a table. ``domain`` and ``language``: what a row itself says
    it is, "" for nothing.
    """

    text: str
    meta: dict[str, Any] = field(default_factory=dict)
    part: str = ""
    domain: str = ""
    language: str = ""


class Unreadable(Exception):
    """One document that gives no text; the reason is a short fixed phrase, then after a colon the details.

    It is counted and reported, and the rest of the corpus goes on.
    """

    def __init__(self, reason: str, part: str = "") -> None:
        super().__init__(reason)
        self.reason, self.part = reason, part
