"""Texts for vocabularies, by domain and language: from a finished corpus, or from files."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from athanor.data.types import Document, Dropped
from athanor.errors import AthanorError


class Corpus(Protocol):
    """What is needed of a corpus directory (``athanor.data.build.CorpusDir``)."""

    @property
    def report(self) -> Mapping[str, Any]:
        """What `data build` counted."""

    @property
    def sources(self) -> list[str]:
        """Names."""

    def documents(self, source: str, split: Any) -> Iterator[Document]:
        """Documents of a source and split."""


def domain_of(document: Document) -> str:
    """The document's domain; of general text, domain and language: Chinese and English are domains of their own."""
    if document.domain in ("", "general") and document.language not in ("", "und"):
        return f"general/{document.language}"
    return document.domain or "general"


@dataclass
class TrainingTexts:
    """(domain, text) of a corpus's training split, always of the source with the fewest bytes so far, until
    ``max_bytes``. Afterwards ``natural_bytes`` tells how large each domain is in the whole corpus."""

    corpus: Corpus
    max_bytes: int
    _read: dict[str, Counter[str]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """The texts."""
        sources = self.corpus.sources
        self._read = {source: Counter() for source in sources}
        streams = [self.corpus.documents(source, "train") for source in sources]
        behind, total = [(0, number) for number in range(len(streams))], 0
        while behind and total < self.max_bytes:
            given, number = heapq.heappop(behind)
            document = next(streams[number], None)
            if document is None:
                continue
            n_bytes = len(document.text.encode("utf-8", "replace"))
            total += n_bytes
            heapq.heappush(behind, (given + n_bytes, number))
            domain = domain_of(document)
            self._read[sources[number]][domain] += n_bytes
            yield domain, document.text

    @property
    def natural_bytes(self) -> dict[str, int]:
        """Bytes of each domain in the whole training split, by what was read of each source."""
        total: Counter[str] = Counter()
        for source, read in self._read.items():
            known = self.corpus.report["sources"].get(source, {}).get("out", {}).get("train", {}).get("bytes", 0)
            seen = sum(read.values())
            for domain, n in read.items():
                total[domain] += max(n, n * known // seen)
        return dict(total)


@dataclass
class Sample:
    """Texts to measure with, at most ``max_bytes`` of each domain: domain → texts, language → texts.

    ``seen``: bytes of each domain, those not held included. Long documents are cut into parts at line ends.
    """

    max_bytes: int = 2_000_000
    domain: dict[str, list[str]] = field(default_factory=dict)
    language: dict[str, list[str]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, document: Document) -> None:
        """Take a document, unless its domain is full."""
        name = domain_of(document)
        for part in _parts(document.text.encode("utf-8", "replace").decode()):
            if self.seen[name] < self.max_bytes:
                self.domain.setdefault(name, []).append(part)
                self.language.setdefault(document.language or "und", []).append(part)
            self.seen[name] += len(part.encode())

    @property
    def groups(self) -> dict[str, dict[str, list[str]]]:
        """For ``measure.comparison``."""
        return {"domain": self.domain, "language": self.language}


def _parts(text: str, n_chars: int = 20_000) -> Iterator[str]:
    """A text in parts that end with a line, of about ``n_chars``."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + n_chars) + 1
        yield text[start : end or len(text)]
        start = end or len(text)


def held_out(corpus: Corpus, max_bytes: int = 2_000_000) -> tuple[Sample, list[str]]:
    """(sample of the validation split, sources that have none: of these it is of the training split)."""
    sample, without = Sample(max_bytes), []
    for source in corpus.sources:
        if not _fill(sample, corpus, source, "valid"):
            without.append(source)
            _fill(sample, corpus, source, "train")
    if not sample.domain:
        raise AthanorError("the corpus has no text", where="data.sources", fix="add a source with documents")
    return sample, without


def _fill(sample: Sample, corpus: Corpus, source: str, split: str) -> bool:
    n = 0
    for document in corpus.documents(source, split):
        sample.add(document)
        n += 1
    return n > 0


def from_files(data: Iterable[str], max_bytes: int) -> Sample:
    """A sample of ``[DOMAIN[/LANGUAGE]=]PATH`` arguments: files, folders, globs, or what `data build` wrote.

    Documents of a corpus keep the domain and language they have; of files the domain's default is the file's name.
    """
    from athanor.data.build import CorpusDir
    from athanor.data.readers import expand, read_file

    sample = Sample(max_bytes)
    for argument in data:
        name, _, path = argument.rpartition("=")
        folder = next((at for at in (Path(path), Path(path) / "corpus") if (at / "report.json").is_file()), None)
        if folder is not None and not name:
            corpus = CorpusDir.open(folder)
            for source in corpus.sources:
                _ = _fill(sample, corpus, source, "valid") or _fill(sample, corpus, source, "train")
            continue
        domain, _, language = (name or Path(path).name.split(".")[0] or "texts").partition("/")
        for file in expand([path])[0]:
            for item in read_file(file, domain=domain, language=language or "und"):
                if not isinstance(item, Dropped):
                    # What was named here is meant for all of the file, "general" too.
                    sample.add(replace(item, domain=domain))
    if not sample.domain:
        raise AthanorError("no text in what --data names", where=", ".join(data), fix="files, folders or globs of text")
    return sample
