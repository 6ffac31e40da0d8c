"""One vocabulary, applied: text ↔ ids, chats → ids, a directory that ``transformers`` opens."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend

from athanor.errors import AthanorError
from athanor.files import write_atomic, write_json
from athanor.tokenizer.chat import CHAT_TEMPLATE, END, EOS, PAD, ROLES, Message, check_messages
from athanor.tokenizer.fast import BYTE_CHARACTERS, BYTE_OF, FastEncoder

#: Below this many characters in all, `tokenizers` answers: the fast encoder takes a moment to set up.
_SMALL = 20_000
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


class Tokenizer:
    """Text ↔ ids. Special tokens written in a text are text: only this class's own methods place special ids.

    A directory saved here opens in ``transformers.AutoTokenizer`` with the same ids. One difference is transformers'
    default, not the vocabulary's: it parses special tokens inside a text unless ``split_special_tokens=True`` is given,
    so a person who types ``<|end|>`` could end a turn there; here they cannot.

    Vocabularies trained here are encoded by a C++ kernel with the ids of ``tokenizers`` (``athanor.tokenizer.fast``).
    Pickles whole, and may be used after a fork.
    """

    def __init__(self, backend: Backend, eos: str, pad: str) -> None:
        # Without this, `tokenizers` parses specials inside raw text: an injection into training data.
        backend.encode_special_tokens = True
        self.backend = backend
        self._eos, self._pad = eos, pad
        self.eos_id, self.pad_id = self.special(eos), self.special(pad)
        self._seen = 0

    def __reduce__(self) -> Any:
        return _unpickled, (self.backend.to_str(), self._eos, self._pad)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Open a tokenizer or model directory. ``AthanorError`` when it is missing, unreadable or has no end token."""
        path = Path(path)
        file = path / "tokenizer.json"
        if not file.is_file():
            raise AthanorError("no tokenizer here", where=str(path), fix="a directory that holds tokenizer.json")
        try:
            backend = Backend.from_file(str(file))
        except Exception as error:  # `tokenizers` raises bare Exception
            raise AthanorError(
                f"tokenizer.json cannot be read: {error}", where=str(file), fix="copy it again"
            ) from None
        config = _read_config(path / "tokenizer_config.json")
        names = [_token_text(config.get("eos_token")), EOS]
        eos = next((name for name in names if name and backend.token_to_id(name) is not None), None)
        if eos is None:
            raise AthanorError(
                "the vocabulary has no end token", where=str(path), fix="eos_token in tokenizer_config.json"
            )
        pads = [_token_text(config.get("pad_token")), PAD]
        pad = next((name for name in pads if name and backend.token_to_id(name) is not None), eos)
        return cls(backend, eos=eos, pad=pad)

    def save(self, path: str | Path) -> None:
        """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``special_tokens_map.json``, each atomically."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        specials = {"eos_token": self._eos, "pad_token": self._pad}
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **specials,
        }
        if self.has_chat:
            config["chat_template"] = CHAT_TEMPLATE
        write_json(path / "tokenizer_config.json", config)
        write_json(path / "special_tokens_map.json", specials)
        write_atomic(path / "tokenizer.json", self.backend.to_str(pretty=True))

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id, special tokens included."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the ids mean: vocabulary, merges and added tokens. Equal fingerprints, equal ids."""
        state = json.loads(self.backend.to_str())
        merges = [m if isinstance(m, str) else " ".join(m) for m in state["model"].get("merges", [])]
        vocabulary = sorted(self.backend.get_vocab(with_added_tokens=True).items())
        return hashlib.sha256(json.dumps([vocabulary, merges], ensure_ascii=False).encode()).hexdigest()

    @property
    def has_chat(self) -> bool:
        """Whether the vocabulary holds this project's chat tokens (an imported one may not)."""
        return all(self.backend.token_to_id(token) is not None for token in (*(f"<|{r}|>" for r in ROLES), END))

    def special(self, name: str) -> int:
        """Id of a special token, by its bare name (``user``) or in full (``<|user|>``)."""
        # Among the special ones only: "end" and "user" may well be ordinary tokens of the vocabulary too.
        specials = {t.content: i for i, t in self.backend.get_added_tokens_decoder().items() if t.special}
        for token in (name, f"<|{name}|>"):
            if token in specials:
                return int(specials[token])
        raise AthanorError(f"the vocabulary has no special token {name!r}")

    def require_fits(self, model_vocab_size: int, where: str | None = None) -> None:
        """``AthanorError`` unless a model of ``model_vocab_size`` has a row for every id of this vocabulary."""
        if self.vocab_size > model_vocab_size:
            raise AthanorError(
                f"the tokenizer has {self.vocab_size} tokens, the model {model_vocab_size}: another vocabulary",
                where=where,
                fix=f"model.vocab_size={self.vocab_size}, or the tokenizer the model was trained with",
            )

    @cached_property
    def fast(self) -> FastEncoder | None:
        """The C++ encoder of this vocabulary; None for an imported one of another kind, or without a compiler."""
        return FastEncoder.of(self.backend)

    def _fast_for(self, n_chars: int) -> FastEncoder | None:
        self._seen += n_chars
        return self.fast if self._seen >= _SMALL else None

    def encode(self, text: str) -> list[int]:
        """Ids of a text; no token is added, and special tokens in it are spelled as plain text."""
        fast = self._fast_for(len(text))
        if fast is not None:
            return list(fast.encode([text.encode()])[0].tolist())
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_to_array(self, text: str) -> npt.NDArray[np.int32]:
        """``encode`` as an int32 array: no Python number for each token."""
        return self.encode_batch_to_arrays([text], threads=1)[0]

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
        """``encode`` of many texts, on ``threads`` threads (default: the cores this process may use)."""
        return [ids.tolist() for ids in self.encode_batch_to_arrays(texts, threads)]

    def encode_batch_to_arrays(self, texts: Sequence[str], threads: int | None = None) -> list[npt.NDArray[np.int32]]:
        """``encode_batch`` as int32 arrays."""
        fast = self._fast_for(sum(map(len, texts)))
        if fast is None:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        return fast.encode_many([text.encode() for text in texts], threads or usable_cores())

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: what is UTF-8 as ``encode``, every other byte as its own token; see ``decode_bytes``."""
        ids: list[int] = []
        start, text = 0, data.decode("utf-8", "surrogateescape")
        for match in _NOT_UTF8.finditer(text):
            ids += self.encode(text[start : match.start()])
            byte = self.backend.token_to_id(BYTE_CHARACTERS[ord(match.group()) - 0xDC00])
            if byte is None:
                raise AthanorError("the vocabulary has no token for each byte", fix="a byte-level vocabulary")
            ids.append(byte)
            start = match.end()
        return ids + self.encode(text[start:])

    def merge_bytes(self, piece: bytes) -> list[int]:
        """Ids of the bytes of one piece by the merges alone, without the pre-tokeniser."""
        if self.fast is not None:
            return self.fast.merge(piece)
        return [token.id for token in self.backend.model.tokenize("".join(BYTE_CHARACTERS[byte] for byte in piece))]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of ids. Bytes that are not UTF-8 (a cut character) become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Bytes of ids, exactly (special tokens as their names): undoes ``encode_bytes``."""
        return b"".join(self.token_bytes[i] for i in ids)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the special tokens."""
        return frozenset(i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether tokens are spelled in GPT-2's characters for bytes."""
        state = json.loads(self.backend.to_str())
        return "ByteLevel" in json.dumps([state.get("decoder"), state.get("pre_tokenizer")])

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of every token, by id; of a vocabulary that is not byte-level, the UTF-8 of its spelling."""
        added = self.backend.get_added_tokens_decoder()
        out = [b""] * self.vocab_size
        for token, i in self.backend.get_vocab(with_added_tokens=True).items():
            plain = i in added or not self.is_byte_level or any(c not in BYTE_OF for c in token)
            out[i] = token.encode() if plain else bytes(BYTE_OF[c] for c in token)
        return out

    def render_chat(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> list[int]:
        """``<|role|>`` + content + ``<|end|>`` for each turn; then ``<|assistant|>`` if an answer is to follow."""
        ids = self.chat_spans(messages)[0]
        return [*ids, self.special("assistant")] if add_generation_prompt else ids

    def chat_spans(self, messages: Sequence[Message], where: str | None = None) -> tuple[list[int], list[int]]:
        """(ids, mask) of a conversation; mask is 1 on the assistant's tokens: its text and the ``<|end|>`` after it."""
        check_messages(messages, where)
        end = self.special("end")
        ids: list[int] = []
        mask: list[int] = []
        for message, content in zip(messages, self.encode_batch([m["content"] for m in messages]), strict=True):
            ids += [self.special(message["role"]), *content, end]
            mask += [0] + [int(message["role"] == "assistant")] * (len(content) + 1)
        return ids, mask


def _unpickled(state: str, eos: str, pad: str) -> Tokenizer:
    return Tokenizer(Backend.from_str(state), eos=eos, pad=pad)


def usable_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AthanorError(f"not JSON: {error}", where=str(file), fix="copy it again") from None
    if not isinstance(config, dict):
        raise AthanorError("not a JSON object", where=str(file), fix="copy it again")
    return config


def _token_text(token: Any) -> str | None:
    """Hugging Face writes a special token as its text or as an object with ``content``."""
    return token.get("content") if isinstance(token, dict) else token
