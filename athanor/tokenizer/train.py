"""Training a byte-level BPE vocabulary."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from athanor.errors import AthanorError
from athanor.tokenizer.chat import EOS, PAD, SPECIALS
from athanor.tokenizer.tokenizer import Tokenizer

#: Letters and combining marks of every script but Han (Oniguruma class intersection).
_WORD = r"[\p{L}\p{M}&&[^\p{Han}]]+"

#: Where BPE may never merge across. In order of preference:
#:
#: 1. one digit alone: every number is spelled the same way wherever it stands, which arithmetic needs;
#: 2. a run of Han: Chinese has no spaces, so the words inside are BPE's to find; a Latin name in a Chinese sentence and
#:    full-width punctuation stay apart from it;
#: 3. a word with the one ASCII space or sign before it (" return", "_name", ".append", "(self", "'s"): 3 % fewer tokens
#:    on Python than words with a space alone. Marks belong to the word, or decomposed accents and Indic vowels would
#:    break;
#: 4. a run of signs, with one space before, and after it the line ends ("):\n", "。\n") or one space that a digit
#:    follows (" = " in "6 + 8 = 14": two tokens fewer a line of arithmetic);
#: 5. line ends with the blank lines before them;
#: 6. white space before a digit, whole; other white space less its last character, which belongs to the word that
#:    follows: eight columns of indentation are one token and " return" is the same token at any depth.
#:
#: Every newline ends a piece on purpose. Letting indentation join it would save 6 % on Python, but then a prompt that
#: ends with a newline would have to be continued by tokens that never followed a newline in training.
PATTERN = "|".join(
    [
        r"\p{N}",
        r"\p{Han}+",
        r"[\t -/:-@\[-`{-~]?" + _WORD,
        r" ?[^\s\p{L}\p{M}\p{N}]+(?: (?=\p{N})|[\r\n]*)",
        r"\s*[\r\n]+",
        r"[^\S\r\n]+(?=\p{N})",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

_BYTES = 256


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of exactly ``vocab_size`` tokens, specials and the 256 bytes included.

    No normalisation: every string decodes to itself. A pair must occur twice to become a token. ``AthanorError`` when
    the texts hold fewer distinct pairs than asked (``tokenizers`` would return a smaller vocabulary without a word).
    """
    least = len(SPECIALS) + _BYTES
    if vocab_size < least:
        raise AthanorError(f"a vocabulary of {vocab_size} is too small", fix=f"{least} (bytes and specials) or more")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIALS],
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
