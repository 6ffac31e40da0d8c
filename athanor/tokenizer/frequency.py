"""What the domains' texts consist of, and which domain each token of a vocabulary serves."""

from __future__ import annotations

from typing import Any

import numpy as np

from athanor.tokenizer.counts import PieceCounts
from athanor.tokenizer.tokenizer import Tokenizer

_TOP, _HEAD = 30, 10_000


def frequencies(pieces: PieceCounts) -> dict[str, dict[str, Any]]:
    """Of each domain: how many pieces, how many different ones, which share of these occurs once, which share of all
    pieces the 10,000 most frequent make up, how many of the different ones no other domain has, and the top ones."""
    out: dict[str, dict[str, Any]] = {}
    texts = pieces.pieces()
    elsewhere = (pieces.counts > 0).sum(axis=1) > 1
    for number, name in enumerate(pieces.domains):
        counts = pieces.counts[:, number]
        order = np.lexsort((np.arange(len(counts)), -counts))[: max(_HEAD, _TOP)]
        total, distinct = int(counts.sum()), int((counts > 0).sum())
        out[name] = {
            "pieces": total,
            "distinct": distinct,
            "once_share": float((counts == 1).sum()) / max(distinct, 1),
            "head_share": float(counts[order[:_HEAD]].sum()) / max(total, 1),
            "own_share": float(((counts > 0) & ~elsewhere).sum()) / max(distinct, 1),
            "top": {texts[i].decode(): int(counts[i]) for i in order[:_TOP] if counts[i]},
        }
    return out


def tokens_by_domain(tokenizer: Tokenizer, pieces: PieceCounts) -> dict[str, int]:
    """How many tokens serve mostly one domain: more than half of their use, with domains counted as equally large.

    ``shared``: no domain has half; ``unused``: in none of the pieces; specials are left out.
    """
    texts = [piece.decode() for piece in pieces.pieces()]
    encoded = tokenizer.encode_batch_to_arrays(texts)
    ids = np.concatenate([np.zeros(0, dtype=np.int32), *encoded])
    of_piece = np.repeat(np.arange(len(encoded)), [len(some) for some in encoded])
    use = np.stack(
        [
            np.bincount(ids, weights=pieces.counts[of_piece, d], minlength=tokenizer.vocab_size)
            for d in range(len(pieces.domains))
        ]
    )
    use = use / np.maximum(use.sum(axis=1, keepdims=True), 1)
    ordinary = np.ones(tokenizer.vocab_size, dtype=bool)
    ordinary[list(tokenizer.special_ids)] = False
    total = use.sum(axis=0)
    share = use / np.where(total > 0, total, 1)
    mostly = np.where(total == 0, -2, np.where(share.max(axis=0) > 0.5, share.argmax(axis=0), -1))
    found = {name: int(((mostly == d) & ordinary).sum()) for d, name in enumerate(pieces.domains)}
    return found | {"shared": int(((mostly == -1) & ordinary).sum()), "unused": int(((mostly == -2) & ordinary).sum())}
