"""WARC files written by warcio: what is a document, what is reported, what a broken end leaves."""

from __future__ import annotations

import gzip
from io import BytesIO

import pytest

from athanor.data.extract.types import Extracted, Unreadable
from athanor.data.extract.warc import iter_warc

warcio = pytest.importorskip("warcio")


def archive(*records: tuple[str, str, bytes, str, list[tuple[str, str]]], packed: bool = True) -> bytes:
    """A WARC of (record type, address, payload, status, HTTP headers)."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    buffer = BytesIO()
    writer = WARCWriter(buffer, gzip=packed)
    writer.write_record(writer.create_warcinfo_record("t.warc.gz", {"software": "test"}))
    for kind, url, payload, status, headers in records:
        http = StatusAndHeaders(status, headers, protocol="HTTP/1.1") if status else None
        extra = {"warc_content_type": "text/plain"} if kind == "conversion" else {}
        writer.write_record(writer.create_warc_record(url, kind, payload=BytesIO(payload), http_headers=http, **extra))
    return buffer.getvalue()


def page(n: int, charset: str = "utf-8", header: str = "", status: str = "200 OK") -> tuple[str, str, bytes, str, list]:
    """One HTML response."""
    body = f"<html><body><p>第{n}页 café.</p></body></html>".encode(charset)
    return "response", f"http://e.org/{n}", body, status, [("Content-Type", "text/html" + header)]


@pytest.mark.parametrize("packed", [True, False])
def test_html_responses_become_documents(packed: bool) -> None:
    found = list(iter_warc(BytesIO(archive(page(1), page(2), packed=packed))))
    assert [d.text for d in found if isinstance(d, Extracted)] == ["第1页 café.", "第2页 café."]
    assert [d.meta["url"] for d in found if isinstance(d, Extracted)] == ["http://e.org/1", "http://e.org/2"]
    assert len({d.part for d in found}) == 2 and all(d.part.startswith("urn:uuid:") for d in found)


def test_charset_of_the_header_is_used_and_of_wet_files_too() -> None:
    first, second = iter_warc(
        BytesIO(archive(page(1, "gb18030", "; charset=GBK"), ("conversion", "http://e.org/w", "文本".encode(), "", [])))
    )
    assert isinstance(first, Extracted) and first.text == "第1页 café."
    assert isinstance(second, Extracted) and second.text == "文本" and second.meta["format"] == "text"


def test_packed_bodies_are_unpacked_within_the_limit() -> None:
    kind, url, body, status, headers = page(1)
    small = kind, url, gzip.compress(body), status, [*headers, ("Content-Encoding", "gzip")]
    bomb = kind, url, gzip.compress(bytes(5_000_000)), status, [*headers, ("Content-Encoding", "gzip")]
    first, second = iter_warc(BytesIO(archive(small, bomb)), max_bytes=100_000)
    assert isinstance(first, Extracted) and first.text == "第1页 café."
    assert isinstance(second, Unreadable) and second.reason.startswith("too large")


def test_what_is_no_text_is_reported_with_its_record() -> None:
    image = ("response", "http://e.org/i", b"\x89PNG", "200 OK", [("Content-Type", "image/png")])
    found = list(iter_warc(BytesIO(archive(page(1, status="404 Not Found"), image, page(2)))))
    assert [d.reason for d in found if isinstance(d, Unreadable)] == ["status: 404", "no text type: image/png"]
    assert all(d.part for d in found) and isinstance(found[-1], Extracted)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("missing", [1, 60, 150])
def test_truncated_archive_keeps_what_came_before(packed: bool, missing: int) -> None:
    whole = archive(page(1), page(2), page(3), packed=packed)
    found = list(iter_warc(BytesIO(whole[:-missing])))
    texts = [d.text for d in found if isinstance(d, Extracted)]
    assert texts[:2] == ["第1页 café.", "第2页 café."]
    # Cut inside the last record: it is reported, or (only its closing line or checksum is missing) read whole.
    assert len(texts) == 3 or isinstance(found[-1], Unreadable)
    if missing > 1 and packed:
        assert isinstance(found[-1], Unreadable)


def test_rubbish_is_one_report() -> None:
    for raw in (b"this is no archive\r\n" * 5, gzip.compress(b"neither is this")[:-9], b"\x1f\x8b\x00broken"):
        found = list(iter_warc(BytesIO(raw)))
        assert all(isinstance(d, Unreadable) for d in found) and len(found) == 1
    assert list(iter_warc(BytesIO(b""))) == []
