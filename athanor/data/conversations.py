"""Conversations → token shards with a loss mask: only what the assistant says is learned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from athanor.data.readers import json_rows
from athanor.data.shards import ShardSet, ShardWriter
from athanor.errors import AthanorError
from athanor.tokenizer import Message, Tokenizer
from athanor.tokenizer.chat import check_messages

_SHAPE = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'

#: (file and line, messages)
Conversation = tuple[str, list[Message]]


def read_conversations(paths: Sequence[str | Path]) -> Iterator[Conversation]:
    """Conversations of jsonl files (plain, ``.gz``, ``.zst``), folders and globs.

    ``AthanorError`` names the file and line of a row that is not a conversation: roles other than system (first
    only), user and assistant, empty content, or no assistant turn to learn from.
    """
    for where, row in json_rows(paths):
        if "messages" not in row:
            raise AthanorError("the row has no messages", where=where, fix=_SHAPE)
        yield where, check_conversation(row["messages"], where)


def check_conversation(messages: list[Message], where: str) -> list[Message]:
    """The messages, when they can be learned from; ``AthanorError`` naming the turn when not."""
    check_messages(messages, where)
    for number, message in enumerate(messages, 1):
        if not message["content"].strip():
            raise AthanorError(
                f"message {number} ({message['role']}) is empty", where=where, fix="write it or remove it"
            )
        if message["role"] == "system" and number > 1:
            raise AthanorError(f"message {number} is from system", where=where, fix="a system message comes first")
    if not any(message["role"] == "assistant" for message in messages):
        raise AthanorError("the assistant never speaks: nothing to learn", where=where, fix=_SHAPE)
    return messages


def tokenize_conversations(
    conversations: Iterable[Conversation], tokenizer: Tokenizer, out: str | Path, *, origin: str = ""
) -> ShardSet:
    """Write masked shards to ``out`` and open them. ``AthanorError`` when there is no conversation at all."""
    empty = True
    with ShardWriter(
        out, tokenizer.fingerprint, tokenizer.vocab_size, with_mask=True, eos_id=tokenizer.eos_id, origin=origin
    ) as writer:
        for where, messages in conversations:
            writer.add(*tokenizer.chat_spans(messages, where))
            empty = False
        if empty:
            raise AthanorError("no conversations", where=str(out), fix=f"jsonl rows like {_SHAPE}")
    return ShardSet.open(out, verify=False)
