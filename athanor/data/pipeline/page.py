"""The report page of a build."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_page(report: dict[str, Any], name: str, path: Path) -> None:
    """Write ``report.html``."""
    path.write_text("")
