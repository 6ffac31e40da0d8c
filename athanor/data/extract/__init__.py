"""Structured documents → text in reading order: Markdown headings, tables, code, and formulas as LaTeX."""

from athanor.data.extract.types import Extracted, Unreadable

__all__ = ["Extracted", "Unreadable"]
