"""Asking a language model: any OpenAI-compatible endpoint over HTTP, or an Athanor model directory in this process.

Answers are kept in an append-only file by the digest of the request, so that a run that was stopped asks nothing twice
and a changed prompt asks anew.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from athanor.data.chat_endpoint import AskError, address, key_from, post
from athanor.errors import AthanorError
from athanor.files import digest
from athanor.recipe.synthesis import EndpointOptions

_BACKOFF_S, _MAX_WAIT_S = 0.5, 60.0


@dataclass(frozen=True)
class Request:
    """One question: chat messages, and a seed that tells independent samples apart."""

    messages: tuple[tuple[str, str], ...]
    seed: int
    temperature: float

    @classmethod
    def of(cls, prompt: str, seed: int, temperature: float) -> Request:
        """A single user message."""
        return cls((("user", prompt),), seed, temperature)

    def chat(self) -> list[dict[str, str]]:
        """In the form of the wire."""
        return [{"role": role, "content": content} for role, content in self.messages]


@dataclass(frozen=True)
class Reply:
    """``text``, or None with the ``error`` that was left after all tries; ``tokens`` as the endpoint counted them."""

    text: str | None
    error: str = ""
    tokens: int = 0


@dataclass
class Usage:
    """What was asked: requests on the wire, answers from the cache, tokens, repeated tries."""

    requests: int = 0
    cached: int = 0
    tokens: int = 0
    retries: int = 0
    errors: dict[str, int] = field(default_factory=dict)


class Model(Protocol):
    """Something that answers a batch of requests, in their order."""

    usage: Usage

    def ask(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply a request."""
        ...


class Cache:
    """``digest → reply`` in a jsonl file, appended and flushed at every answer; a torn last line is ignored."""

    def __init__(self, path: str | Path | None) -> None:
        self.path = Path(path) if path else None
        self.known: dict[str, tuple[str, int]] = {}
        self._lock = threading.Lock()
        if self.path is not None and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                    self.known[row["key"]] = row["text"], int(row["tokens"])
                except (ValueError, KeyError, TypeError):
                    continue

    def put(self, key: str, text: str, tokens: int) -> None:
        """Remember an answer, on disk before anything is made of it."""
        with self._lock:
            self.known[key] = text, tokens
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                torn = self.path.is_file() and self.path.stat().st_size > 0 and not self._ends_well()
                with open(self.path, "a", encoding="utf-8") as file:
                    row = json.dumps({"key": key, "text": text, "tokens": tokens}, ensure_ascii=True)
                    file.write(("\n" if torn else "") + row + "\n")

    def _ends_well(self) -> bool:
        assert self.path is not None
        with open(self.path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


class Endpoint:
    """An OpenAI-compatible ``/chat/completions``. Requests run concurrently; replies come in the order asked."""

    def __init__(self, options: EndpointOptions) -> None:
        assert options.url is not None
        self.options, self.usage, self.cache = options, Usage(), Cache(options.cache)
        self.address = address(options.url, "--endpoint")
        self.key = key_from(options.api_key_env)
        self._lock = threading.Lock()
        self._sleep = time.sleep

    def ask(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply a request, cached or asked; a failed one is a reply with an error, never an exception."""
        with ThreadPoolExecutor(self.options.concurrency) as pool:
            yield from pool.map(self._one, requests)

    def _one(self, request: Request) -> Reply:
        body = {
            "model": self.options.model,
            "messages": request.chat(),
            "temperature": request.temperature,
            "max_tokens": self.options.max_new_tokens,
            "seed": request.seed,
        }
        key = digest([self.address, body])
        if key in self.cache.known:
            with self._lock:
                self.usage.cached += 1
            text, tokens = self.cache.known[key]
            return Reply(text, tokens=tokens)
        reply = self._tries(body, random.Random(key))
        with self._lock:
            self.usage.tokens += reply.tokens
            if reply.error:
                self.usage.errors[reply.error] = self.usage.errors.get(reply.error, 0) + 1
        if reply.text is not None:
            self.cache.put(key, reply.text, reply.tokens)
        return reply

    def _spend(self) -> bool:
        """Take one request from the budget; False when it is used up."""
        with self._lock:
            most, tokens = self.options.max_requests, self.options.max_tokens
            if (most is not None and self.usage.requests >= most) or (
                tokens is not None and self.usage.tokens >= tokens
            ):
                return False
            self.usage.requests += 1
            return True

    def _tries(self, body: dict[str, Any], jitter: random.Random) -> Reply:
        error = ""
        for number in range(self.options.retries + 1):
            if not self._spend():
                return Reply(None, "budget used up")
            try:
                text, tokens = post(self.address, body, self.key, self.options.timeout_s)
                return Reply(text, tokens=tokens)
            except AskError as failure:
                if not failure.again:
                    return Reply(None, failure.reason)
                error, wait = failure.reason, failure.after_s
            if number < self.options.retries:
                with self._lock:
                    self.usage.retries += 1
                backoff = _BACKOFF_S * 2**number * jitter.uniform(0.5, 1.5)
                self._sleep(min(_MAX_WAIT_S, wait if wait is not None else backoff))
        return Reply(None, error)


class LocalModel:
    """An Athanor model directory; requests are decoded in batches, each with the seed of its request."""

    _BATCH = 64

    def __init__(self, options: EndpointOptions) -> None:
        from athanor.inference.session import Speaker

        assert options.model_dir is not None
        self.options, self.usage, self.cache = options, Usage(), Cache(options.cache)
        self.speaker = Speaker.open(options.model_dir)
        if not self.speaker.tokenizer.has_chat:
            raise AthanorError(
                "this model's vocabulary has no chat tokens", where=options.model_dir, fix="a chat model"
            )

    def ask(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply a request; a prompt that does not fit the context is a reply with an error."""
        for start in range(0, len(requests), self._BATCH):
            yield from self._batch(requests[start : start + self._BATCH])

    def _batch(self, requests: Sequence[Request]) -> list[Reply]:
        from athanor.inference.engine import generate
        from athanor.inference.sampling import Sampling

        model, tokenizer = self.speaker.model, self.speaker.tokenizer
        replies: dict[int, Reply] = {}
        keys = [
            digest([self.options.model_dir, r.chat(), r.seed, r.temperature, self.options.max_new_tokens])
            for r in requests
        ]
        prompts: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            if keys[i] in self.cache.known:
                self.usage.cached += 1
                replies[i] = Reply(*_kept(self.cache.known[keys[i]]))
                continue
            ids = tokenizer.render_chat(request.chat(), add_generation_prompt=True)
            if len(ids) >= model.config.max_position_embeddings:
                replies[i] = Reply(None, "prompt longer than the context")
            elif self.options.max_requests is not None and self.usage.requests >= self.options.max_requests:
                replies[i] = Reply(None, "budget used up")
            else:
                self.usage.requests += 1
                prompts[i] = ids
        for temperature in sorted({requests[i].temperature for i in prompts}):
            rows = [i for i in prompts if requests[i].temperature == temperature]
            made = generate(
                model,
                [prompts[i] for i in rows],
                Sampling(temperature=temperature),
                self.speaker.stop_ids,
                self.options.max_new_tokens,
                0,
                row_seeds=[requests[i].seed for i in rows],
            )
            for i, one in zip(rows, made, strict=True):
                text = tokenizer.decode(one.ids).strip()
                self.usage.tokens += len(one.ids) + len(prompts[i])
                replies[i] = Reply(text, tokens=len(one.ids)) if text else Reply(None, "empty reply")
                if text:
                    self.cache.put(keys[i], text, len(one.ids))
        return [replies[i] for i in range(len(requests))]


def _kept(row: tuple[str, int]) -> tuple[str, str, int]:
    return row[0], "", row[1]


def open_model(options: EndpointOptions) -> Model:
    """The endpoint or the model directory that the options name."""
    return Endpoint(options) if options.url is not None else LocalModel(options)
