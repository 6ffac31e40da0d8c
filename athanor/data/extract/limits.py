"""Reading from zip containers (EPUB, docx, pptx, xlsx) without trusting the sizes they claim."""

from __future__ import annotations

import lzma
import zipfile
import zlib

from athanor.data.extract.types import Unreadable

#: Bytes of one unpacked member, and of all members of one document together.
MAX_MEMBER_BYTES = 256 * 2**20
MAX_TOTAL_BYTES = 1024 * 2**20
#: Unpacked bytes a packed byte may give once past ``RATIO_FROM_BYTES``. Deflate cannot exceed 1,032; real text stays
#: below 50, and sheets of equal cells below 200.
MAX_RATIO = 500
RATIO_FROM_BYTES = 16 * 2**20
_CHUNK = 1 << 16


def read_zip_member(
    archive: zipfile.ZipFile, name: str, max_bytes: int = MAX_MEMBER_BYTES, max_ratio: float = MAX_RATIO
) -> bytes:
    """The unpacked bytes of member ``name``, read as a stream, so that a bomb stops at the limit and not in memory.

    Raises ``Unreadable``: ``"too large after unpacking"``, ``"compression ratio too high"``, ``"missing part"``,
    ``"encrypted"`` or ``"broken archive"``.
    """
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise Unreadable(f"missing part: {name}") from None
    if info.flag_bits & 0x1:
        raise Unreadable(f"encrypted: {name}")
    chunks: list[bytes] = []
    n_bytes = 0
    allowed = max(RATIO_FROM_BYTES, max_ratio * max(1, info.compress_size))
    try:
        with archive.open(info) as stream:
            while chunk := stream.read(_CHUNK):
                n_bytes += len(chunk)
                if n_bytes > max_bytes:
                    raise Unreadable(f"too large after unpacking: {name} over {max_bytes} bytes")
                if n_bytes > allowed:
                    raise Unreadable(f"compression ratio too high: {name} over {max_ratio:g}")
                chunks.append(chunk)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError) as error:
        raise Unreadable(f"broken archive: {name}: {error}") from None
    return b"".join(chunks)


class ZipBudget:
    """``read_zip_member`` for a whole document: members may not exceed ``max_total_bytes`` together."""

    def __init__(self, archive: zipfile.ZipFile, max_total_bytes: int = MAX_TOTAL_BYTES) -> None:
        self.archive, self.left = archive, max_total_bytes

    def read(self, name: str, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
        """The unpacked bytes of ``name``; raises ``Unreadable`` as ``read_zip_member`` does."""
        data = read_zip_member(self.archive, name, min(max_bytes, self.left))
        self.left -= len(data)
        return data
