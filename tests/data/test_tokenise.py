"""The same shards, byte for byte, from one process or many, at once or in two goes."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from athanor.data import tokenise as module
from athanor.data.shards import ShardSet, ShardWriter
from athanor.data.tokenise import tokenise
from athanor.errors import AthanorError
from athanor.tokenizer import Tokenizer, train_tokenizer

UNIT = 20_000


def documents() -> list[dict]:
    rng = np.random.default_rng(0)
    words = ["furnace", "glass", "熔炉", "玻璃", "heat", "def f(x):\n    return x", "1234", "é", "\U0001f525"]
    out = []
    for i in range(900):
        text = " ".join(rng.choice(words, rng.integers(1, 60)))
        meta = {"weight": float(rng.random()), "difficulty": i / 900} if i % 3 else {"note": "x"}
        domain = ("web", "en") if i < 500 else ("code", "en") if i % 2 else ("web", "zh")
        out.append({"id": str(i), "text": text, "domain": domain[0], "language": domain[1], "meta": meta})
    return out


DOCUMENTS = documents()


def corpus_lines() -> Iterator[bytes]:
    for document in DOCUMENTS:
        yield (json.dumps(document, ensure_ascii=False) + "\n").encode()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer((d["text"] for d in DOCUMENTS), 300)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def expected(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One writer, document by document, with ids of `tokenizers` itself."""
    out = tmp_path_factory.mktemp("one") / "train"
    with ShardWriter(
        out, tokenizer.fingerprint, tokenizer.vocab_size, eos_id=tokenizer.eos_id, shard_tokens=7000, origin="o"
    ) as writer:
        for document in DOCUMENTS:
            ids = tokenizer.backend.encode(document["text"], add_special_tokens=False).ids
            known = {name: document["meta"].get(name) for name in ("weight", "difficulty")}
            writer.add(ids, label=(document["domain"], document["language"]), **known)
    return contents(out)


@pytest.mark.parametrize(("workers", "unit_bytes"), [(1, UNIT), (2, UNIT), (3, UNIT), (1, 10**9), (2, 3 * UNIT)])
def test_bytes_do_not_depend_on_workers_or_units(
    tokenizer: Tokenizer, expected: dict[str, bytes], tmp_path: Path, workers: int, unit_bytes: int
) -> None:
    n_bytes = tokenise(
        corpus_lines(),
        tokenizer,
        tmp_path / "train",
        origin="o",
        workers=workers,
        unit_bytes=unit_bytes,
        shard_tokens=7000,
    )
    assert n_bytes == sum(map(len, corpus_lines())) > 5 * UNIT
    assert contents(tmp_path / "train") == expected
    assert len([name for name in expected if name.endswith(".tokens")]) > 2
    assert [path.name for path in tmp_path.iterdir()] == ["train"]  # the units are gone


def test_measures_and_labels_come_back(expected: dict[str, bytes], tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenise(corpus_lines(), tokenizer, tmp_path / "train", unit_bytes=UNIT, shard_tokens=7000)
    shards = ShardSet.open(tmp_path / "train")
    for i, document in enumerate(DOCUMENTS):
        meta = document["meta"]
        assert shards.measures["weight"][i] == np.float32(meta.get("weight", 1.0))
        assert np.array_equal(shards.measures["difficulty"][i], np.float32(meta.get("difficulty", np.nan)), True)
        assert shards.labels[shards.label_of[i]] == (document["domain"], document["language"])
        assert tokenizer.decode(shards.doc(i)[:-1]) == document["text"]
    half = shards.subset(np.arange(0, 900, 2))
    assert half.doc(3).tolist() == shards.doc(6).tolist() and half.measures["weight"][3] == shards.measures["weight"][6]
    assert half.n_tokens == sum(len(half.doc(i)) for i in range(450)) and half.numbers.tolist() == list(
        range(0, 900, 2)
    )


def test_a_stopped_run_goes_on_behind_its_units(
    tokenizer: Tokenizer, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = module._tokenise_unit, []

    def stop_at_fourth(tokenizer, unit, *rest, **more) -> None:
        made.append(Path(unit.path).name)
        if len(made) == 4:
            raise KeyboardInterrupt
        real(tokenizer, unit, *rest, **more)

    go = {"origin": "o", "unit_bytes": UNIT, "shard_tokens": 7000}
    with monkeypatch.context() as patch:
        patch.setattr(module, "_tokenise_unit", stop_at_fourth)
        with pytest.raises(KeyboardInterrupt):
            tokenise(corpus_lines(), tokenizer, tmp_path / "train", **go)
        damaged = tmp_path / "train.units" / "000001" / "shard-00000.tokens"
        damaged.write_bytes(b"\0" + damaged.read_bytes()[1:])
        made[:] = ["again"] * 10
        tokenise(corpus_lines(), tokenizer, tmp_path / "train", **go)
    assert made[10:13] == ["000001", "000003", "000004"]  # the damaged one, then what was missing
    assert contents(tmp_path / "train") == expected


def test_a_killed_worker_is_told_and_the_rest_is_kept(
    tokenizer: Tokenizer, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = {"origin": "o", "unit_bytes": UNIT, "shard_tokens": 7000, "workers": 2}
    real = module._finished

    def after_a_kill(running: set) -> set:
        for child in multiprocessing.active_children():
            child.kill()
        return real(running)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_finished", after_a_kill)
        with pytest.raises(AthanorError, match="process was killed"):
            tokenise(corpus_lines(), tokenizer, tmp_path / "train", **go)
    assert not (tmp_path / "train" / "index.json").exists()
    tokenise(corpus_lines(), tokenizer, tmp_path / "train", **go)
    assert contents(tmp_path / "train") == expected


def test_documents_without_text_are_left_out(tokenizer: Tokenizer, tmp_path: Path) -> None:
    lines = [json.dumps({"id": "a", "text": text, "meta": {}}).encode() for text in ("", "heat", "")]
    tokenise(iter(lines), tokenizer, tmp_path / "train")
    assert ShardSet.open(tmp_path / "train").n_docs == 1
    tokenise(iter(lines[:1]), tokenizer, tmp_path / "none")
    assert ShardSet.open(tmp_path / "none").n_docs == 0
