"""Files that tests read, made from nothing: a small PDF writer, Word files with formulas and merged cells."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
M = "http://schemas.openxmlformats.org/officeDocument/2006/math"
_RELS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def pdf(pages: Sequence[str], images: bool = False) -> bytes:
    """A PDF whose pages have these content streams; font F1 is Helvetica, F2 bold, Im a 1×1 grey image.

    F4 is Courier. Font F3 says that its letters a–z are the 26 Chinese characters from U+4E00.
    """
    objects: list[bytes] = [b"", b""]
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /{} /Encoding /WinAnsiEncoding >>"
    objects += [font.format("Helvetica").encode(), font.format("Helvetica-Bold").encode()]
    image = (
        b"<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /BitsPerComponent 8 /ColorSpace /DeviceGray /Length 1 >>"
    )
    objects.append(image + b"\nstream\n\x80\nendstream")
    cmap = b"1 begincodespacerange <00> <ff> endcodespacerange 1 beginbfrange <61> <7a> <4e00> endbfrange"
    objects.append(b"<< /Length %d >>\nstream\n" % len(cmap) + cmap + b"\nendstream")
    objects.append(font.format("Helvetica").replace("/Encoding", "/ToUnicode 6 0 R /Encoding").encode())
    objects.append(font.format("Courier").encode())
    kids = []
    for content in pages:
        raw = content.encode("cp1252")
        objects.append(b"<< /Length %d >>\nstream\n" % len(raw) + raw + b"\nendstream")
        resources = "<< /Font << /F1 3 0 R /F2 4 0 R /F3 7 0 R /F4 8 0 R >> /XObject << /Im 5 0 R >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources {resources} "
            f"/Contents {len(objects)} 0 R >>".encode()
        )
        kids.append(f"{len(objects)} 0 R")
    objects[0] = b"<< /Type /Catalog /Pages 2 0 R >>"
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>".encode()
    out = io.BytesIO()
    out.write(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n".encode() + body + b"\nendobj\n")
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.write("".join(f"{place:010d} 00000 n \n" for place in places).encode())
    out.write(f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def text_at(x: float, y: float, text: str, size: float = 10, font: str = "F1") -> str:
    """Operators that write a line of text; ``y`` is from the bottom."""
    escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    return f"BT /{font} {size} Tf {x} {y} Td ({escaped}) Tj ET\n"


def rule(x0: float, y0: float, x1: float, y1: float) -> str:
    """Operators that draw a line."""
    return f"0.5 w {x0} {y0} m {x1} {y1} l S\n"


def docx(body: str, styles: str = "", numbering: str = "", footnotes: str = "") -> bytes:
    """A Word file whose body has this XML (prefixes ``w`` and ``m``)."""
    spaces = f'xmlns:w="{W}" xmlns:m="{M}"'
    parts = {"styles": styles, "numbering": numbering, "footnotes": footnotes}
    links = "".join(
        f'<Relationship Id="{name}" Type="{_OFFICE}/{name}" Target="{name}.xml"/>' for name, xml in parts.items() if xml
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", f"<w:document {spaces}><w:body>{body}</w:body></w:document>")
        archive.writestr("word/_rels/document.xml.rels", f'<Relationships xmlns="{_RELS}">{links}</Relationships>')
        for name, xml in parts.items():
            if xml:
                archive.writestr(f"word/{name}.xml", f"<w:{name} {spaces}>{xml}</w:{name}>")
    return out.getvalue()


def bomb(member: str, n_bytes: int = 48_000_000) -> bytes:
    """A zip whose one member unpacks to zeros."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(member, "w", force_zip64=True) as part,
    ):
        block = bytes(1 << 20)
        for _ in range(n_bytes >> 20):
            part.write(block)
    return out.getvalue()
