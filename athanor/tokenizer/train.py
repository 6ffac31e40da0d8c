"""Training one byte-level BPE on texts as they come, by the trainer of ``tokenizers``."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from athanor.errors import AthanorError
from athanor.tokenizer.chat import EOS, PAD, SPECIALS
from athanor.tokenizer.pattern import Digits, pattern
from athanor.tokenizer.tokenizer import Tokenizer

_BYTES = 256


def special_tokens(reserved: int = 0) -> list[str]:
    """Special tokens in id order: the contract's, then ``<|reserved_0|>`` …"""
    return [*SPECIALS, *(f"<|reserved_{i}|>" for i in range(reserved))]


def byte_level(model: models.Model, digits: Digits = "single") -> Backend:
    """A byte-level tokenizer round a BPE model: our pattern, no normaliser, no special token added by itself."""
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern(digits)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2, digits: Digits = "single", reserved: int = 0
) -> Tokenizer:
    """Train a byte-level BPE of exactly ``vocab_size`` tokens, specials and the 256 bytes included.

    No normalisation: every string decodes to itself. A pair must occur ``min_frequency`` times to become a token.
    ``AthanorError`` when the texts hold fewer distinct pairs than asked (``tokenizers`` would return a smaller
    vocabulary without a word). For several domains see ``athanor.tokenizer.methods``.
    """
    specials = special_tokens(reserved)
    least = len(specials) + _BYTES
    if vocab_size < least:
        raise AthanorError(f"a vocabulary of {vocab_size} is too small", fix=f"{least} (bytes and specials) or more")
    backend = byte_level(models.BPE(), digits)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    reached = backend.get_vocab_size()
    if reached != vocab_size:
        raise AthanorError(
            f"the text is enough for a vocabulary of {reached} tokens; {vocab_size} were asked for",
            fix=f"set tokenizer.vocab_size={reached} or less, or add text",
        )
    return Tokenizer(backend, eos=EOS, pad=PAD)
