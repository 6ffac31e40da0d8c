"""``athanor data extract``: one JSON object a document, what is not read with its reason, nothing half written."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from athanor.cli import app
from tests.data.extract.made import docx, pdf, text_at

PAGE = (
    "<html><head><title>Page</title></head><body><article><h1>Head</h1><p>"
    + "Words of it. " * 40
    + "</p></article></body>"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "in"
    (inside / "sub").mkdir(parents=True)
    (inside / "a.txt").write_text("plain 文字")
    (inside / "b.docx").write_bytes(docx("<w:p><w:r><w:t>from Word</w:t></w:r></w:p>"))
    (inside / "sub" / "c.pdf").write_bytes(pdf([text_at(72, 700, "from a PDF")]))
    (inside / "d.html").write_text(PAGE)
    (inside / "e.jsonl").write_text('{"body": "row", "id": "x", "url": "http://u"}\n{"other": 1}\n')
    (inside / "f.pdf").write_bytes(b"%PDF-1.4 broken")
    (inside / "g.jsonl.gz").write_bytes(gzip.compress(b'{"body": "r"}\n' * 3000)[:40])
    (inside / "h.png").write_bytes(b"\x89PNG")
    return inside


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", "extract", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_folder_of_everything(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.jsonl"
    code, said = run(folder, "--out", out, "--text-key", "body")
    found = {row["id"]: row for row in rows(out)}
    assert code == 0 and set(found["in/a.txt"]) == {"id", "path", "text", "meta"}
    texts = {name: row["text"].strip() for name, row in found.items() if name != "in/d.html"}
    assert texts == {
        "in/a.txt": "plain 文字",
        "in/b.docx": "from Word",
        "in/sub/c.pdf": "from a PDF",
        "in/e.jsonl#1": "row",
    }
    assert found["in/d.html"]["text"].startswith("# Head") and found["in/d.html"]["meta"]["title"] == "Page"
    assert found["in/e.jsonl#1"]["meta"] == {"format": "jsonl", "id": "x", "url": "http://u"}
    assert found["in/sub/c.pdf"]["path"] == str(folder / "sub" / "c.pdf")
    dropped = {row["id"]: row["reason"].split(":")[0] for row in rows(tmp_path / "deep" / "out.dropped.jsonl")}
    assert dropped == {
        "in/e.jsonl#2": "row without text",
        "in/f.pdf": "broken pdf",
        "in/g.jsonl.gz": "damaged",
        "in/h.png": "extension not read",
    }
    assert "5 documents" in said and "4 not read" in said and "1 broken pdf" in said


def test_globs_and_running_again_read_no_own_output(folder: Path, tmp_path: Path) -> None:
    out = folder / "out.jsonl"
    for _ in range(2):
        assert run(folder / "*.txt", folder / "*.jsonl", "--out", out, "--text-key", "body")[0] == 0
    assert [row["id"] for row in rows(out)] == ["a.txt", "e.jsonl#1"]
    run(folder / "a.txt", "--out", out)
    assert not (folder / "out.dropped.jsonl").exists()


def test_nothing_read_is_an_error_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    for path, reason in ((folder / "f.pdf", "1 broken pdf"), (folder / "*.nothing", "no file matches")):
        code, said = run(path, "--out", out)
        assert code == 2 and reason in " ".join(said.split())
    assert list(tmp_path.glob("*out*")) == [] and list(tmp_path.glob(".*")) == []


def test_size_limit_and_other_encodings(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("x" * 2000)
    (tmp_path / "old.txt").write_bytes("用旧编码写成的一段中文文字，很长很长。".encode("gb18030"))
    out = tmp_path / "o" / "out.jsonl"
    run(tmp_path / "*.txt", "--out", out, "--max-document-bytes", "1000")
    assert [(row["id"], row["meta"]["encoding"]) for row in rows(out)] == [("old.txt", "gb18030")]
    assert rows(tmp_path / "o" / "out.dropped.jsonl")[0]["reason"].startswith("larger than max_document_bytes: 2000")
    code, said = run(tmp_path / "old.txt", "--out", out, "--only-utf8")
    assert code == 2 and "1 not UTF-8" in said


def test_packed_output(folder: Path, tmp_path: Path) -> None:
    import zstandard

    run(folder / "a.txt", "--out", tmp_path / "out.jsonl.zst")
    raw = zstandard.ZstdDecompressor().stream_reader((tmp_path / "out.jsonl.zst").read_bytes()).read()
    assert json.loads(raw)["text"] == "plain 文字"


def test_rows_of_web_pages_and_the_number_of_workers(folder: Path, tmp_path: Path) -> None:
    rows_file = folder / "pages.jsonl"
    rows_file.write_text(
        "".join(json.dumps({"html": page, "url": "http://u"}) + "\n" for page in (PAGE, "<html></html>"))
    )
    out = tmp_path / "pages" / "out.jsonl"
    run(rows_file, "--out", out, "--text-key", "html", "--html-rows")
    (row,) = rows(out)
    assert row["text"].startswith("# Head") and row["meta"]["url"] == "http://u" and row["meta"]["title"] == "Page"
    assert rows(out.with_name("out.dropped.jsonl")) == [
        {"id": "pages.jsonl#2", "path": str(rows_file), "reason": "no text"}
    ]
    for workers in ("1", "2"):
        run(folder, "--out", tmp_path / workers / "o.jsonl", "--text-key", "body", "--workers", workers)
    one, two = ((tmp_path / workers / "o.jsonl").read_bytes() for workers in ("1", "2"))
    assert one == two and len(one.splitlines()) == 5


def test_results_go_to_local_paths_never_to_a_folder_named_like_a_url(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"data": {"sources": {"a": {"paths": [f"file://{folder}/a.txt"]}}}}))
    for words in (["extract", str(folder)], ["build", str(recipe)], ["synthesise", "--n", "3"]):
        for url in ("s3://bucket/out.jsonl", "memory://out.jsonl"):
            result = CliRunner().invoke(app, ["data", *words, "--out", url])
            assert result.exit_code == 2 and "not to a URL" in result.output and url in result.output
    assert run(f"file://{folder}/a.txt", "--out", f"file://{tmp_path}/found.jsonl")[0] == 0
    assert rows(tmp_path / "found.jsonl")[0]["text"] == "plain 文字"
    assert {path.name for path in tmp_path.iterdir()} == {"in", "recipe.yaml", "found.jsonl"}
