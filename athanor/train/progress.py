"""What a person sees while training: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

_LINE_EVERY_S, _BAR_EVERY_S = 10.0, 0.25
_SMOOTHING = 0.1


def say(text: str) -> None:
    """Print a line about the run, on stderr."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """``75`` → ``1:15``."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Status(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("status", "")), style="cyan")


class ProgressView:
    """Shows step, stage, loss, tokens/s, MFU and the time left (from a smoothed step time)."""

    def __init__(self, total_steps: int, console: Console | None = None) -> None:
        self.total_steps = total_steps
        self.console = console or Console(stderr=True, highlight=False)
        self._step_s: float | None = None
        self._shown_at = float("-inf")
        self._bar: Progress | None = None
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                _Status(),
                console=self.console,
                refresh_per_second=2,
                transient=True,
            )
            self._task = self._bar.add_task("training", total=total_steps)
            self._bar.start()

    def update(self, line: Mapping[str, object]) -> None:
        """Show one metrics line; cheap when it is not time to print."""
        step_s, step = float(line["step_s"]), int(line["step"])  # type: ignore[arg-type, call-overload]
        self._step_s = step_s if self._step_s is None else self._step_s + _SMOOTHING * (step_s - self._step_s)
        now = time.monotonic()
        every_s = _LINE_EVERY_S if self._bar is None else _BAR_EVERY_S
        if now - self._shown_at < every_s and step < self.total_steps:
            return
        self._shown_at = now
        status = "  ".join(
            (
                f"loss {line['loss']:.4f}",
                f"|g| {line['grad_norm']:.2f}",
                f"lr {line['lr']:.2e}",
                f"{line['tokens_per_s']:,.0f} tokens/s",
                f"MFU {line['mfu']:.2f}",
                f"ETA {clock((self.total_steps - step) * self._step_s)}",
            )
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=str(line["stage"]), status=status)
        else:
            self.say(f"step {step}/{self.total_steps}  {line['stage']}  {status}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
