"""How well a vocabulary serves texts: bytes a token, fertility, coverage; by domain, language or any other name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from athanor.tokenizer.tokenizer import Tokenizer

#: A word: a run of letters and digits; where scripts have no spaces (Han, kana), each character.
_UNSPACED = "\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Fit:
    """A vocabulary on one set of texts.

    bytes_per_token    UTF-8 bytes of the texts ÷ tokens
    tokens_per_word    fertility; a word is a run of letters and digits, of Han and kana each character is one
    tokens_per_char    tokens ÷ code points
    used_share         distinct tokens that occur ÷ tokens of the vocabulary
    byte_share         tokens that are one byte of a longer character ÷ tokens: what the vocabulary has no character for
    """

    n_bytes: int
    n_tokens: int
    bytes_per_token: float
    tokens_per_word: float
    tokens_per_char: float
    used_share: float
    byte_share: float


def fit(tokenizer: Tokenizer, texts: Sequence[str], threads: int | None = None) -> Fit:
    """The figures of one set of texts (of at least one byte)."""
    n_bytes = sum(len(text.encode()) for text in texts)
    encoded = tokenizer.encode_batch_to_arrays(texts, threads)
    ids = np.concatenate([np.zeros(0, dtype=np.int32), *encoded])
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    fallback = [i for i, data in enumerate(tokenizer.token_bytes) if len(data) == 1 and data[0] >= 0x80]
    words = sum(sum(1 for _ in _WORD.finditer(text)) for text in texts)
    n_tokens = max(len(ids), 1)
    return Fit(
        n_bytes=n_bytes,
        n_tokens=len(ids),
        bytes_per_token=n_bytes / n_tokens,
        tokens_per_word=len(ids) / max(words, 1),
        tokens_per_char=len(ids) / max(sum(map(len, texts)), 1),
        used_share=float((counts > 0).sum()) / tokenizer.vocab_size,
        byte_share=float(counts[fallback].sum()) / n_tokens,
    )


def harmonic_mean(values: Sequence[float]) -> float:
    """Of positive numbers. Of bytes a token, it is what a corpus with the same bytes of each domain would have."""
    return len(values) / sum(1 / value for value in values)


def comparison(
    tokenizers: Mapping[str, Tokenizer], groups: Mapping[str, Mapping[str, Sequence[str]]], baseline: str | None = None
) -> dict[str, Any]:
    """Every tokenizer on every group of texts, as JSON.

    ``groups``: for example {"domain": {"code": […], …}, "language": {…}}. With a ``baseline`` (one of the names) each
    figure of bytes a token is also given relative to it, and so is the harmonic mean over domains.
    """
    out: dict[str, Any] = {"baseline": baseline, "tokenizers": {}}
    for name, tokenizer in tokenizers.items():
        entry: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}
        for kind, texts in groups.items():
            entry[kind] = {group: asdict(fit(tokenizer, some)) for group, some in texts.items()}
            entry[f"{kind}_harmonic_mean"] = harmonic_mean([f["bytes_per_token"] for f in entry[kind].values()])
        out["tokenizers"][name] = entry
    if baseline is not None:
        base = out["tokenizers"][baseline]
        for entry in out["tokenizers"].values():
            for kind in groups:
                entry[f"{kind}_relative"] = {
                    group: figures["bytes_per_token"] / base[kind][group]["bytes_per_token"]
                    for group, figures in entry[kind].items()
                }
                entry[f"{kind}_harmonic_mean_relative"] = entry[f"{kind}_harmonic_mean"] / base[f"{kind}_harmonic_mean"]
    return out
