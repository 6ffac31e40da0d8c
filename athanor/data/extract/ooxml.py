"""Office Open XML packages (docx, pptx): parts of the zip as XML trees, relations between parts, properties."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from typing import Any

from athanor.data.extract.limits import read_zip_member
from athanor.data.extract.omml import local, val
from athanor.data.extract.types import Unreadable

#: Parts of one package, unpacked, may hold this many bytes: an honest document's XML is far smaller.
MAX_PART_BYTES = 256_000_000
_MAX_PREFIXES = 10


class Package:
    """An Office file. ``Unreadable`` for what is no such package, is encrypted, damaged or a zip bomb."""

    def __init__(self, raw: bytes, kind: str) -> None:
        if raw.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
            # Password-protected Office files are CFB containers, as are those of Office 97.
            raise Unreadable(f"encrypted or of Office 97: not a {kind} package")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(raw))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise Unreadable(f"broken {kind}: {error}") from None
        self.kind = kind
        self._names = {name.lower(): name for name in self._zip.namelist()}

    def read(self, name: str) -> bytes | None:
        """Bytes of a part, None where the package has no such part."""
        found = self._names.get(name.lstrip("/").lower())
        return None if found is None else read_zip_member(self._zip, found, MAX_PART_BYTES)

    def xml(self, name: str) -> Any:
        """Root element of a part, or None; ``Unreadable`` where it is no XML."""
        raw = self.read(name)
        return None if raw is None else parse_xml(raw, self.kind)

    def relations(self, part: str) -> dict[str, tuple[str, str]]:
        """Relation id → (last word of its type, target part or address) of a part ("" for the package)."""
        folder, base = posixpath.split(part)
        root = self.xml(posixpath.join(folder, "_rels", f"{base}.rels"))
        found: dict[str, tuple[str, str]] = {}
        for item in root if root is not None else ():
            target = val(item, "Target") or ""
            if val(item, "TargetMode") != "External":
                target = posixpath.normpath(posixpath.join("/" + folder, target)).lstrip("/")
            found[val(item, "Id") or ""] = ((val(item, "Type") or "").rpartition("/")[2], target)
        return found

    def main_part(self, default: str) -> str:
        """The part that holds the document itself."""
        for kind, target in self.relations("").values():
            if kind == "officeDocument":
                return target
        return default

    def title(self) -> str:
        """The title of the package's properties, "" where it has none."""
        try:
            root = self.xml("docProps/core.xml")
        except Unreadable:
            return ""
        found = next((c.text for c in root if local(c) == "title"), None) if root is not None else None
        return (found or "").strip()


def parse_xml(raw: bytes, kind: str) -> Any:
    """XML without entities, network or trees deeper than libxml2's own limit (256 levels)."""
    import lxml.etree

    parser = lxml.etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    for _ in range(_MAX_PREFIXES):
        try:
            return lxml.etree.fromstring(raw, parser)
        except lxml.etree.XMLSyntaxError as error:
            declared = _with_prefixes(raw, parser.error_log)
            if declared is None:
                raise Unreadable(f"broken {kind}: {error}") from None
            raw = declared
        except ValueError as error:
            raise Unreadable(f"broken {kind}: {error}") from None
    raise Unreadable(f"broken {kind}: prefixes without a namespace")


def _with_prefixes(raw: bytes, log: Any) -> bytes | None:
    """The XML with the prefixes declared that it uses undeclared, None where something else is wrong with it.

    Programs forget the namespaces of formulas and drawings; names are compared without them.
    """
    prefixes = set()
    for entry in log:  # the parser's own: that of the exception holds those of documents before
        found = re.match(r"Namespace prefix ([\w.-]+) ", entry.message)
        if found is None:
            return None
        prefixes.add(found[1])
    start = re.search(rb"<[A-Za-z_][\w:.-]*", raw)
    if not prefixes or start is None:
        return None
    declarations = "".join(f' xmlns:{prefix}="urn:undeclared:{prefix}"' for prefix in sorted(prefixes)).encode()
    return raw[: start.end()] + declarations + raw[start.end() :]
