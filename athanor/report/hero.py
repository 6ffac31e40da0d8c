"""The README's picture, drawn from a quickstart run: loss across stages, then what each post-training stage bought."""

from __future__ import annotations

import re
from pathlib import Path

from athanor.errors import AthanorError
from athanor.files import write_atomic
from athanor.report import charts
from athanor.report.read import read_run
from athanor.report.svg import PALETTE, STYLE

_VIEW = re.compile(r'viewBox="0 0 (\d+) (\d+)"')


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
    parts, y, width = [], 16, 0
    for svg in pictures:
        found = _VIEW.search(svg)
        assert found is not None
        w, h = int(found[1]), int(found[2])
        parts.append(svg.replace("<svg ", f'<svg x="16" y="{y}" width="{w}" height="{h}" ', 1))
        y, width = y + h + 8, max(width, w)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 32} {y + 8}">'
    paper = '<rect width="100%" height="100%" rx="10" style="fill:var(--card)"/>'
    picture = f"{head}<style>{PALETTE}{STYLE}</style>{paper}{''.join(parts)}</svg>\n"
    write_atomic(target, picture)
    return target
