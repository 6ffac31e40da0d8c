"""Curation: every step takes documents in columns and gives measures, a verdict for each, and sometimes a new text."""

from athanor.data.steps.base import Columns, Docs, Step, Survey, Verdict

__all__ = ["Columns", "Docs", "Step", "Survey", "Verdict"]
