"""Books packed here: the spine's order, limits, protection."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from athanor.data.extract.epub import extract_epub
from athanor.data.extract.types import Unreadable

CONTAINER = (
    '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
PACKAGE = """<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>炉火</dc:title><dc:creator>佚名</dc:creator>
<dc:language>zh-CN</dc:language></metadata><manifest>
<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="two" href="text/two.xhtml" media-type="application/xhtml+xml"/>
<item id="one" href="text/one%20a.xhtml" media-type="application/xhtml+xml"/>
<item id="css" href="style.css" media-type="text/css"/>
</manifest><spine><itemref idref="nav"/><itemref idref="one"/><itemref idref="two"/><itemref idref="one"/></spine>
</package>"""
PAGE = (
    '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body>'
    "<h1>{0}</h1><p><a id='x'/>正文{0}，<math xmlns='http://www.w3.org/1998/Math/MathML'><msup><mi>x</mi><mn>2</mn></msup>"
    "<mspace width='1em'/><mi>y</mi></math>。</p><script/><p>End {0}.</p></body></html>"
)


def book(**changed: bytes | str | None) -> bytes:
    """An EPUB; members by name with ``/`` and ``.`` as ``__`` and ``_``; None leaves one out."""
    members: dict[str, bytes | str | None] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "OEBPS/content.opf": PACKAGE,
        "OEBPS/nav.xhtml": "<html><body><nav><ol><li>一</li></ol></nav></body></html>",
        "OEBPS/text/two.xhtml": PAGE.format("二"),
        "OEBPS/text/one a.xhtml": PAGE.format("一"),
        "OEBPS/style.css": "p {}",
    } | changed
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data)
    return buffer.getvalue()


def test_chapters_come_in_the_order_of_the_spine_once() -> None:
    found = extract_epub(book())
    chapter = "# {0}\n\n正文{0}，$x^{{2}}\\quad y$。\n\nEnd {0}."
    assert found.text == chapter.format("一") + "\n\n" + chapter.format("二")
    assert found.meta == {
        "format": "epub", "title": "炉火", "author": "佚名", "language": "zh", "chapters": 2, "formulas": 2,
    }  # fmt: skip


def test_notes_are_told_by_their_type_or_by_links_to_and_fro() -> None:
    one = PAGE.format("一").replace("End 一", 'End<sup><a id="r" href="two.xhtml#n">[1]</a></sup>, <a href="#x">1</a>')
    two = PAGE.format("二").replace("End 二", 'End<a epub:type="noteref" href="#m">*</a>')
    notes = (
        '<p><a id="n" href="one%20a.xhtml#r">[1]</a> 注一。</p><aside epub:type="footnote" id="m"><p>注二。</p></aside>'
    )
    two = two.replace("</body>", f"{notes}</body>")
    found = extract_epub(book(**{"OEBPS/text/one a.xhtml": one, "OEBPS/text/two.xhtml": two})).text
    assert "End[^1], 1." in found and "End[^2]." in found and found.endswith("[^1]: 注一。\n\n[^2]: 注二。")


def test_the_guides_page_of_contents_and_languages_that_are_none() -> None:
    guide = '<guide><reference type="toc" href="text/one%20a.xhtml"/></guide></package>'
    changed = PACKAGE.replace("</package>", guide).replace("zh-CN", "Chinese (simplified)")
    found = extract_epub(book(**{"OEBPS/content.opf": changed}))
    assert found.text.startswith("# 二") and found.meta["chapters"] == 1 and "language" not in found.meta


def test_spines_that_name_what_is_not_there_and_names_in_other_letters() -> None:
    broken = PACKAGE.replace('<itemref idref="one"/>', '<itemref idref="gone"/>')
    found = extract_epub(book(**{"OEBPS/content.opf": broken}))
    assert found.meta["chapters"] == 2 and found.text.index("# 二") < found.text.index("# 一")
    moved = {"OEBPS/text/two.xhtml": None, "OEBPS/Text/Two.xhtml": PAGE.format("二")}
    found = extract_epub(book(**moved))
    assert found.meta["chapters"] == 2 and "unreadable_chapters" not in found.meta


def test_path_and_missing_container(tmp_path: Path) -> None:
    path = tmp_path / "b.epub"
    path.write_bytes(book(**{"META-INF/container.xml": None}))
    assert extract_epub(path).text == extract_epub(book()).text


def test_missing_chapter_is_counted_and_the_rest_read() -> None:
    found = extract_epub(book(**{"OEBPS/text/two.xhtml": None}))
    assert "End 一." in found.text and found.meta["unreadable_chapters"] == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no zip at all", "broken archive"),
        (book()[:-40], "broken archive"),
        (book(**{"OEBPS/content.opf": None}), "no package document"),
        (book(**{"OEBPS/text/two.xhtml": b"<p>" + b"a" * 40_000_000}), "compression ratio too high"),
        (book(**{"OEBPS/text/two.xhtml": "<p/>", "OEBPS/text/one a.xhtml": ""}), "no text"),
        (
            book(
                **{
                    "META-INF/encryption.xml": '<encryption xmlns:e="http://www.w3.org/2001/04/xmlenc#"><e:EncryptedData>'
                    '<e:CipherData><e:CipherReference URI="OEBPS/text/two.xhtml"/></e:CipherData></e:EncryptedData>'
                    "</encryption>"
                }
            ),
            "encrypted",
        ),
    ],
)
def test_unreadable_books_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=f"^{reason}"):
        extract_epub(data)


def test_all_chapters_together_are_limited() -> None:
    with pytest.raises(Unreadable, match="^too large after unpacking"):
        extract_epub(book(), max_total_bytes=1100)


def test_a_book_of_too_many_characters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("athanor.data.extract.epub.MAX_BOOK_CHARS", 500)
    with pytest.raises(Unreadable, match="too large after unpacking: the chapters"):
        extract_epub(book())


def test_entities_of_a_package_are_not_expanded() -> None:
    bomb = '<!DOCTYPE p [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>' + PACKAGE.split("?>", 1)[1]
    found = extract_epub(book(**{"OEBPS/content.opf": bomb.replace("佚名", "&b;")}))
    assert "aaaa" not in found.meta.get("author", "")
