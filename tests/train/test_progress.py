"""What a person sees: the numbers, and silence in between."""

import io

from rich.console import Console

from athanor.train import progress
from athanor.train.progress import ProgressView, clock

LINE = {
    "stage": "general",
    "loss": 2.5,
    "grad_norm": 0.5,
    "lr": 1e-3,
    "tokens_per_s": 1234.4,
    "mfu": 0.61,
    "step_s": 2.0,
}


def test_lines_are_rare_without_a_terminal():
    out = io.StringIO()
    view = ProgressView(40, Console(file=out, force_terminal=False, width=200))
    for step in range(1, 41):
        view.update({**LINE, "step": step})
    view.close()
    first, last = out.getvalue().splitlines()
    assert first == "step 1/40  general  loss 2.5000  |g| 0.50  lr 1.00e-03  1,234 tokens/s  MFU 0.61  ETA 1:18"
    assert last.startswith("step 40/40") and last.endswith("ETA 0:00")


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(progress, "_BAR_EVERY_S", 0.0)
    out = io.StringIO()
    view = ProgressView(4, Console(file=out, force_terminal=True, width=160))
    view.update({**LINE, "step": 3})
    view.say("a line above")
    view.close()
    assert "a line above" in out.getvalue() and "3/4" in out.getvalue() and "MFU 0.61" in out.getvalue()


def test_clock():
    assert [clock(s) for s in (0, 59.9, 61, 3661)] == ["0:00", "0:59", "1:01", "1:01:01"]
