"""The lines of a batch as a batch of their own, so that what counts documents also counts lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.steps.base import Docs


@dataclass(frozen=True)
class Lines:
    """Lines between newlines. Those of document i are rows offsets[i] … offsets[i+1] of ``docs`` (texts only)."""

    docs: Docs
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, docs: Docs) -> Lines:
        """Split at every newline; a text without any is one line."""
        split = pc.split_pattern(docs.table.column("text"), "\n")
        return cls(
            Docs(pa.RecordBatch.from_arrays([split.flatten()], names=["text"])),
            split.offsets.to_numpy().astype(np.int64) - split.offsets[0].as_py(),
        )

    @property
    def text(self) -> pa.Array:
        """The lines."""
        return self.docs.table.column("text")

    def matching(self, pattern: str, *, ignore_case: bool = False) -> npt.NDArray[np.bool_]:
        """Which lines match the pattern (RE2's syntax) somewhere."""
        found = pc.match_substring_regex(self.text, pattern, ignore_case=ignore_case)
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)

    def count(self, pattern: str) -> npt.NDArray[np.int64]:
        """How often each line matches."""
        return np.asarray(pc.count_substring_regex(self.text, pattern).to_numpy(zero_copy_only=False), dtype=np.int64)

    def sums(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
        """The sum over the lines of each document."""
        total = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return total[self.offsets[1:]] - total[self.offsets[:-1]]

    def inside(self, fence: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which lines stand between an odd fence of their document and the next, fences included."""
        before = np.concatenate([[0], np.cumsum(fence, dtype=np.int64)])
        start = np.repeat(before[self.offsets[:-1]], np.diff(self.offsets))
        return ((before[:-1] - start) % 2 == 1) | fence

    def of_documents(self, values: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """A value a document → one a line."""
        return np.repeat(values, np.diff(self.offsets))

    def lists(self, values: npt.NDArray[np.generic]) -> pa.ListArray:
        """A value a line → one list a document."""
        return pa.ListArray.from_arrays(pa.array(self.offsets.astype(np.int32)), pa.array(values))

    def positions(self, chosen: npt.NDArray[np.bool_]) -> pa.ListArray:
        """The numbers (from 0, in their document) of the chosen lines, one list a document."""
        rows = np.flatnonzero(chosen)
        starts = np.repeat(self.offsets[:-1], np.diff(self.offsets))
        offsets = np.searchsorted(rows, self.offsets).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array((rows - starts[rows]).astype(np.int32)))
