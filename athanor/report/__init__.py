"""Reports: pages and pictures drawn from a run's files (``write_report``, ``hero.draw``)."""

from athanor.report.html import write_report

__all__ = ["write_report"]
