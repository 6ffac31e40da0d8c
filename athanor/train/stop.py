"""Stopping a run from outside: the step is finished, the state saved, and the person told how to go on."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """Training was stopped by a signal and its state is saved; ``str()`` says how to resume.

    A ``KeyboardInterrupt`` so that no ``except Exception`` on the way swallows it. ``exit_code`` is 128 + the signal:
    130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum, self.exit_code = signum, 128 + signum


class StopSignals:
    """While entered, the first SIGINT or SIGTERM only sets ``received``; a second SIGINT interrupts at once.

    Signal handlers belong to the main thread; in any other thread this does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum
        name = signal.Signals(signum).name
        print(f"\n{name}: finishing this step, then saving (Ctrl-C again: stop without saving)", file=sys.stderr)
