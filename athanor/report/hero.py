"""The README's picture, drawn from a quickstart run: loss across stages, then what each post-training stage bought."""

from __future__ import annotations

from pathlib import Path

from athanor.errors import AthanorError
from athanor.files import write_atomic
from athanor.report import charts
from athanor.report.read import read_run
from athanor.report.svg import standalone


def draw(summary_dir: Path | str, out: Path | str) -> Path:
    """Write one standalone SVG (it follows light and dark) from a run's files.

    ``summary_dir``: a folder with ``summary.json``, or one stage's RunDir. Raises AthanorError if ``out`` is not an
    ``.svg`` file or the run has nothing to draw yet.
    """
    target = Path(out)
    if target.suffix.lower() != ".svg":
        raise AthanorError(f"cannot draw a {target.suffix} picture", where=str(target), fix="name a .svg file")
    files = read_run(Path(summary_dir))
    pictures = [svg for svg in (charts.loss_chart(files), charts.accuracy_chart(files)) if svg]
    if not pictures:
        raise AthanorError("nothing to draw: no loss, no accuracy", where=str(summary_dir), fix="finish a stage first")
    write_atomic(target, standalone(pictures))
    return target
