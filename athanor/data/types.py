"""What walks between rooms: documents and batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # processes that read and clean documents do without it
    import torch

Split = Literal["train", "valid"]
SPLITS: tuple[Split, Split] = ("train", "valid")
#: Label of a position that carries no loss.
IGNORE = -100


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its origin. ``id`` is unique within a source and stable between runs."""

    id: str
    text: str
    domain: str = "general"
    language: str = "und"
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dropped:
    """Why a document did not go on; counted and reported, never silent."""

    id: str
    reason: str


@dataclass(slots=True)
class Batch:
    """Packed rows. Documents never cross a row, so a row is a list of whole documents.

    input_ids_BT  int64; labels_BT int64, already shifted (labels[t] is the token after input_ids[t] in the same
    document), ``IGNORE`` where no loss is taken; positions_BT int64, restarting at 0 in each document;
    doc_lens  for each row the document lengths in order (they sum to T; padding, if any, is one more document whose
    labels are all ``IGNORE``). ``extras`` holds tensors an objective needs (B×T, e.g. advantages).
    """

    input_ids_BT: torch.Tensor
    labels_BT: torch.Tensor
    positions_BT: torch.Tensor
    doc_lens: list[list[int]]
    extras: dict[str, torch.Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def n_targets(self) -> int:
        """How many positions carry loss."""
        return int((self.labels_BT != IGNORE).sum())
