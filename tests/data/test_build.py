"""Recipe → corpus → tokenizer → shards: every document accounted for, every step idempotent, nothing overwritten."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from athanor.data import build
from athanor.data.build import CorpusDir, build_corpus, open_shards, tokenize_corpus
from athanor.data.build import train_tokenizer_from_corpus as train_from
from athanor.data.shards import ShardSet
from athanor.errors import AthanorError
from athanor.recipe.schema import Recipe
from athanor.tokenizer.texts import TrainingTexts


def recipe(sources: dict[str, Any], **more: Any) -> Recipe:
    return Recipe.model_validate({"data": {"sources": sources}, "tokenizer": {"vocab_size": 300}, **more})


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    rows = [{"text": f"Note {i}: the furnace burned for {i * 7} hours. 炉火燃烧了{i * 7}小时。"} for i in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in [*rows, rows[3], {}]))
    (folder / "picture.txt").write_bytes(b"\x89PNG\0\0")
    (folder / "old.txt").write_bytes("Öfen".encode("latin-1"))
    (folder / "skip.bin").write_bytes(b"\0")
    return folder


def test_every_document_is_accounted_for(notes: Path, tmp_path: Path) -> None:
    said: list[str] = []
    sources = {
        "notes": {"paths": [str(notes)], "holdout": 0.2, "domain": "diary", "language": "mul"},
        "copy": {"paths": [str(notes / "rows.jsonl"), str(tmp_path / "extra.md")]},
        "sums": {"kind": "arithmetic", "documents": 30, "holdout": 0.3},
    }
    (tmp_path / "extra.md").write_text("# Only here")
    corpus = build_corpus(recipe(sources), tmp_path / "corpus", said.append)
    report = corpus.report["sources"]
    assert report == json.loads((tmp_path / "corpus" / "report.json").read_text())["sources"]
    for name, entry in report.items():
        went = sum(at["documents"] for at in [*entry["out"].values(), *entry["dropped"].values()])
        assert entry["documents_in"] == went
        assert entry["bytes_in"] == sum(at["bytes"] for at in [*entry["out"].values(), *entry["dropped"].values()])
        for split in build.SPLITS:
            documents = list(corpus.documents(name, split))
            assert len(documents) == entry["out"][split]["documents"] == corpus.count(name, split)
            assert sum(len(d.text.encode()) for d in documents) == entry["out"][split]["bytes"]
    counts = {reason: at["documents"] for reason, at in report["notes"]["dropped"].items()}
    assert counts == {
        "extension not read": 1,
        "binary": 1,
        "not UTF-8": 1,
        "duplicate": 1,
        "row without text": 1,
    }
    assert {"id": "notes/rows.jsonl#61", "reason": "duplicate: of notes/notes/rows.jsonl#4"} in report["notes"][
        "examples"
    ]
    assert report["copy"]["dropped"]["duplicate"]["documents"] == 61  # across sources as well
    first = next(corpus.documents("notes", "train"))
    assert (first.domain, first.language) == ("diary", "mul")
    assert "binary 1" in said[0] and report["sums"]["out"]["valid"]["documents"] > 0
    # no text is on both sides, whatever source it came from
    sides = {split: {d.text for s in corpus.sources for d in corpus.documents(s, split)} for split in build.SPLITS}
    assert not sides["train"] & sides["valid"]


def test_held_out_documents_never_change_sides(notes: Path, tmp_path: Path) -> None:
    held = []
    for run, paths in enumerate(([str(notes)], [str(notes), str(tmp_path / "more.txt")])):
        (tmp_path / "more.txt").write_text("more")
        source = {"notes": {"paths": paths, "holdout": 0.2}}
        held.append({d.id for d in build_corpus(recipe(source), tmp_path / f"c{run}").documents("notes", "valid")})
    assert held[0] and held[0] == held[1] - {"more.txt"}


def test_few_documents_all_go_to_training(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("A single file of one's own.")
    corpus = build_corpus(recipe({"mine": {"paths": [str(tmp_path / "one.txt")], "holdout": 0.999}}), tmp_path / "c")
    assert corpus.count("mine", "train") == 1 and corpus.count("mine", "valid") == 0
    assert [d.text for d in corpus.documents("mine", "train")] == ["A single file of one's own."]
    assert "too few documents" in corpus.report["sources"]["mine"]["notes"][0]


def test_empty_corpus_names_what_was_read_and_why_it_was_dropped(tmp_path: Path) -> None:
    (tmp_path / "pic.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    paths = [str(tmp_path / "pic.png"), str(tmp_path / "latin.txt")]
    with pytest.raises(AthanorError, match="empty corpus") as error:
        build_corpus(recipe({"mine": {"paths": paths}}), tmp_path / "c")
    for words in (*paths, "pic.png: binary: zero byte", "latin.txt: not UTF-8: byte 0xe9", "data.sources.mine"):
        assert words in str(error.value)
    with pytest.raises(AthanorError, match="no finished corpus"):
        CorpusDir.open(tmp_path / "c")
    (tmp_path / "void").mkdir()
    (tmp_path / "fine.txt").write_text("fine")
    twins = {name: {"paths": [str(tmp_path / "fine.txt")]} for name in ("one", "two")}
    with pytest.raises(AthanorError, match="two: empty corpus(.|\n)*duplicate: of one/fine.txt(.|\n)*take it out"):
        build_corpus(recipe(twins), tmp_path / "c")
    with pytest.raises(AthanorError, match="kept nothing .no file in it"):
        build_corpus(recipe({"mine": {"paths": [str(tmp_path / "void")]}}), tmp_path / "c")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({}, "paths"),
        ({"paths": ["/nowhere/at/all.txt"]}, "no such file"),
        ({"kind": "arithmetic"}, "documents"),
        ({"kind": "arithmetic", "documents": 2, "options": {"colour": 1}}, "colour"),
        ({"kind": "stdlib", "options": {"part": "music"}}, "part"),
        ({"kind": "stdlib", "options": {"colour": 1}}, "colour"),
    ],
)
def test_bad_sources(tmp_path: Path, source: dict[str, Any], words: str) -> None:
    with pytest.raises(AthanorError, match=words):
        build_corpus(recipe({"bad": source}), tmp_path / "c")
    with pytest.raises(AthanorError, match="names no source"):
        build_corpus(recipe({}), tmp_path / "c")


def test_whole_path_and_idempotence(notes: Path, tmp_path: Path) -> None:
    r = recipe({"notes": {"paths": [str(notes)], "holdout": 0.2}, "sums": {"kind": "arithmetic", "documents": 50}})
    for turn in range(2):
        said: list[str] = []
        corpus = build_corpus(r, tmp_path / "corpus", said.append)
        tokenizer = train_from(r, corpus, tmp_path / "tokenizer", said.append)
        shards = tokenize_corpus(corpus, tokenizer, tmp_path / "tokens", said.append)
        assert [s.split(" (")[0] for s in said if "done already" in s] == (
            [f"{kind}: done already" for kind in ("corpus", "tokenizer", "tokens")] if turn else []
        )
    assert tokenizer.vocab_size == 300
    assert set(shards) == {"notes", "sums"} and set(shards["sums"]) == {"train"}
    for source, splits in shards.items():
        for split, found in splits.items():
            documents = list(corpus.documents(source, split))
            assert [tokenizer.decode(found.doc(i)) for i in range(found.n_docs)] == [d.text for d in documents]
            assert all(found.doc(i)[-1] == tokenizer.eos_id for i in range(found.n_docs))
    other = train_from(recipe({}, tokenizer={"vocab_size": 290}), corpus, tmp_path / "tokenizer2")
    with pytest.raises(AthanorError, match="tokenizer of another vocabulary"):
        open_shards(tmp_path / "tokens", other)
    with pytest.raises(AthanorError, match="made from another recipe"):
        tokenize_corpus(corpus, other, tmp_path / "tokens")


def test_another_recipe_or_changed_files_are_refused(notes: Path, tmp_path: Path) -> None:
    r = recipe({"notes": {"paths": [str(notes)]}})
    corpus = build_corpus(r, tmp_path / "c")
    train_from(r, corpus, tmp_path / "t")
    for other in (recipe({"notes": {"paths": [str(notes)], "holdout": 0.1}}), r.model_copy(update={"seed": 5})):
        with pytest.raises(AthanorError, match="another recipe"):
            build_corpus(other, tmp_path / "c")
    with pytest.raises(AthanorError, match="another recipe"):
        train_from(recipe({}, tokenizer={"vocab_size": 301}), corpus, tmp_path / "t")
    os.utime(notes / "rows.jsonl", (1, 1))
    with pytest.raises(AthanorError, match="files have changed"):
        build_corpus(r, tmp_path / "c")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(AthanorError, match="not an empty directory"):
        build_corpus(r, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_what_was_stopped_is_begun_again(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r = recipe({"notes": {"paths": [str(notes)]}, "sums": {"kind": "arithmetic", "documents": 20}})
    with pytest.raises(AthanorError, match=r"vocabulary of \d+ tokens; 9999"):
        train_from(recipe({}, tokenizer={"vocab_size": 9999}), build_corpus(r, tmp_path / "c"), tmp_path / "t")
    corpus = CorpusDir.open(tmp_path / "c")
    tokenizer = train_from(r, corpus, tmp_path / "t")  # the failed one is no obstacle

    real, calls = build._tokenize, []

    def stop_at_second(*args: Any) -> None:
        calls.append(args[2])
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(build, "_tokenize", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus(corpus, tokenizer, tmp_path / "tokens")
    with pytest.raises(AthanorError, match="no finished token shards"):
        open_shards(tmp_path / "tokens")
    tokenize_corpus(corpus, tokenizer, tmp_path / "tokens")
    assert [path.parent.name for path in calls] == ["notes", "sums", "sums"]  # the first source was kept
    assert ShardSet.open(tmp_path / "tokens" / "sums" / "train").n_docs == 20


def test_damaged_shards_are_refused_when_reopened(notes: Path, tmp_path: Path) -> None:
    r = recipe({"notes": {"paths": [str(notes)]}})
    corpus = build_corpus(r, tmp_path / "c")
    tokenizer = train_from(r, corpus, tmp_path / "t")
    tokenize_corpus(corpus, tokenizer, tmp_path / "tokens")
    file = tmp_path / "tokens" / "notes" / "train" / "shard-00000.tokens"
    raw = bytearray(file.read_bytes())
    raw[11] ^= 4
    file.write_bytes(raw)
    with pytest.raises(AthanorError, match=r"shard-00000\.tokens.*corrupted"):
        tokenize_corpus(corpus, tokenizer, tmp_path / "tokens")


def test_an_existing_tokenizer_is_used(notes: Path, tmp_path: Path) -> None:
    r = recipe({"notes": {"paths": [str(notes)]}})
    corpus = build_corpus(r, tmp_path / "c")
    made = train_from(r, corpus, tmp_path / "t")
    used = train_from(recipe({}, tokenizer={"path": str(tmp_path / "t")}), corpus, tmp_path / "t2")
    assert used.fingerprint == made.fingerprint and (tmp_path / "t2" / "tokenizer.json").is_file()


def test_the_vocabulary_sees_sources_in_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "big.jsonl").write_text("".join(json.dumps({"text": f"big {i:05d}"}) + "\n" for i in range(1000)))
    (tmp_path / "small.jsonl").write_text("".join(json.dumps({"text": f"s {i:04d}"}) + "\n" for i in range(100)))
    sources = {name: {"paths": [str(tmp_path / f"{name}.jsonl")]} for name in ("big", "small")}
    corpus = build_corpus(recipe(sources), tmp_path / "c")
    texts = [text for _, text in TrainingTexts(corpus, 900)]
    by_source = {name: sum(len(t) for t in texts if t.startswith(name[0])) for name in sources}
    assert abs(by_source["big"] - by_source["small"]) <= 10 and 900 <= sum(by_source.values()) < 910
    assert len(list(TrainingTexts(corpus, 10**9))) == 1100
