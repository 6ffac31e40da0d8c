"""Batches of a step from a loader: which rows belong to which step, in closed form, so that a resume costs nothing."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Protocol

from athanor.data.types import Batch
from athanor.errors import AthanorError
from athanor.model.decoder import Decoder
from athanor.recipe.schema import BatchStep


class RowLoader(Protocol):
    """The endless stream of packed rows (``athanor.data.loader.PackedLoader``): row r is a function of (seed, r)."""

    def rows(self, first_row: int, n: int) -> Batch: ...


class BatchPlan:
    """How many rows each step takes. ``ramp``: from ``after_tokens`` of this stage on, another global batch.

    A step's batch is decided by the tokens before it, so each part of the ramp is a straight line of equal steps.
    """

    def __init__(
        self, seq_len: int, global_batch_tokens: int, ramp: Sequence[BatchStep] = (), where: str = "train"
    ) -> None:
        self.seq_len = seq_len
        #: (first step, first row, rows a step) of each part
        self.parts: list[tuple[int, int, int]] = [(0, 0, self._rows(global_batch_tokens, where))]
        for entry in ramp:
            step, row, rows = self.parts[-1]
            behind = entry.after_tokens - row * seq_len
            if behind < 0:
                raise AthanorError(
                    f"after_tokens {entry.after_tokens} comes before the part it follows",
                    where=f"{where}.batch_ramp",
                    fix="list the ramp in increasing after_tokens, each at least a batch after the one before",
                )
            steps = -(-behind // (rows * seq_len))
            after = (step + steps, row + steps * rows, self._rows(entry.global_batch_tokens, where))
            if steps == 0:
                self.parts[-1] = after
            else:
                self.parts.append(after)

    def _rows(self, batch_tokens: int, where: str) -> int:
        rows, rest = divmod(batch_tokens, self.seq_len)
        if rest or not rows:
            near = max(1, round(batch_tokens / self.seq_len)) * self.seq_len
            raise AthanorError(
                f"global_batch_tokens {batch_tokens} is not a multiple of seq_len {self.seq_len}",
                where=where,
                fix=f"for example {near}",
            )
        return rows

    def rows(self, step: int) -> tuple[int, int]:
        """(first row, number of rows) of the stage's step ``step`` (0-based)."""
        first_step, first_row, rows = self.parts[bisect_right(self.parts, step, key=lambda part: part[0]) - 1]
        return first_row + (step - first_step) * rows, rows

    def steps_for(self, tokens: int) -> int:
        """The fewest steps that train on at least ``tokens``."""
        rows_wanted = -(-tokens // self.seq_len)
        first_step, first_row, rows = [part for part in self.parts if part[1] < rows_wanted][-1]
        return first_step - (-(rows_wanted - first_row) // rows)


class PackedSource:
    """Micro-batches of packed rows: ``micro_batch_tokens`` each, in whole rows; None: the whole batch at once."""

    #: A step's batches do not depend on the model, so the trainer may fetch the next ones while this step runs.
    prefetch = True

    def __init__(self, loader: RowLoader, plan: BatchPlan, micro_batch_tokens: int | None = None) -> None:
        self.loader, self.plan = loader, plan
        self.micro_rows = None if micro_batch_tokens is None else max(1, micro_batch_tokens // plan.seq_len)

    def micro_batches(self, step: int, model: Decoder) -> list[Batch]:
        """The batches of the stage's step ``step`` (0-based): every row once, in order."""
        first, rows = self.plan.rows(step)
        size = self.micro_rows or rows
        return [self.loader.rows(first + at, min(size, rows - at)) for at in range(0, rows, size)]

    def share(self, step: int, at: int, n: int) -> list[Batch]:
        """The micro-batches of data rank ``at`` of ``n``: a contiguous part of the step's rows, the same rows overall.

        Raises AthanorError when the step's rows cannot be shared out evenly.
        """
        first, rows = self.plan.rows(step)
        size = self.micro_rows or max(1, rows // n)
        if rows % (size * n):
            raise AthanorError(
                f"a step has {rows} rows: {n} data ranks with micro-batches of {size} rows cannot share them evenly",
                where="train.global_batch_tokens",
                fix=f"a multiple of {size * n * self.plan.seq_len} tokens, or other train.micro_batch_tokens",
            )
        mine = rows // n
        return [self.loader.rows(first + at * mine + i, size) for i in range(0, mine, size)]

    def state_dict(self) -> dict[str, Any]:
        """The switches of a mixture that changes while it trains; nothing else has a state."""
        return {"switches": [list(switch) for switch in getattr(self.loader, "switches", [])]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the switches back: the stream is again what it was."""
        for switch in state["switches"]:
            self.loader.switch(*switch)  # type: ignore[attr-defined]

    def position(self, step: int) -> dict[str, int | str]:
        """Where step ``step`` reads, and of what: a resumed run checks that it would go on at the same place."""
        fingerprint = getattr(self.loader, "fingerprint", "")
        return {"row": self.plan.rows(step)[0], "data": str(fingerprint() if callable(fingerprint) else fingerprint)}
