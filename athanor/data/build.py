"""Recipe → corpus → tokenizer → token shards. Each step is idempotent: done work is recognised, half-done work redone.

    OUT_CORPUS/report.json            what came in, what was dropped and why, what went out
    OUT_CORPUS/<source>/train.jsonl.zst, valid.jsonl.zst
    OUT_TOKENS/<source>/train/, valid/       (athanor.data.shards)

A directory's ``stage.json`` says from what it was begun and whether it is done; one that was made from something else
is refused, never overwritten.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import zstandard

from athanor.data import arithmetic
from athanor.data.read.locate import is_url
from athanor.data.readers import expand, lines, read_file, stamp
from athanor.data.remote import open_remote
from athanor.data.report import SourceCount, empty_error
from athanor.data.shards import INDEX, ShardSet
from athanor.data.stdlib_corpus import python_version, stdlib_documents
from athanor.data.tokenise import UNIT_BYTES, tokenise
from athanor.data.types import SPLITS, Document, Dropped, Split
from athanor.errors import AthanorError
from athanor.files import atomic_path, digest, read_json, remove_tree, write_json
from athanor.recipe.schema import Recipe, SourceRecipe
from athanor.tokenizer import Tokenizer
from athanor.tokenizer.from_corpus import train_from_corpus
from athanor.tokenizer.tokenizer import usable_cores

Say = Callable[[str], None]
STAGE = "stage.json"


def _quiet(_: str) -> None:
    """Default ``say``: nothing."""


@dataclass(frozen=True, slots=True)
class CorpusDir:
    """A finished corpus on disk."""

    path: Path
    fingerprint: str
    report: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> CorpusDir:
        """Open a finished corpus; ``AthanorError`` when it is missing or unfinished."""
        path = Path(path)
        state = read_json(path / STAGE) if (path / STAGE).is_file() else {}
        if not (isinstance(state, dict) and state.get("done")):
            raise AthanorError("no finished corpus here", where=str(path), fix="athanor data build RECIPE")
        return cls(path, state["origin"], read_json(path / "report.json"))

    @property
    def sources(self) -> list[str]:
        """Names of the sources, in the recipe's order."""
        return list(self.report["sources"])

    def count(self, source: str, split: Split) -> int:
        """Documents of a source and split."""
        return int(self.report["sources"][source]["out"][split]["documents"])

    def documents(self, source: str, split: Split) -> Iterator[Document]:
        """Documents of one source and split, in the order they were read."""
        for line in lines(_split_file(self.path, source, split)):
            yield Document(**json.loads(line or b""))


def is_held_out(document_id: str, holdout: float) -> bool:
    """Whether a document is for validation: decided by its id alone, so it never changes sides."""
    return int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:8], "big") < holdout * 2**64


def build_corpus(recipe: Recipe, out: str | Path, say: Say = _quiet, replace: bool = False) -> CorpusDir:
    """Read every source of ``recipe.data``, drop exact duplicates, split, write; report where each document went.

    With ``data.steps`` the curation pipeline does it (``athanor.data.pipeline``), and ``replace`` lets it write over a
    corpus that it built with other steps: what was read and measured is used again.
    ``AthanorError`` when nothing of a source remains (with what was read and why it was dropped), or when ``out`` was
    built from another recipe or from files that have changed since.
    """
    out = Path(out)
    if not recipe.data.sources:
        raise AthanorError("empty corpus: the recipe names no source", where="data.sources", fix="add one: kind, paths")
    # How the work is spread decides nothing.
    sources = recipe.data.model_dump(exclude={"steps", "part_bytes", "workers", "engine"})
    if recipe.data.steps:
        origin = digest([recipe.seed, _curation(recipe), _inputs(recipe), _beside(recipe)])
        return _build_curated(recipe, out, origin, say, replace)
    origin = digest([recipe.seed, sources, _inputs(recipe)])
    if _begin(out, "corpus", origin):
        say(f"corpus: done already ({out})")
        return CorpusDir.open(out)
    seen: dict[bytes, str] = {}
    report: dict[str, Any] = {"sources": {}}
    for name, source in recipe.data.sources.items():
        count = _write_source(recipe, name, source, out, seen)
        report["sources"][name] = asdict(count)
        say(f"corpus: {name}: {count.summary()}")
    write_json(out / "report.json", report)
    _finish(out, "corpus", origin)
    return CorpusDir.open(out)


def _curation(recipe: Recipe) -> dict[str, Any]:
    """What decides the result of a build with steps: all of ``data`` but how the work is spread."""
    return recipe.data.model_dump(mode="json", exclude={"workers", "engine"})


def _beside(recipe: Recipe) -> list[Any]:
    """What the steps read beside the documents: evaluation sets, word lists, models, indexes of earlier builds."""
    from athanor.data.pipeline.build import earlier_builds
    from athanor.data.steps.registry import make_all

    return [[step.compute_key() for step in make_all(recipe.data.steps)], earlier_builds(recipe)]


def _build_curated(recipe: Recipe, out: Path, origin: str, say: Say, replace: bool) -> CorpusDir:
    from athanor.data.pipeline.build import build

    if _begin(out, "corpus", origin, keep=True, replace=replace):
        say(f"corpus: done already ({out})")
        return CorpusDir.open(out)
    report = build(recipe, out, say)
    for name, source in report["sources"].items():
        kept = source["out"]["train"], source["out"]["valid"]
        n, n_bytes = (sum(split[key] for split in kept) for key in ("documents", "bytes"))
        say(
            f"corpus: {name}: {source['documents_in']:,} documents in, {n:,} out; "
            f"{source['bytes_in'] / 1e6:.2f} MB in, {n_bytes / 1e6:.2f} MB out"
        )
    say(f"corpus: report in {out / 'report.html'}")
    if report["failures"]:
        name, why = next(iter(report["failures"].items()))
        n_failed = len(report["failures"])
        told = "One job failed" if n_failed == 1 else f"{n_failed} jobs failed, the first"
        raise AthanorError(
            f"{told}: {name}: {why}. The corpus holds what the others gave",
            where=str(out),
            fix="mend the cause and run again: only what is missing is done",
        )
    _finish(out, "corpus", origin)
    return CorpusDir.open(out)


def _inputs(recipe: Recipe) -> list[Any]:
    """What the sources read, beyond the recipe: names, sizes and times of files; the Python whose library it is."""
    found: list[Any] = []
    for name, source in recipe.data.sources.items():
        if source.kind == "files":
            if not source.paths:
                raise AthanorError(
                    "the source has no paths", where=f"data.sources.{name}.paths", fix="files, folders, globs"
                )
            for file in expand(source.paths)[0]:
                found.append([name, file.name, *stamp(file)])
        elif source.kind == "stdlib":
            found.append([name, python_version()])
        elif source.kind == "synthesis":
            from athanor.data.synthesis.writing import source_inputs

            found.append([name, python_version(), *source_inputs(source.options, f"data.sources.{name}.options")])
    return found


def read_source(recipe: Recipe, name: str) -> Iterator[Document | Dropped]:
    """Documents of one source, and what could not be read."""
    source = recipe.data.sources[name]
    if source.kind in ("arithmetic", "synthesis") and not source.documents:
        raise AthanorError("how many to generate?", where=f"data.sources.{name}.documents", fix="for example 20000")
    if source.kind == "synthesis":
        from athanor.data.synthesis.writing import source_documents

        where = f"data.sources.{name}.options"
        yield from source_documents(source.documents, recipe.seed, source.options, where)
    elif source.kind == "arithmetic":
        yield from arithmetic.documents(source.documents, recipe.seed, "train", source.options)
    elif source.kind == "stdlib":
        options = dict(source.options)
        part = options.pop("part", "code")
        if options:
            where = f"data.sources.{name}.options"
            raise AthanorError(f"unknown option {next(iter(options))!r}", where=where, fix="known: part")
        yield from stdlib_documents(part)
    else:
        files, dropped = expand(source.paths)
        yield from dropped
        for file in files:
            yield from read_file(
                file,
                text_key=source.text_key,
                domain=source.domain,
                language=source.language,
                max_document_bytes=recipe.data.max_document_bytes,
            )


def _write_source(recipe: Recipe, name: str, source: SourceRecipe, out: Path, seen: dict[bytes, str]) -> SourceCount:
    """Read, deduplicate (``seen``: content hash → first place, over all sources) and split one source."""
    count = SourceCount()
    with ExitStack() as stack:
        files = {split: _split_file(out, name, split) for split in SPLITS}
        writers = {split: stack.enter_context(_jsonl_zst(file)) for split, file in files.items()}
        for item in read_source(recipe, name):
            if isinstance(item, Dropped):
                count.drop(item)
                continue
            n_bytes = count.take(item)
            key = hashlib.sha256(item.text.encode()).digest()[:16]
            if key in seen:
                count.drop(Dropped(item.id, f"duplicate: of {seen[key]}"), n_bytes)
                continue
            seen[key] = f"{name}/{item.id}"
            split: Split = "valid" if is_held_out(item.id, source.holdout) else "train"
            writers[split].write(json.dumps(asdict(item), ensure_ascii=False) + "\n")
            count.put(split, n_bytes)
        if not any(count.out[split]["documents"] for split in SPLITS):
            raise empty_error(name, source.paths or [source.kind], count)
    if not count.out["train"]["documents"]:
        # A handful of documents can all fall on the validation side; training comes first.
        files["valid"].replace(files["train"])
        with _jsonl_zst(files["valid"]):
            pass
        count.out = {"train": count.out["valid"], "valid": count.out["train"]}
    if source.holdout and not count.out["valid"]["documents"]:
        count.notes.append("too few documents for a validation split: all are for training")
    return count


def _split_file(out: Path, source: str, split: Split) -> Path:
    return out / source / f"{split}.jsonl.zst"


@contextmanager
def _jsonl_zst(path: Path) -> Iterator[io.TextIOWrapper]:
    """A text writer to a zstd file that appears under its name when the block ends well."""
    with (
        atomic_path(path) as tmp,
        open(tmp, "wb") as raw,
        zstandard.ZstdCompressor(level=3).stream_writer(raw) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
    ):
        yield text


def train_tokenizer_from_corpus(
    recipe: Recipe, corpus: CorpusDir, out: str | Path, say: Say = _quiet, replace: bool = False
) -> Tokenizer:
    """The recipe's tokenizer, in ``out``: trained on the corpus's training split, or a copy of ``tokenizer.path``."""
    out = Path(out)
    wanted = recipe.tokenizer
    origin = digest([wanted.model_dump(), corpus.fingerprint if wanted.path is None else ""])
    if _begin(out, "tokenizer", origin, replace=replace):
        say(f"tokenizer: done already ({out})")
        return Tokenizer.load(out)
    tokenizer = Tokenizer.load(wanted.path) if wanted.path else train_from_corpus(wanted, corpus, out, say)
    tokenizer.save(out)
    _finish(out, "tokenizer", origin)
    say(f"tokenizer: {tokenizer.vocab_size} tokens, {tokenizer.fingerprint[:12]}")
    return tokenizer


def tokenize_corpus(
    corpus: CorpusDir,
    tokenizer: Tokenizer,
    out: str | Path,
    say: Say = _quiet,
    replace: bool = False,
    workers: int = 0,
) -> dict[str, dict[Split, ShardSet]]:
    """Token shards of every source and split that has documents, and the shard sets opened.

    ``workers`` processes (0: as many as pay) give the same bytes as one. What is finished is kept, so a run that was
    stopped goes on behind it.
    """
    out = Path(out)
    origin = digest([corpus.fingerprint, tokenizer.fingerprint])
    if _begin(out, "tokens", origin, replace=replace):
        say(f"tokens: done already ({out})")
        return open_shards(out, tokenizer)
    for source in corpus.sources:
        for split in SPLITS:
            if not corpus.count(source, split) or _is_finished(out / source / split, origin):
                continue
            file = _split_file(corpus.path, source, split)
            _tokenize(file, tokenizer, out / source / split, origin, workers, say)
            shards = ShardSet.open(out / source / split, verify=False)
            say(f"tokens: {source}/{split}: {shards.n_docs:,} documents, {shards.n_tokens:,} tokens")
    _finish(out, "tokens", origin)
    return open_shards(out, tokenizer)


def open_shards(
    out: str | Path, tokenizer: Tokenizer | None = None, verify: bool = True
) -> dict[str, dict[Split, ShardSet]]:
    """Source → split → shards of a finished directory.

    ``AthanorError`` for an unfinished or damaged one and for a tokenizer of another vocabulary.
    """
    fingerprint = tokenizer.fingerprint if tokenizer else None
    if is_url(out):
        return open_remote(str(out), STAGE, fingerprint)
    out = Path(out)
    if not (out / STAGE).is_file() or not read_json(out / STAGE).get("done"):
        raise AthanorError("no finished token shards here", where=str(out), fix="tokenize the corpus first")
    found: dict[str, dict[Split, ShardSet]] = {}
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        splits: dict[Split, ShardSet] = {
            split: ShardSet.open(folder / split, verify, fingerprint) for split in SPLITS if (folder / split).is_dir()
        }
        found[folder.name] = splits
    return found


def _is_finished(path: Path, origin: str) -> bool:
    if (path / INDEX).is_file() and ShardSet.open(path, verify=False).index.get("origin") == origin:
        return True
    remove_tree(path)
    return False


def _tokenize(file: Path, tokenizer: Tokenizer, out: Path, origin: str, workers: int, say: Say) -> None:
    if not workers:
        # One process already encodes on all cores and only reads and writes on one, so few cores gain nothing more.
        workers = usable_cores() if usable_cores() > 2 and file.stat().st_size > UNIT_BYTES else 1
    texts = (line or b"" for line in lines(file))
    tokenise(texts, tokenizer, out, origin=origin, workers=workers, say=say)


def _begin(out: Path, kind: str, origin: str, keep: bool = False, replace: bool = False) -> bool:
    """Whether ``out`` is done. Marks a new directory as begun; refuses one of another origin, or not ours.

    ``keep``: what an unfinished build left is of use to this one. ``replace``: a finished one may be built over.
    """
    state = read_json(out / STAGE) if (out / STAGE).is_file() else None
    if isinstance(state, dict) and state.get("kind") == kind:
        if state.get("origin") == origin:
            return bool(state.get("done"))
        if state.get("done") and not replace:
            raise AthanorError(
                f"this {kind} was made from another recipe, or its files have changed since",
                where=str(out),
                fix="another directory, or delete this one" + (", or --replace" if keep else ""),
            )
        if not keep:
            remove_tree(out)  # begun from another recipe and never finished: nothing to keep
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AthanorError(f"not an empty directory, and not one of a {kind}", where=str(out), fix="another directory")
    write_json(out / STAGE, {"kind": kind, "origin": origin, "done": False})
    return False


def _finish(out: Path, kind: str, origin: str) -> None:
    write_json(out / STAGE, {"kind": kind, "origin": origin, "done": True})
