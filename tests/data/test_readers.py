"""Every format, and every way a file can be wrong: counted with its reason, or refused by its name."""

from __future__ import annotations

import datetime
import gzip
import json
import random
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard

from athanor.data.readers import expand, json_rows, lines, read_file, stamp
from athanor.data.types import Document, Dropped
from athanor.errors import AthanorError

ROWS = [{"text": "one 一"}, {"text": "two"}, {"body": "no text"}, {"text": 3}, {"text": "  "}, {"text": "\ud800"}]
GOOD = ["one 一", "two"]


def read(*paths: Path, **options: object) -> tuple[list[Document], list[Dropped]]:
    files, dropped = expand(paths)
    found = [item for file in files for item in read_file(file, **options)]  # type: ignore[arg-type]
    documents = [item for item in found if isinstance(item, Document)]
    return documents, dropped + [item for item in found if isinstance(item, Dropped)]


def jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a.cpp", "odd.name", "no_extension"])
def test_text_files_are_one_document(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("héllo\r\n世界\n".encode())
    documents, dropped = read(tmp_path / name, domain="d", language="zh")
    kind = {"a.md": "markdown", "a.py": "code", "a.cpp": "code"}.get(name, "text")
    assert documents == [Document(name, "héllo\r\n世界\n", "d", "zh", {"format": kind})] and not dropped


def test_utf8_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read(tmp_path / "a.txt")[0][0].text == "hello"


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.zst", ".jsonl.gz", ".ndjson", ".parquet"])
def test_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        values = [row.get("text") if isinstance(row.get("text"), str) else None for row in ROWS[:5]]
        pyarrow.parquet.write_table(pyarrow.table({"text": values, "n": range(5)}), path)
    else:
        raw = jsonl(ROWS) + b"\n{broken\n[1]\n\xff\n"
        pack = {".jsonl.zst": zstandard.ZstdCompressor().compress, ".jsonl.gz": gzip.compress}.get(suffix, bytes)
        path.write_bytes(pack(raw))
    documents, dropped = read(path)
    assert [d.text for d in documents] == GOOD
    assert [d.id for d in documents] == [f"rows{suffix}#1", f"rows{suffix}#2"]
    kinds = [d.reason.split(":")[0] for d in dropped]
    assert kinds[:3] == ["row without text", "row without text", "empty"]
    if suffix != ".parquet":
        assert kinds[3:] == ["not UTF-8", "not JSON", "row without text", "not UTF-8"]
        assert dropped[-1].id == f"rows{suffix}#10"


def test_other_text_key_and_missing_column(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a", "b"]}), tmp_path / "x.parquet")
    assert [d.text for d in read(tmp_path / "x.parquet", text_key="body")[0]] == ["a", "b"]
    documents, dropped = read(tmp_path / "x.parquet")
    assert not documents and [d.reason for d in dropped] == ["row without text: no column 'text' in body"] * 2


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "binary: zero byte at offset 8"),
        ("héllo".encode("latin-1"), "not UTF-8: byte 0xe9 at offset 1"),
        ("世界".encode("gb18030"), "not UTF-8: byte 0xca at offset 0"),
        ("hello".encode("utf-16"), "not UTF-8: begins with the mark of UTF-16 or UTF-32"),
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"x" * 101, "larger than max_document_bytes: 101 bytes"),
    ],
)
def test_unreadable_files_are_dropped_with_their_reason(tmp_path: Path, raw: bytes, reason: str) -> None:
    (tmp_path / "bad.txt").write_bytes(raw)
    assert read(tmp_path / "bad.txt", max_document_bytes=100) == ([], [Dropped("bad.txt", reason)])


@pytest.mark.parametrize("size", [200, 2_000])
def test_long_rows_are_dropped_and_the_next_is_read(tmp_path: Path, size: int) -> None:
    (tmp_path / "r.jsonl").write_bytes(jsonl([{"text": "x" * size}, {"text": "fine"}]))
    documents, dropped = read(tmp_path / "r.jsonl", max_document_bytes=100)
    assert [d.id for d in documents] == ["r.jsonl#2"]
    assert len(dropped) == 1 and dropped[0].reason.startswith("larger than max_document_bytes")


def test_zstd_of_several_frames_and_bombs(tmp_path: Path) -> None:
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "f.zst").write_bytes(pack(b"a\nb") + pack(b"c\n" * 300_000) + pack(b"d"))
    found = list(lines(tmp_path / "f.zst"))
    assert found[:2] == [b"a\n", b"bc\n"] and found[-1] == b"d" and len(found) == 300_002


@pytest.mark.parametrize("suffix", [".jsonl.zst", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_damaged_containers_are_named_and_refused(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"cut{suffix}"
    raw = jsonl([{"text": f"row {i} {i * i}"} for i in range(2000)])
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": raw.decode().splitlines()}), path)
    else:
        path.write_bytes((zstandard.ZstdCompressor().compress if suffix.endswith("zst") else gzip.compress)(raw))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"garbage!" * 100)
    with pytest.raises(AthanorError, match=f"cut{suffix}"):
        read(path)


@pytest.mark.parametrize("suffix", [".jsonl.zst", ".jsonl.gz", ".parquet", ".arrow"])
def test_tolerant_reading_takes_what_is_whole_and_counts_the_damage(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    texts = [f"row {i} {random.Random(i).random()}" for i in range(20_000)]
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    elif suffix == ".arrow":
        table = pyarrow.table({"text": texts})
        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=500)
    else:
        pack = zstandard.ZstdCompressor().compress if suffix.endswith("zst") else gzip.compress
        path.write_bytes(pack(jsonl([{"text": text} for text in texts])))
    assert [d.text for d in read(path, tolerant=True)[0]] == texts
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    (tmp_path / "good.txt").write_text("still read")
    documents, dropped = read(path, tmp_path / "good.txt", tolerant=True)
    whole = [d.text for d in documents[:-1]]
    assert whole == texts[: len(whole)] and documents[-1].text == "still read"
    assert len(whole) > 5_000 or suffix == ".parquet"  # a parquet file is nothing without its end
    assert [d.reason.split(":")[0] for d in dropped] == ["damaged"]
    with pytest.raises(AthanorError, match=f"cut{suffix}"):
        read(path)


def test_rows_keep_their_own_id_url_and_meta(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "id": "same", "url": "http://x", "meta": {"k": 1, "format": "theirs"}, "other": "x"},
        {"text": "b", "id": "same", "metadata": '{"k": 2}', "meta": "text", "title": ""},
        {"text": "c", "id": 7, "url": "u" * 3000, "meta": {"long": "x" * 30_000}},
        {"text": "d", "meta": {"deep": json.loads("[" * 500 + "]" * 500)}},
    ]
    (tmp_path / "r.jsonl").write_bytes(jsonl(rows))
    documents, dropped = read(tmp_path / "r.jsonl")
    assert not dropped and [d.id for d in documents] == [f"r.jsonl#{n}" for n in (1, 2, 3, 4)]
    assert documents[0].meta == {"k": 1, "id": "same", "url": "http://x", "format": "jsonl"}
    assert documents[1].meta == {"k": 2, "id": "same", "format": "jsonl"}
    assert documents[2].meta == {"id": 7, "format": "jsonl"}
    when = datetime.datetime(2024, 1, 2)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["e"], "id": ["x"], "date": [when]}), tmp_path / "p.parquet")
    kept = read(tmp_path / "p.parquet")[0][0].meta
    assert kept["id"] == "x" and kept["format"] == "parquet"


def test_broken_rows_are_repaired_where_that_is_asked_for(tmp_path: Path) -> None:
    raw = jsonl([{"text": "lone \ud800 surrogate"}, {"text": "nul \0 byte"}])
    raw += '{"text": "中文文本在旧编码里，还有一些字"}\n'.encode("gb18030") + b"[" * 100_000 + b"]" * 100_000
    (tmp_path / "r.jsonl").write_bytes(raw)
    documents, dropped = read(tmp_path / "r.jsonl", tolerant=True)
    assert [d.text for d in documents] == ["lone \ufffd surrogate", "nul  byte", "中文文本在旧编码里，还有一些字"]
    assert (
        documents[0].meta["repaired"] and documents[1].meta["repaired"] and documents[2].meta["encoding"] == "gb18030"
    )
    assert [d.reason for d in dropped] == ["not JSON: nested too deep"]
    documents, dropped = read(tmp_path / "r.jsonl")
    assert [d.text for d in documents] == ["nul \0 byte"] and len(dropped) == 3


def test_rows_as_programs_leave_them(tmp_path: Path) -> None:
    mark = "\ufeff".encode()
    raw = (
        mark + b'{"text":"one"}\n' + mark + b'{"text":"two","meta":{"x":NaN,"y":-Infinity}}\n{"text":"raw \x01 byte"}\n'
    )
    (tmp_path / "r.jsonl").write_bytes(raw)
    documents, dropped = read(tmp_path / "r.jsonl", tolerant=True)
    assert [d.text for d in documents] == ["one", "two", "raw  byte"] and not dropped
    assert documents[1].meta == {"x": None, "y": None, "format": "jsonl"} and documents[2].meta["repaired"]
    json.loads(json.dumps(documents[1].meta, allow_nan=False))
    documents, dropped = read(tmp_path / "r.jsonl")
    assert [d.text for d in documents] == ["one", "two"] and dropped[0].reason.startswith("not JSON")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_rows_in_utf_16_are_read_where_repair_is_asked_for(tmp_path: Path, encoding: str) -> None:
    text = '{"text":"行一"}\n{"text":"two \u0a0a \u220a"}\n'
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "r.jsonl").write_bytes((mark + text).encode(encoding))
    documents, dropped = read(tmp_path / "r.jsonl", tolerant=True)
    assert [d.text for d in documents] == ["行一", "two \u0a0a \u220a"] and not dropped
    assert documents[0].meta["encoding"] == encoding[:6]
    assert not read(tmp_path / "r.jsonl")[0]


def test_binary_columns_hold_text_and_packing_is_told_by_the_bytes(tmp_path: Path) -> None:
    values = pyarrow.array(["bytes 行".encode(), b"\xff\xfe", None], pyarrow.binary())
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), tmp_path / "b.parquet")
    documents, dropped = read(tmp_path / "b.parquet")
    assert [d.text for d in documents] == ["bytes 行"]
    assert [d.reason.split(":")[0] for d in dropped] == ["not UTF-8", "row without text"]
    (tmp_path / "plain.jsonl.gz").write_bytes(jsonl([{"text": "plain"}]))
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(jsonl([{"text": "packed"}])))
    (tmp_path / "zst.jsonl.gz").write_bytes(zstandard.ZstdCompressor().compress(jsonl([{"text": "zst"}])))
    for name in ("plain.jsonl.gz", "packed.jsonl", "zst.jsonl.gz"):
        assert [d.text for d in read(tmp_path / name)[0]] == [name.split(".")[0]]


def test_files_behind_urls(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for name, raw in {"a.txt": b"one", "sub/b.md": b"two", "sub/c.png": b"x", "sub/.hid.txt": b"x"}.items():
        store.pipe(f"/readers/{name}", raw)
    store.pipe("/readers/d.jsonl.gz", gzip.compress(jsonl([{"text": "three"}])))
    try:
        documents, dropped = read("memory://readers")  # type: ignore[arg-type]
        assert {d.id: d.text for d in documents} == {
            "readers/a.txt": "one", "readers/d.jsonl.gz#1": "three", "readers/sub/b.md": "two",
        }  # fmt: skip
        assert {d.id: d.reason for d in dropped} == {
            "readers/sub/c.png": "extension not read: .png", "readers/sub/.hid.txt": "hidden file",
        }  # fmt: skip
        assert [f.name for f in expand(["memory://readers/**/*.md"])[0]] == ["sub/b.md"]
        assert [f.name for f in expand(["memory://readers/a.txt"])[0]] == ["a.txt"]
        (tmp_path / "local.txt").write_text("four")
        assert read(f"file://{tmp_path}/local.txt")[0][0].text == "four"  # type: ignore[arg-type]
        assert stamp(expand(["memory://readers/a.txt"])[0][0])[0] == 3
        for missing in ("memory://readers/none.txt", "memory://readers/*.zip", "nosuchscheme://x/y"):
            with pytest.raises(AthanorError):
                expand([missing])
    finally:
        store.rm("/readers", recursive=True)


def test_folders_globs_and_stable_names(tmp_path: Path) -> None:
    for name in (
        "b/2.txt",
        "b/1.md",
        "b/Makefile",
        "b/LICENSE",
        "b/pic.png",
        "b/.git/x.txt",
        "b/.hidden.txt",
        "c/1.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    documents, dropped = read(tmp_path / "b", tmp_path / "c")
    assert [d.id for d in documents] == ["b/1.md", "b/2.txt", "b/Makefile", "c/1.md"]
    reasons = {d.id: d.reason for d in dropped}
    assert reasons == {
        "b/.git/": "hidden folder",
        "b/LICENSE": "extension not read: none",
        "b/.hidden.txt": "hidden file",
        "b/loop/": "linked folder",
        "b/pic.png": "extension not read: .png",
    }
    assert [f.name for f in expand([tmp_path / "*" / "1.md"])[0]] == ["b/1.md", "c/1.md"]
    assert [f.name for f in expand([str(tmp_path / "**" / "*.txt")])[0]] == ["b/2.txt"]
    twice = expand([tmp_path / "b" / "1.md", tmp_path / "c" / "1.md", tmp_path / "b" / "1.md"])
    assert [f.name for f in twice[0]] == ["1.md", "1.md~2"] and twice[1] == [Dropped("1.md", "listed twice")]


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.txt", tmp_path / "*.txt"):
        with pytest.raises(AthanorError, match=r"no such file|no file matches"):
            expand([path])


@pytest.mark.parametrize("line", [b"{broken", b"[1]", b"\xff"])
def test_json_rows_name_file_and_line(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "q.jsonl").write_bytes(b'{"a": 1}\n\n' + line + b"\n")
    with pytest.raises(AthanorError, match=r"q\.jsonl:3"):
        list(json_rows([tmp_path / "q.jsonl"]))
    (tmp_path / "pic.png").write_bytes(b"")
    with pytest.raises(AthanorError, match=r"pic\.png.*extension"):
        list(json_rows([tmp_path]))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
def test_a_rows_own_domain_and_language_stand_where_the_source_declares_none(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"text": "1 + 1 = 2", "domain": "mathematics", "language": "en"},
        {"text": "勾股定理", "domain": "数学/几何", "language": "zh-CN"},
        {"text": "def f(): ...", "domain": "code", "language": "Python"},
        {"text": "select 1", "domain": "code", "language": "sql"},
        {"text": "a page", "domain": "www.example.org", "language": "English"},
        {"text": "a long story", "domain": "what was said " * 9, "language": ""},
        {"text": "bare", "domain": None, "language": None},
    ]
    path = tmp_path / f"rows{suffix}"
    if suffix == ".jsonl":
        path.write_bytes(jsonl(rows))
    elif suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        pyarrow.feather.write_feather(pyarrow.Table.from_pylist(rows), str(path), compression="uncompressed")

    def labels(**options: str) -> list[tuple[str, str]]:
        return [(d.domain, d.language) for d in read(path, **options)[0]]

    own = [("mathematics", "en"), ("数学/几何", "zh"), ("code", "und"), ("code", "und")]
    assert labels() == own + [("general", "und")] * 3
    assert labels(domain="general", language="und") == labels()
    assert labels(domain="exams") == [("exams", language) for _, language in labels()]
    assert labels(language="fr") == [(domain, "fr") for domain, _ in labels()]
    documents = read(path, domain="exams")[0]
    assert documents[4].meta["domain"] == "www.example.org" and documents[2].meta["language"] == "Python"
    assert labels(text_key="domain")[0] == ("general", "en")


def test_a_page_in_a_row_keeps_the_rows_domain(tmp_path: Path) -> None:
    page = (
        "<html lang='fr'><body><p>"
        + "The kettle is on the stove and the tea is nearly ready. " * 9
        + "</p></body></html>"
    )
    path = tmp_path / "pages.jsonl"
    path.write_bytes(jsonl([{"text": page, "domain": "kitchen", "language": "en"}, {"text": page}]))
    documents, _ = read(path, html_rows=True, tolerant=True)
    assert [(d.domain, d.language) for d in documents] == [("kitchen", "en"), ("general", "und")]
