"""Where documents lie in a batch, prepared once a forward pass and shared by all layers."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch

from athanor.errors import AthanorError

#: A bucket holds documents whose lengths differ by at most this factor: padding in it costs less than another call.
BUCKET_RATIO = 1.15


@dataclass(slots=True)
class Bucket:
    """Documents of about one length. ``gather`` [n, L] are flat token positions, short documents padded by repeats;
    ``scatter`` are the places in the flattened n·L that are real, in the order of ``tokens`` (flat positions)."""

    gather: torch.Tensor
    scatter: torch.Tensor
    tokens: torch.Tensor
    start: int  # first flat position when the bucket is one contiguous run of equal documents, else -1
    n_docs: int
    length: int


class Packing:
    """Document boundaries of B×T flattened tokens; built from host integers, so no device sync is needed.

    ``lens_tensor``: int64 [n_docs] on the host: what compiled code reads, so lengths are no constants to it. No
    dataclass on purpose: FSDP would look at each number of it for a tensor, in every block and pass.
    """

    __slots__ = ("lens", "device", "lens_tensor", "_cu")

    def __init__(self, lens: list[int], device: torch.device, lens_tensor: torch.Tensor) -> None:
        self.lens, self.device, self.lens_tensor = lens, device, lens_tensor
        self._cu: torch.Tensor | None = None

    @classmethod
    def of(cls, doc_lens: list[list[int]], n_rows: int, row_len: int, device: torch.device) -> Packing:
        """Check that every row's documents fill it, and flatten."""
        if len(doc_lens) != n_rows:
            raise AthanorError(
                f"{len(doc_lens)} rows of document lengths for a batch of {n_rows} rows",
                where="doc_lens",
            )
        for row, lens in enumerate(doc_lens):
            if sum(lens) != row_len or min(lens) <= 0:
                raise AthanorError(
                    f"document lengths add up to {sum(lens)}, the row has {row_len} tokens",
                    where=f"doc_lens[{row}]",
                )
        flat = [n for lens in doc_lens for n in lens]
        lens_tensor = torch.tensor(flat, dtype=torch.int64)
        if "torch._dynamo" in sys.modules:  # loaded by torch.compile: one graph for any number of documents
            torch._dynamo.maybe_mark_dynamic(lens_tensor, 0)
        return cls(flat, device, lens_tensor)

    @property
    def max_len(self) -> int:
        """Length of the longest document."""
        return max(self.lens)

    def cu_seqlens(self) -> torch.Tensor:
        """int32 [n_docs + 1] cumulative lengths, on the device (made once)."""
        if self._cu is None:
            cu = torch.zeros(len(self.lens) + 1, dtype=torch.int32)
            cu[1:] = torch.tensor(self.lens, dtype=torch.int32).cumsum(0)
            self._cu = cu.to(self.device)
        return self._cu


def make_buckets(lens: list[int], device: torch.device) -> list[Bucket]:
    """Group documents by length so that one attention call serves many, with at most ``BUCKET_RATIO`` padding.

    Padding sits behind a document's last token, where causal attention never looks from a real query: no mask.
    """
    if len(set(lens)) == 1:
        return [_run(0, len(lens), lens[0])]
    starts = [0]
    for n in lens[:-1]:
        starts.append(starts[-1] + n)
    order = sorted(range(len(lens)), key=lambda d: -lens[d])
    buckets: list[Bucket] = []
    i = 0
    while i < len(order):
        longest = lens[order[i]]
        j = i
        while j < len(order) and lens[order[j]] * BUCKET_RATIO >= longest:
            j += 1
        buckets.append(_bucket([starts[d] for d in order[i:j]], [lens[d] for d in order[i:j]], device))
        i = j
    return buckets


def _run(start: int, n_docs: int, length: int) -> Bucket:
    """Equal documents that follow one another: nothing to gather."""
    none = torch.empty(0, dtype=torch.int64)
    return Bucket(none, none, none, start, n_docs, length)


def _bucket(starts: list[int], lens: list[int], device: torch.device) -> Bucket:
    longest = lens[0]
    if len(starts) == 1:
        return _run(starts[0], 1, longest)
    start, length = torch.tensor(starts)[:, None], torch.tensor(lens)[:, None]
    within = torch.arange(longest)
    gather = start + torch.minimum(within, length - 1)
    real = within < length
    scatter = real.flatten().nonzero().flatten()
    tokens = gather.flatten()[scatter]
    return Bucket(
        gather.to(device),
        scatter.to(device),
        tokens.to(device),
        start=-1,
        n_docs=len(starts),
        length=longest,
    )
