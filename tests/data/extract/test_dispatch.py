"""What a file is, by its bytes and its name, and that whatever it is it ends in documents or in reasons."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
from pathlib import Path

import openpyxl
import pytest
import zstandard

from athanor.data.extract.dispatch import Options, extract, extract_bytes, kind_of
from athanor.data.extract.types import Extracted, Unreadable
from tests.data.extract.made import bomb, docx, pdf, text_at

PAPER = rb"\documentclass{article}\begin{document}A paper with $x$.\end{document}"
PAGE = b"<!DOCTYPE html><html><head><title>T</title></head><body><article><h1>Head</h1><p>" + b"Some text. " * 40
PAGE += b"</p></article></body></html>"
WORD = docx("<w:p><w:r><w:t>in Word</w:t></w:r></w:p>")
PDF = pdf([text_at(72, 700, "in a PDF")])


def xlsx() -> bytes:
    made = openpyxl.Workbook()
    made.active.append(["a", 1])
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def tar(name: str, raw: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        info = tarfile.TarInfo(name)
        info.size = len(raw)
        made.addfile(info, io.BytesIO(raw))
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "raw", "kind", "text"),
    [
        ("a.pdf", PDF, "pdf", "in a PDF"),
        ("wrong.html", PDF, "pdf", "in a PDF"),
        ("wrong.pdf", PAGE, "html", "# Head"),
        ("no_extension", PAGE, "html", "# Head"),
        ("wrong.docx", xlsx(), "xlsx", "| a | 1 |"),
        ("a.docx", WORD, "docx", "in Word"),
        ("a.docx.gz", gzip.compress(WORD), "docx", "in Word"),
        ("a.tex", PAPER, "latex", "A paper with $x$."),
        ("2401.00001.tar.gz", gzip.compress(tar("ms.tex", PAPER)), "latex", "A paper with $x$."),
        ("2401.00001", gzip.compress(tar("ms.tex", PAPER)), "latex", "A paper with $x$."),
        ("a.md", b"# <html> in Markdown", "markdown", "# <html> in Markdown"),
        ("a.md.zst", zstandard.ZstdCompressor().compress(b"# packed"), "markdown", "# packed"),
        ("a.py", b"x = '<html>'\n", "code", "x = '<html>'"),
        ("Makefile", b"all:\n\techo\n", "code", "all:"),
        ("README", b"What it is", "text", "What it is"),
        ("a.xml", b'<article xmlns="http://docbook.org/ns/docbook"><para>x</para></article>', "text", "<para>x"),
        ("a.xml", b"<note><p>plain</p></note>", "text", "<note><p>plain</p></note>"),
        ("a.xml", b"<article><front/><body><p>From JATS.</p></body></article>", "jats", "From JATS."),
        ("a.ipynb", b'{"cells": [{"cell_type": "markdown", "source": "cell"}]}', "ipynb", "cell"),
    ],
)
def test_formats_are_told_by_their_bytes(tmp_path: Path, name: str, raw: bytes, kind: str, text: str) -> None:
    (tmp_path / name).write_bytes(raw)
    (found,) = extract(tmp_path / name)
    assert isinstance(found, Extracted) and found.meta["format"] == kind and text in found.text


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(50), "not a document: image PNG"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "not read: an Office 97 file"),
        ("a.zip", bomb("a.txt", 1 << 20), "archive not read"),
        ("a.docx", bomb("word/document.xml"), "compression ratio too high"),
        ("a.xlsx", bomb("xl/worksheets/sheet1.xml"), "compression ratio too high"),
        ("a.pptx", bomb("ppt/presentation.xml"), "compression ratio too high"),
        ("a.epub", bomb("META-INF/container.xml"), "compression ratio too high"),
        ("a.txt.gz", gzip.compress(bytes(5_000_000)), "too large after unpacking"),
        ("a.txt.gz", gzip.compress(b"half " * 9000, mtime=0)[:50], "damaged: gzip stream"),
        ("a.txt.zst", zstandard.ZstdCompressor().compress(bytes(range(256)) * 90)[:-9], "damaged"),
        ("a.pdf", PDF[: len(PDF) // 3], "broken pdf"),
        ("a.txt", b"", "empty"),
        ("a.html", b"<html></html>", "no text"),
        ("a.bin", bytes(range(32)) * 40, "binary"),
        ("a.txt", b"word " * 300_000, "larger than max_document_bytes: 1500000 bytes"),
        ("a.tar", tar("readme.txt", b"x"), "no LaTeX document"),
    ],
)
def test_what_gives_no_text_says_why(tmp_path: Path, name: str, raw: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(raw)
    (found,) = extract(tmp_path / name, max_document_bytes=1_000_000)
    assert isinstance(found, Unreadable) and found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("raw", "encoding", "text"),
    [
        ("héllo wörld, çava".encode("latin-1"), "cp1252", "héllo wörld, çava"),
        ("这是一个用旧编码写的中文文件。".encode("gb18030"), "gb18030", "这是一个用旧编码写的中文文件。"),
        ("mixed 文字".encode("utf-16"), "utf-16-le", "mixed 文字"),
        ("plain 文字".encode(), None, "plain 文字"),
        (b"\xef\xbb\xbfmark", None, "mark"),
    ],
)
def test_encodings_are_detected_and_said(raw: bytes, encoding: str | None, text: str) -> None:
    found = extract_bytes(raw, "a.txt", Options())
    assert found.text == text and found.meta.get("encoding") == encoding


def test_nul_bytes_are_taken_out_of_text_and_said() -> None:
    found = extract_bytes(b"a few words\0 and one more" + b" word" * 40, "a.txt", Options())
    assert found.text.startswith("a few words and") and found.meta["repaired"] == ["control characters"]
    with pytest.raises(Unreadable, match="zero byte"):
        extract_bytes(b"a\0b", "a.txt", Options(tolerant=False))


def test_parts_of_a_paper_are_not_documents_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "sections").mkdir()
    (tmp_path / "main.tex").write_bytes(PAPER.replace(b"A paper", rb"\input{sections/one} A paper"))
    (tmp_path / "sections" / "one.tex").write_bytes(b"Section one.")
    (tmp_path / "alone.tex").write_bytes(b"Standing alone.")
    part = rb"\documentclass[../main]{subfiles}\begin{document}A part that compiles alone.\end{document}"
    (tmp_path / "sections" / "two.tex").write_bytes(part)
    (tmp_path / "book.tex").write_bytes(PAPER.replace(b"A paper", rb"\subfile{sections/two}"))
    found = {path.name: next(iter(extract(path))) for path in tmp_path.rglob("*.tex")}
    assert isinstance(found["main.tex"], Extracted) and found["main.tex"].text.startswith("Section one. A paper")
    assert isinstance(found["one.tex"], Unreadable) and found["one.tex"].reason == "part of another document: main.tex"
    assert isinstance(found["two.tex"], Unreadable) and found["two.tex"].reason == "part of another document: book.tex"
    assert isinstance(found["alone.tex"], Extracted) and found["alone.tex"].text == "Standing alone.\n"


def test_a_library_that_fails_in_its_own_way_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import athanor.data.extract.docx as module

    (tmp_path / "a.docx").write_bytes(WORD)
    for error, reason in ((KeyError("x"), "broken: KeyError"), (RecursionError(), "broken: nested too deep")):

        def fail(raw: bytes, error: Exception = error) -> Extracted:
            raise error

        monkeypatch.setattr(module, "extract_docx", fail)
        (found,) = extract(tmp_path / "a.docx")
        assert isinstance(found, Unreadable) and found.reason.startswith(reason)


def test_kinds_of_rows_go_by_name_even_where_they_are_damaged() -> None:
    assert kind_of("a.jsonl.gz", b"\x1f\x8b") == kind_of("a.jsonl", b"%PDF-") == "jsonl"
    assert kind_of("a.parquet", b"garbage") == "parquet" and kind_of("data", b"PAR1") == "parquet"


def test_a_missing_library_is_no_fault_of_the_document(tmp_path, monkeypatch):
    """A build must not drop every page because something is not installed."""
    from athanor.data.pipeline import ingest
    from athanor.data.readers import InputFile
    from athanor.errors import MissingLibrary
    from athanor.recipe.schema import DataRecipe, SourceRecipe

    page = tmp_path / "a.html"
    page.write_text("<html><body><p>" + "Words of a page. " * 40 + "</p></body></html>")
    monkeypatch.setitem(sys.modules, "lxml.html", None)
    with pytest.raises(MissingLibrary, match="a library is missing"):
        list(ingest._file_items(InputFile(page, "a.html"), SourceRecipe(), DataRecipe()))
