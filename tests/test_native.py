"""Kernels are built once, kept, and never needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from athanor import native

FLAGS = ("-O1", "-shared", "-fPIC")


def test_a_source_is_built_once_and_a_broken_one_or_no_compiler_gives_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    good, bad = tmp_path / "good.cpp", tmp_path / "bad.cpp"
    good.write_text('extern "C" int answer() { return 42; }')
    bad.write_text("no C++")
    library = native.load("good", [good], FLAGS)
    if library is None:
        pytest.skip("no C++ compiler here")
    assert library.answer() == 42
    assert native.load("bad", [bad], FLAGS) is None
    assert [path.suffix for path in (tmp_path / "athanor").iterdir()] == [".so"]
    monkeypatch.setenv("ATHANOR_NATIVE", "0")
    assert native.load("good", [good], FLAGS) is None
    monkeypatch.delenv("ATHANOR_NATIVE")
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", "")
    assert native.load("good", [good], FLAGS) is None
