"""The installed library as text."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from athanor.data.build import is_held_out
from athanor.data.stdlib_corpus import stdlib_documents
from athanor.data.types import Document, Dropped
from athanor.errors import AthanorError


@functools.cache
def documents(part: str, root: Path | None = None) -> list[Document]:
    return [d for d in stdlib_documents(part, root) if isinstance(d, Document)]  # type: ignore[arg-type]


def test_the_real_library() -> None:
    code, prose = documents("code"), documents("prose")
    assert 5e6 < sum(len(d.text) for d in code) < 30e6 and sum(len(d.text) for d in prose) > 1e6
    names = [d.id for d in code]
    assert len(set(names)) == len(names) and {"json/decoder.py", "textwrap.py"} <= set(names)
    unwanted = ("test", "tests", "site-packages", "idle_test", "_bundled")
    assert not [n for n in names if set(n.split("/")) & set(unwanted) or n.startswith(("encodings/cp", "_sysconfig"))]
    assert any(d.id == "textwrap.py" and d.text.startswith("Text wrapping and filling.") for d in prose)
    assert any(d.id.startswith("pydoc_data/topics.py#") for d in prose) and "pydoc_data/topics.py" not in names
    assert names == [d.id for d in stdlib_documents("code") if isinstance(d, Document)]


def test_code_and_prose_of_a_module_are_held_out_together() -> None:
    code = {d.id for d in documents("code")}
    shared = [d.id for d in documents("prose") if d.id in code]
    assert len(shared) > 300
    held = [i for i in shared if is_held_out(i, 0.1)]
    assert 0.05 < len(held) / len(shared) < 0.15


def test_a_small_library(tmp_path: Path) -> None:
    (tmp_path / "pkg" / "tests").mkdir(parents=True)
    (tmp_path / "encodings").mkdir()
    doc = "Says something long enough to be worth reading, line after line, and then a little more than that."
    source = (
        f'"""{doc}"""\n\nclass A:\n    """A class.\n\n    Indented.\n    """\n\n    def f(self):\n        "A method."\n'
    )
    (tmp_path / "pkg" / "a.py").write_text(source + '\nasync def g():\n    """Last."""\n')
    (tmp_path / "pkg" / "tests" / "t.py").write_text("x")
    (tmp_path / "encodings" / "cp1252.py").write_text("table = 1")
    (tmp_path / "latin.py").write_bytes("# é".encode("latin-1"))
    (tmp_path / "broken.py").write_text("def")
    (tmp_path / "silent.py").write_text("x = 1")
    assert [d.id for d in documents("code", tmp_path)] == ["broken.py", "silent.py", "pkg/a.py"]
    (prose,) = documents("prose", tmp_path)
    assert prose.text == f"{doc}\n\nA class.\n\nIndented.\n\nA method.\n\nLast.\n"
    dropped = {d.id: d.reason.split(":")[0] for d in stdlib_documents("prose", tmp_path) if isinstance(d, Dropped)}
    assert dropped == {"latin.py": "not UTF-8", "broken.py": "does not parse", "silent.py": "no documentation strings"}


def test_bad_part_and_no_sources(tmp_path: Path) -> None:
    with pytest.raises(AthanorError, match="part"):
        list(stdlib_documents("music"))  # type: ignore[arg-type]
    with pytest.raises(AthanorError, match="no library sources"):
        list(stdlib_documents("code", tmp_path))
