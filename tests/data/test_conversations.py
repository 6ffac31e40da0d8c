"""Conversations: what is learned, and every bad row named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from athanor.data.conversations import read_conversations, tokenize_conversations
from athanor.data.loader import PackedLoader
from athanor.data.types import IGNORE
from athanor.errors import AthanorError
from athanor.tokenizer import Tokenizer, train_tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 3?"},
    {"role": "assistant", "content": "5"},
    {"role": "user", "content": "再加 4？"},
    {"role": "assistant", "content": "答案是 9。"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["some words to learn from, some words"], 264)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_only_what_the_assistant_says_is_learned(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = write(tmp_path / "talk.jsonl", {"messages": TALK}, {"messages": TALK[1:3], "id": 7})
    found = list(read_conversations([file]))
    assert [where for where, _ in found] == [f"{file}:1", f"{file}:2"]
    shards = tokenize_conversations(found, tokenizer, tmp_path / "out")
    assert shards.n_docs == 2 and shards.with_mask
    ids, mask = shards.doc(0).tolist(), shards.doc_mask(0)
    assert ids == [*tokenizer.render_chat(TALK), tokenizer.eos_id]
    learned = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m], skip_special=False)  # type: ignore[arg-type]
    assert learned == "5<|end|>答案是 9。<|end|>"
    # and through the loader: both conversations packed in one row, the labels the same tokens
    batch = PackedLoader({"talk": shards}, None, 256, seed=0).rows(0, 1)
    labels = [t for t in batch.labels_BT[0].tolist() if t != IGNORE]
    text = tokenizer.decode(labels, skip_special=False)
    assert text == "5<|end|>答案是 9。<|end|>5<|end|>" and len(batch.doc_lens[0]) == 3


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "x"}, "no messages"),
        ({"messages": []}, "needs a list"),
        ({"messages": "hi"}, "needs a list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "message 1 has role 'robot'"),
        ({"messages": [*TALK[:2], {"role": "assistant", "content": " "}]}, "message 3 .assistant. is empty"),
        ({"messages": [*TALK[:2], {"role": "assistant", "content": None}]}, "message 3 has no text"),
        ({"messages": [TALK[1], TALK[0], TALK[2]]}, "message 2 is from system"),
        ({"messages": TALK[:2]}, "never speaks"),
        ({"messages": [["user", "x"]]}, "message 1 is not an object"),
        ([1], "list instead of an object"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: object, words: str) -> None:
    file = write(tmp_path / "talk.jsonl", {"messages": TALK}, row)
    with pytest.raises(AthanorError, match=rf"talk\.jsonl:2: .*{words}"):
        list(read_conversations([file]))


def test_no_conversation_leaves_no_shards(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(AthanorError, match="no conversations"):
        tokenize_conversations(read_conversations([write(tmp_path / "t.jsonl")]), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out" / "index.json").exists()
