"""A model with its tokenizer, ready to speak: open a model directory, find the stop tokens, stream whole characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from athanor.errors import AthanorError
from athanor.inference.engine import stream
from athanor.inference.sampling import Sampling
from athanor.model.decoder import Decoder
from athanor.model.hf import load_model_dir, open_model_dir
from athanor.tokenizer.chat import END
from athanor.tokenizer.tokenizer import Tokenizer


def default_device() -> torch.device:
    """The accelerator of this machine, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _device(given: torch.device | str | None) -> torch.device:
    """``given`` if this machine has it, else an AthanorError; None: the default one."""
    if given is None:
        return default_device()
    here = default_device().type
    try:
        device = torch.device(given)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", here):
        raise AthanorError(f"no device {str(given)!r} on this machine", where="--device", fix=f"cpu or {here}")
    return device


def utf8(text: str, where: str) -> str:
    """``text`` itself; AthanorError when bytes that are no UTF-8 came in with it (they arrive as lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise AthanorError(f"not UTF-8 at character {error.start}", where=where, fix="convert the text") from None
    return text


@dataclass(frozen=True, slots=True)
class Speaker:
    """One model and the tokenizer that belongs to it."""

    model: Decoder
    tokenizer: Tokenizer

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        later: bool = False,
    ) -> Speaker:
        """Load a model directory. AthanorError when it is none or its tokenizer has more ids than the model rows.

        ``later``: the model stays on the meta device, with its ``first_values``, to be laid over ranks.
        """
        tokenizer = Tokenizer.load(path)
        where = _device(device)
        model = open_model_dir(path, dtype) if later else load_model_dir(path, dtype=dtype, device=where)
        tokenizer.require_fits(model.config.vocab_size, where=str(path))
        return cls(model.eval(), tokenizer)

    @property
    def stop_ids(self) -> list[int]:
        """The end of a text, and the end of a turn where the vocabulary has one."""
        named = self.model.config.eos_token_id
        ids = {self.tokenizer.eos_id, *([named] if isinstance(named, int) else named or [])}
        if self.tokenizer.has_chat:
            ids.add(self.tokenizer.special(END))
        return sorted(ids)

    def stream_text(
        self, prompt: list[int], sampling: Sampling, max_new_tokens: int, row_seed: int = 0
    ) -> Iterator[str]:
        """Pieces of text as they become whole, special tokens left out; together they are the decoded answer."""
        tokens = stream(self.model, prompt, sampling, self.stop_ids, max_new_tokens, row_seed=row_seed)
        return whole_characters(tokens, self.tokenizer)


def whole_characters(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Decode a token stream, holding back bytes until the character they begin is complete.

    A Chinese character may be split over tokens, and what a token decodes to may depend on the one before it; so the
    text since the last clean cut is decoded again, and only what is new and does not end in U+FFFD is let through.
    """
    ids: list[int] = []
    clean, shown = 0, 0  # ids[clean:shown] is already out; ids[shown:] waits
    for token in tokens:
        ids.append(token)
        before, now = tokenizer.decode(ids[clean:shown]), tokenizer.decode(ids[clean:])
        if len(now) > len(before) and not now.endswith("\ufffd"):
            yield now[len(before) :]
            clean, shown = shown, len(ids)
    rest = tokenizer.decode(ids[clean:])[len(tokenizer.decode(ids[clean:shown])) :]
    if rest:
        yield rest
