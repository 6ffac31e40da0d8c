"""Shards behind a URL: the same stream, fetched once and only where needed; what is wrong there is told."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from athanor.data.build import open_shards
from athanor.data.loader import PackedLoader
from athanor.data.remote import cache_root, data_parts
from athanor.data.shards import ShardSet, ShardWriter
from athanor.errors import AthanorError
from athanor.files import write_json
from athanor.tokenizer import Tokenizer, train_tokenizer

URL = "memory://bucket/life"


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of tokens here, a copy of it in the memory file system, and an empty cache."""
    monkeypatch.setenv("ATHANOR_DATA_CACHE", str(tmp_path / "cache"))
    local = tmp_path / "tokens"
    rng = np.random.default_rng(0)
    for source in ("web", "git"):
        for split, n in (("train", 60), ("valid", 8)):
            with ShardWriter(local / source / split, "f", 400, shard_tokens=500, with_mask=source == "git") as writer:
                for _ in range(n):
                    size = int(rng.integers(3, 90))
                    ids = rng.integers(2, 400, size)
                    writer.add(ids, np.ones(size) if source == "git" else None, label=("d", "en"), weight=rng.random())
    write_json(local / "stage.json", {"kind": "tokens", "origin": "", "done": True})
    put(local)
    return local


def put(local: Path, url: str = f"{URL}/tokens") -> None:
    store = fsspec.filesystem("memory")
    if store.exists(url):
        store.rm(url, recursive=True)
    for file in local.rglob("*"):
        if file.is_file():
            store.pipe_file(f"{url.removeprefix('memory://')}/{file.relative_to(local)}", file.read_bytes())


def fetched() -> list[str]:
    return sorted(p.name.split("-", 1)[1] for p in cache_root().rglob("*") if p.is_file() and p.suffix != ".lock")


def test_the_stream_is_the_same_and_comes_as_it_is_read(tokens: Path) -> None:
    far, near = open_shards(f"{URL}/tokens"), open_shards(tokens)
    assert {n: list(s) for n, s in far.items()} == {n: list(s) for n, s in near.items()}
    assert not any(name.endswith((".tokens", ".mask")) for name in fetched())  # only what tells of documents
    loaders = [
        PackedLoader({n: s["train"] for n, s in shards.items()}, {"web": 1, "git": 2}, 64, seed=0)
        for shards in (far, near)
    ]
    assert loaders[0].fingerprint() == loaders[1].fingerprint()
    loaders[0].rows(0, 1)
    few = [name for name in fetched() if name.endswith(".tokens")]
    a, b = (loader.rows(0, 300) for loader in loaders)
    assert torch.equal(a.input_ids_BT, b.input_ids_BT) and torch.equal(a.labels_BT, b.labels_BT)
    assert 0 < len(few) < len([name for name in fetched() if name.endswith(".tokens")])
    assert near["web"]["train"].measures["weight"].tolist() == far["web"]["train"].measures["weight"].tolist()


def test_a_file_is_fetched_once_by_many(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    opened: list[str] = []
    real = type(store)._open
    monkeypatch.setattr(
        type(store), "_open", lambda self, path, *a, **k: opened.append(path) or real(self, path, *a, **k)
    )
    with ThreadPoolExecutor(8) as pool:
        sets = list(pool.map(lambda _: ShardSet.open(f"{URL}/tokens/web/train"), range(8)))
        list(pool.map(lambda s: s.doc(0), sets))
    data = [path for path in opened if not path.endswith(".json")]
    assert len(data) == len(set(data)) and any(path.endswith(".tokens") for path in data)
    opened.clear()
    ShardSet.open(f"{URL}/tokens/web/train").doc(0)
    assert not [path for path in opened if not path.endswith(".json")]


def test_what_is_damaged_or_missing_is_told(tokens: Path, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    name = "/bucket/life/tokens/web/train/shard-00000.tokens"
    good = store.cat_file(name)
    for bad, why in ((b"\0\0" + good[2:], "corrupted"), (good[:-2], "truncated"), (None, "missing")):
        store.pipe_file(name, bad) if bad is not None else store.rm(name)
        with pytest.raises(AthanorError, match=why) as told:
            ShardSet.open(f"{URL}/tokens/web/train").doc(0)
        assert told.value.where == f"{URL}/tokens/web/train/shard-00000.tokens"
        assert "shard-00000.tokens" not in fetched()  # nothing of it stays in the cache
    store.pipe_file(name, good)
    assert len(ShardSet.open(f"{URL}/tokens/web/train").doc(0))
    with pytest.raises(AthanorError, match="no shards here"):
        ShardSet.open(f"{URL}/tokens/nowhere")
    with pytest.raises(AthanorError, match="no finished token shards"):
        open_shards("memory://bucket/nothing")
    with pytest.raises(AthanorError, match="driver"):
        ShardSet.open("nosuchthing://bucket/x")
    index = json.loads(store.cat_file("/bucket/life/tokens/git/valid/index.json"))
    store.pipe_file("/bucket/life/tokens/git/valid/index.json", json.dumps({**index, "documents": 3}).encode())
    with pytest.raises(AthanorError, match="corrupted index"):
        open_shards(f"{URL}/tokens")


def test_shards_made_anew_under_the_same_url_are_not_mixed_up(tokens: Path, tmp_path: Path) -> None:
    before = ShardSet.open(f"{URL}/tokens/web/train").doc(0).tolist()
    with ShardWriter(tmp_path / "new", "f", 400) as writer:
        writer.add([9, 9, 9])
    put(tmp_path / "new", f"{URL}/tokens/web/train")
    assert ShardSet.open(f"{URL}/tokens/web/train").doc(0).tolist() == [9, 9, 9, 0] != before


def test_tokenizer_and_tokens_of_a_build(tokens: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a few words of text, a few more words " * 20], 270)
    tokenizer.save(tmp_path / "tokenizer")
    put(tmp_path / "tokenizer", f"{URL}/tokenizer")
    parts = data_parts(URL)
    assert Tokenizer.load(parts["tokenizer_dir"]).fingerprint == tokenizer.fingerprint
    assert set(open_shards(parts["data_dir"])) == {"web", "git"}
    assert data_parts(tmp_path) == {"tokenizer_dir": tmp_path / "tokenizer", "data_dir": tmp_path / "tokens"}
    with pytest.raises(AthanorError, match="no tokenizer"):
        data_parts("memory://bucket/other")
