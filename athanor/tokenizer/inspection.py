"""What `athanor tokenizer inspect` and `compare` say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from athanor.errors import AthanorError
from athanor.tokenizer.classes import classes
from athanor.tokenizer.counts import count_pieces
from athanor.tokenizer.fast import digits_policy
from athanor.tokenizer.measure import comparison
from athanor.tokenizer.methods import Settings, train_domains, unreachable
from athanor.tokenizer.page import aligned, class_rows
from athanor.tokenizer.texts import from_files
from athanor.tokenizer.tokenizer import Tokenizer

_LONGEST = 20
_HELD_OUT = 5  # of the texts to measure on, a fifth (by hash) is kept from the baseline's training


def inspection(tokenizer: Tokenizer) -> dict[str, Any]:
    """The figures of one vocabulary, as JSON."""
    lost = unreachable(tokenizer)
    by_length = sorted(
        (i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids),
        key=lambda i: (-len(tokenizer.token_bytes[i]), i),
    )
    policy = digits_policy(json.loads(tokenizer.backend.to_str()))
    return {
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "special": {i: tokenizer.token_bytes[i].decode() for i in sorted(tokenizer.special_ids)},
        "digits": policy or "of another pattern",
        "byte_level": tokenizer.is_byte_level,
        "fast_encoder": tokenizer.fast is not None,
        "unreachable": len(lost),
        "unreachable_tokens": {i: shown(tokenizer.token_bytes[i]) for i in lost[:_LONGEST]},
        "classes": classes(tokenizer),
        "longest": {i: shown(tokenizer.token_bytes[i]) for i in by_length[:_LONGEST]},
    }


def described(result: dict[str, Any]) -> str:
    """An inspection as text."""
    special = ", ".join(f"{name} {i}" for i, name in list(result["special"].items())[:_LONGEST])
    more = len(result["special"]) - _LONGEST
    lines = [
        f"{result['vocab_size']:,} tokens, fingerprint {result['fingerprint'][:12]}",
        f"special: {special}" + (f" and {more:,} more" if more > 0 else ""),
        f"digits: {result['digits']}; byte-level: {'yes' if result['byte_level'] else 'no'}; "
        f"fast encoder: {'yes' if result['fast_encoder'] else 'no'}",
        f"unreachable: {result['unreachable']}"
        + "".join(f"\n  {i}  {token}" for i, token in result["unreachable_tokens"].items()),
        "",
        aligned(class_rows(result["classes"])),
        "",
        "longest:",
        *(f"  {i}  {token}" for i, token in result["longest"].items()),
    ]
    return "\n".join(lines)


def shown(data: bytes) -> str:
    """A token's bytes for a terminal: text with visible ends, or hexadecimal."""
    try:
        return repr(data.decode())
    except UnicodeDecodeError:
        return "0x" + data.hex()


def cut_text(tokenizer: Tokenizer, text: str) -> str:
    """A text with its token boundaries, then its ids and the figures."""
    ids = tokenizer.encode(text)
    parts = [tokenizer.token_bytes[i] for i in ids]
    marked = "│".join(_visible(part) for part in parts)
    n_bytes = len(text.encode())
    return f"{marked}\n{' '.join(map(str, ids))}\n{len(ids)} tokens, {n_bytes / max(len(ids), 1):.2f} bytes a token"


def _visible(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"<{data.hex()}>"
    return text.replace(" ", "·").replace("\n", "⏎").replace("\t", "→")


def compared(directories: Sequence[Path], data: Sequence[str], baseline: str | None, max_bytes: int) -> dict[str, Any]:
    """The figures of several vocabularies on the same texts.

    ``baseline="natural"``: a BPE of the first vocabulary's size is trained on four fifths of the texts in their own
    mixture, and all are measured on the other fifth.
    """
    sample = from_files(data, max_bytes)
    tokenizers = {name: Tokenizer.load(path) for name, path in zip(_names(directories), directories, strict=True)}
    measured_on = ", ".join(data)
    groups = sample.groups
    if baseline == "natural":
        first = next(iter(tokenizers.values()))
        training = [(d, t) for d, texts in groups["domain"].items() for t in texts if not _is_held(t)]
        digits = digits_policy(json.loads(first.backend.to_str())) or "single"
        pieces = count_pieces(training, digits)
        wanted = Settings(first.vocab_size, "natural", min_frequency=1)
        tokenizers["natural"] = train_domains(pieces, wanted, {d: sample.seen[d] for d in pieces.domains})
        held_out = {
            kind: {name: held for name, texts in of.items() if (held := [t for t in texts if _is_held(t)])}
            for kind, of in groups.items()
        }
        measured_on = f"a fifth of {measured_on} (the baseline learned from the rest)"
        if left_out := [name for name in groups["domain"] if name not in held_out["domain"]]:
            measured_on += f"; not on {', '.join(left_out)}: too few documents to hold one out"
        groups = held_out
        if not groups["domain"]:
            raise AthanorError("too little text to hold a part out", where="--data", fix="more documents")
    elif baseline is not None:
        names = dict(zip(map(str, directories), tokenizers, strict=True))
        if baseline not in {*names, *names.values()}:
            raise AthanorError(f"no baseline {baseline!r}", where="--baseline", fix=f"natural, {', '.join(names)}")
        baseline = names.get(baseline, baseline)
    return {**comparison(tokenizers, groups, baseline), "measured_on": measured_on}


def _is_held(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % _HELD_OUT == 0


def _names(directories: Sequence[Path]) -> list[str]:
    """Short names that tell the directories apart: the last part that differs, else the whole path."""
    short = [path.parent.name if path.name == "tokenizer" and path.parent.name else path.name for path in directories]
    return short if len(set(short)) == len(short) else [str(path) for path in directories]
