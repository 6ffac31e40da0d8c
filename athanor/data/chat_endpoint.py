"""One request to an OpenAI-compatible ``/chat/completions``, with the standard library's HTTP client.

Whether a failure is worth another try is decided here; how often, how long to wait and what to keep is the caller's.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from typing import Any

from athanor.errors import AthanorError

#: Statuses worth another try: too many requests, timeouts, and what servers say when they are overloaded or restarting.
_RETRY_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_MAX_ANSWER_BYTES = 4_000_000


class AskError(Exception):
    """No answer. ``again``: another try may help, ``after_s`` seconds from now where the server says so."""

    def __init__(self, reason: str, again: bool, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.again, self.after_s = reason, again, after_s


def address(url: str, where: str) -> str:
    """The address that is asked, from a base URL or the whole one; ``AthanorError`` for what is no web address."""
    if not url.startswith(("http://", "https://")):
        raise AthanorError(f"not a web address: {url!r}", where=where, fix="http://localhost:8000/v1")
    base = url.rstrip("/")
    return base if base.endswith("/chat/completions") else base + "/chat/completions"


def key_from(variable: str | None) -> str | None:
    """The key in an environment variable (None: no key is sent); ``AthanorError`` where it is not set."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise AthanorError(
            "no key in the environment", where=f"environment variable {variable}", fix=f"export {variable}=…"
        )
    return key


def post(at: str, body: dict[str, Any], key: str | None, timeout_s: float) -> tuple[str, int]:
    """(text of the answer, tokens as the endpoint counted them); ``AskError`` where there is none."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(at, json.dumps(body, ensure_ascii=True).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            raw = answer.read(_MAX_ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        again = error.code in _RETRY_STATUS
        raise AskError(f"status {error.code}", again, _seconds(error.headers.get("Retry-After"))) from None
    except TimeoutError:
        raise AskError("timeout", True) from None
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        slow = isinstance(getattr(error, "reason", None), TimeoutError)
        raise AskError("timeout" if slow else "no connection", True) from None
    return _answer(raw)


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None


def _answer(raw: bytes) -> tuple[str, int]:
    """The text of a chat completion; a malformed one is worth another try (gateways answer with pages under load)."""
    try:
        value = json.loads(raw)
        text = value["choices"][0]["message"]["content"]
        tokens = int((value.get("usage") or {}).get("total_tokens") or 0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise AskError("malformed reply", True) from None
    if not isinstance(text, str) or not text.strip():
        raise AskError("empty reply", True)
    return text, tokens
