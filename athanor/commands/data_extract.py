"""``athanor data extract``: documents of any format → jsonl, with everything that gave no text and why."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from athanor.commands.common import local_out
from athanor.errors import AthanorError, MissingLibrary

if TYPE_CHECKING:
    from athanor.data.readers import InputFile
    from athanor.data.types import Document, Dropped

#: Reasons that a person is shown, the most frequent first.
_SHOWN_REASONS = 12


def register(data_app: typer.Typer) -> None:
    """Add the command to ``athanor data``."""
    data_app.command("extract")(data_extract)


def data_extract(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Files, folders, globs or URLs (s3://…).", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="jsonl to write; .zst packs it.",
            show_default=False,
            callback=local_out,
        ),
    ],
    text_key: Annotated[str, typer.Option(help="Field of jsonl, parquet and Arrow rows that holds the text.")] = "text",
    max_document_bytes: Annotated[int, typer.Option(min=1, help="Larger documents are counted and left out.")] = (
        64_000_000
    ),
    html_rows: Annotated[
        bool, typer.Option("--html-rows", help="The rows' text field holds web pages: take their main text.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the output is the same whatever their number.")] = 1,
    only_utf8: Annotated[
        bool, typer.Option("--only-utf8", help="Leave out text in other encodings instead of decoding it.")
    ] = False,
) -> None:
    """Text of documents of any format, one JSON object a document: id, path, text, meta.

    What gives no text is counted with its reason and listed in FILE.dropped.jsonl.
    """
    from athanor.data.pipeline.show import Bars
    from athanor.data.readers import expand
    from athanor.data.types import Dropped
    from athanor.train.progress import say

    files, ignored = expand(paths)
    own = {out.resolve(), _dropped_path(out).resolve()}
    files = [file for file in files if isinstance(file.path, str) or file.path.resolve() not in own]
    count = _Count()
    with _writer(out) as good, _writer(_dropped_path(out)) as bad:
        for item in ignored:
            count.drop(item.reason)
            _write(bad, {"id": item.id, "reason": item.reason})
        with Bars(say) as bars, bars.stage("extract") as tick:
            options = _Options(text_key, max_document_bytes, not only_utf8, html_rows)
            for number, (file, items) in enumerate(_read_all(files, options, workers), 1):
                for found in items:
                    if isinstance(found, Dropped):
                        count.drop(found.reason)
                        _write(bad, {"id": found.id, "path": str(file.path), "reason": found.reason})
                    else:
                        count.take(found)
                        row = {"id": found.id, "path": str(file.path), "text": found.text, "meta": found.meta}
                        _write(good, row)
                tick(number, len(files))
        if not count.documents:
            why = count.reasons() or "no file"
            raise AthanorError(f"nothing could be read: {why}", where=", ".join(paths), fix="see docs/data-reading.md")
    if not count.dropped:
        _dropped_path(out).unlink(missing_ok=True)
    for line in count.summary(out):
        typer.echo(line, err=True)


class _Count:
    """Documents, bytes and reasons."""

    def __init__(self) -> None:
        self.documents = self.n_bytes = 0
        self.dropped: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()

    def take(self, document: Document) -> None:
        """Count a document that is written."""
        self.documents += 1
        self.n_bytes += len(document.text.encode())
        self.formats[str(document.meta.get("format"))] += 1

    def drop(self, reason: str) -> None:
        """Count what is not, by the first words of its reason."""
        self.dropped[reason.split(":")[0]] += 1

    def reasons(self) -> str:
        """The reasons, the most frequent first."""
        return ", ".join(f"{n} {reason}" for reason, n in self.dropped.most_common(_SHOWN_REASONS))

    def summary(self, out: Path) -> list[str]:
        """What a person is told at the end."""
        formats = ", ".join(f"{n} {name}" for name, n in self.formats.most_common())
        lines = [f"{self.documents:,} documents ({formats}), {self.n_bytes:,} bytes of text in {out}"]
        if self.dropped:
            total = sum(self.dropped.values())
            lines.append(f"{total:,} not read: {self.reasons()}; each in {_dropped_path(out)}")
        return lines


@dataclass(frozen=True, slots=True)
class _Options:
    text_key: str
    max_document_bytes: int
    tolerant: bool
    html_rows: bool


def _documents(file: InputFile, options: _Options) -> Iterator[Document | Dropped]:
    """Documents of a file; one that cannot be read to its end costs its rest and nothing else."""
    from athanor.data.readers import read_file
    from athanor.data.types import Dropped

    try:
        yield from read_file(
            file,
            text_key=options.text_key,
            max_document_bytes=options.max_document_bytes,
            tolerant=options.tolerant,
            html_rows=options.html_rows,
        )
    except MissingLibrary:
        raise
    except AthanorError as error:
        yield Dropped(file.name, f"damaged: {error.what}")


def _collected(file: InputFile, options: _Options) -> list[Document | Dropped]:
    """What a worker sends back: all of a file that is one document or few."""
    return list(_documents(file, options))


def _read_all(
    files: Sequence[InputFile], options: _Options, workers: int
) -> Iterator[tuple[InputFile, Iterable[Document | Dropped]]]:
    """Files in their order with their documents. Files of rows are read here as a stream: they may hold millions."""
    from athanor.data.read.locate import CONTAINER_SUFFIXES, inner_suffix

    if workers == 1:
        yield from ((file, _documents(file, options)) for file in files)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        ahead: deque[tuple[InputFile, Future[list[Document | Dropped]] | None]] = deque()
        waiting = iter(files)
        while True:
            for file in islice(waiting, 4 * workers - len(ahead)):
                stream = inner_suffix(file.name) in CONTAINER_SUFFIXES
                ahead.append((file, None if stream else pool.submit(_collected, file, options)))
            if not ahead:
                return
            file, job = ahead.popleft()
            yield file, _documents(file, options) if job is None else job.result()


def _write(stream: IO[str], row: Mapping[str, object]) -> None:
    stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _dropped_path(out: Path) -> Path:
    name = out.name.removesuffix(".zst").removesuffix(".jsonl")
    return out.with_name(f"{name}.dropped.jsonl")


@contextmanager
def _writer(path: Path) -> Iterator[IO[str]]:
    """A text file, packed where its name ends in .zst, that appears under its name when the block ends well."""
    import io

    import zstandard

    from athanor.files import atomic_path

    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(open(stack.enter_context(atomic_path(path)), "wb"))
        if path.suffix == ".zst":
            raw = stack.enter_context(zstandard.ZstdCompressor(level=3).stream_writer(raw))
        yield stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="\n"))
