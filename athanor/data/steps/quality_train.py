"""Where quality models come from: generated examples, a person's labels, or a judge's answers; kept by fingerprint."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from athanor.data.steps.quality_examples import AXES, GROUPS, Example, examples, phrases, whole_texts
from athanor.data.steps.quality_model import VERSION, QualityModel, agreement, fit, group_of
from athanor.errors import AthanorError
from athanor.native import cache_dir

#: Every fifth example is held out: the reported agreement is of texts that the weights were not fitted on.
_HELD_OUT_OF = 5


def cache_folder(given: str | None) -> Path:
    """``given``, else ``$XDG_CACHE_HOME/athanor`` or ``~/.cache/athanor``."""
    return Path(given) if given else cache_dir()


@cache
def own_texts() -> tuple[list[str], list[str]]:
    """(prose, code) of the installed Python: real text that every machine has. Empty lists where it has no sources."""
    from athanor.data.stdlib_corpus import stdlib_documents
    from athanor.data.types import Document

    try:
        prose, code = (
            [found.text for found in stdlib_documents(part) if isinstance(found, Document)]
            for part in ("prose", "code")
        )
    except AthanorError:
        return [], []
    return prose, code


def model_for(model: str | None, labels: str | None, n: int, seed: int, cache_dir: str | None) -> QualityModel:
    """The model that options name: a folder, one trained on a file of labels, or on generated examples."""
    if model is not None:
        return QualityModel.load(Path(model))
    if labels is not None:
        return _kept(cache_folder(cache_dir), ["labels", file_digest(labels)], lambda: read_labels(labels))
    return generated_model(cache_folder(cache_dir), n, seed)


def generated_model(cache: Path, n: int = 4500, seed: int = 0) -> QualityModel:
    """The model of ``n`` generated examples of a seed, from ``cache`` if it is there."""
    return _kept(cache, ["generated", n, seed, _origin()], lambda: list(examples(n, seed, *own_texts())))


def _origin() -> str:
    """What generated examples depend on besides their seed: the phrases and the Python's own library."""
    from athanor.data.stdlib_corpus import python_version

    return hashlib.sha256(json.dumps([phrases(), python_version()], sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """Content hash of a file."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:32]
    except OSError as error:
        raise AthanorError(
            f"cannot be read: {error.strerror}", where=str(path), fix="check the path in the recipe"
        ) from None


def _kept(cache: Path, key: Sequence[Any], make: Any) -> QualityModel:
    name = hashlib.sha256(json.dumps([VERSION, *key]).encode()).hexdigest()[:20]
    folder = cache / "quality" / name
    if (folder / "quality.json").is_file():
        try:
            return QualityModel.load(folder)
        except AthanorError:  # damaged: trained anew
            pass
    model = train(make())
    model.save(folder)
    return model


def train(labelled: Sequence[Example]) -> QualityModel:
    """Fit on four fifths of the examples; ``facts`` tell the agreement on the last fifth."""
    # Pairs of a text's two examples stay on one side, and every side has all groups.
    held = [(i // (2 * len(GROUPS))) % _HELD_OUT_OF == 0 for i in range(len(labelled))]
    fitted = [example for example, out in zip(labelled, held, strict=True) if not out]
    held_out = [example for example, out in zip(labelled, held, strict=True) if out]
    prose, code = own_texts()
    model = fit(fitted, prose[::2], whole_texts(prose, code))
    model.facts = {"examples": len(fitted), "agreement": agreement(model, held_out)}
    return model


def read_labels(path: str | Path) -> list[Example]:
    """Examples of a jsonl file: ``text``, any of the axes as numbers 0 … 1, and optionally ``domain``.

    AthanorError names the line that is none.
    """
    found: list[Example] = []
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AthanorError(f"cannot be read: {error}", where=str(path), fix="a UTF-8 jsonl file of labels") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_example(line, f"{path}, line {number}"))
    if len(found) < 2 * _HELD_OUT_OF:
        raise AthanorError(f"{len(found)} labelled texts train nothing", where=str(path), fix="some dozens at least")
    return found


def _example(line: str, where: str) -> Example:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise AthanorError("no JSON object with a text", where=where, fix='{"text": "…", "educational": 0.8}')
    for key in row.keys() - {"text", "domain", *AXES}:
        near = difflib.get_close_matches(key, AXES, n=1, cutoff=0.8)
        if near:
            raise AthanorError(f"no axis {key!r}", where=where, fix=f"did you mean {near[0]!r}?")
    labels: list[float | None] = []
    for axis in AXES:
        value = row.get(axis)
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise AthanorError(f"{axis} is {value!r}", where=where, fix="a number from 0 to 1")
        labels.append(None if value is None else float(value))
    if all(value is None for value in labels):
        raise AthanorError("no label", where=where, fix=f"at least one of {', '.join(AXES)}")
    return Example(row["text"], group_of(row["text"], str(row.get("domain", "general"))), tuple(labels))
