"""Ways to one vocabulary for several domains. Each gives exactly N tokens, every one reachable, or says why not.

``natural``   one BPE over all text as it comes: a domain's share of the text is its say.
``balanced``  one BPE over counts scaled so that every domain has the same number of bytes.
``parity``    every merge serves the domain that is compressed worst so far (arXiv 2508.04796).
``union``     a vocabulary of its own for each domain, the lists united and de-duplicated; then merges are derived anew,
              by BPE on balanced counts that may only make tokens of the union, and filled up to N. (Pangu Ultra,
              arXiv 2504.07866 §3.2, unites frequency lists of domains. Lists of *merges* cannot be united: they
              contradict one another, and tokens become unreachable.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from tokenizers import AddedToken, models

from athanor.errors import AthanorError
from athanor.tokenizer.bpe import Learned, Progress, Rules, byte_ids, learn
from athanor.tokenizer.chat import EOS, PAD
from athanor.tokenizer.counts import PieceCounts
from athanor.tokenizer.fast import BYTE_CHARACTERS
from athanor.tokenizer.kernel import Int64s
from athanor.tokenizer.pattern import Digits
from athanor.tokenizer.tokenizer import Tokenizer
from athanor.tokenizer.train import byte_level, special_tokens

Method = Literal["union", "balanced", "parity", "natural"]
METHODS: tuple[Method, ...] = ("union", "balanced", "parity", "natural")
_BYTES = 256


@dataclass(frozen=True, slots=True)
class Settings:
    """What to train.

    ``weights``: a domain's say where domains are balanced (default 1 each); ``balance``: 1 gives every domain an equal
    say, 0 a say by its bytes, between them a compromise (bytes to the power 1 − balance).
    """

    vocab_size: int
    method: Method = "union"
    min_frequency: int = 2
    reserved: int = 0
    balance: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def specials(self) -> list[str]:
        """Special tokens in id order: the contract's, then the reserved ones."""
        return special_tokens(self.reserved)

    @property
    def n_merges(self) -> int:
        """Tokens left to learn; ``AthanorError`` when bytes and specials alone are too many."""
        least = len(self.specials) + _BYTES
        if self.vocab_size < least:
            raise AthanorError(
                f"a vocabulary of {self.vocab_size} is too small",
                where="tokenizer.vocab_size",
                fix=f"{least} (bytes and specials) or more",
            )
        return self.vocab_size - least


def train_domains(
    pieces: PieceCounts,
    settings: Settings,
    natural_bytes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Tokenizer:
    """The vocabulary of ``settings.vocab_size`` tokens by ``settings.method``.

    ``natural_bytes``: how large each domain really is, where ``pieces`` holds other shares of them. ``AthanorError``
    when the pieces hold too few pairs; it names the size that is possible.
    """
    natural = {name: int(n) for name, n in zip(pieces.domains, pieces.n_bytes, strict=True)} | dict(natural_bytes or {})
    merges = _merges(pieces, settings, natural, progress)
    if len(merges) < settings.n_merges:
        raise _too_little(pieces, settings, natural, len(merges))
    return assemble(merges, settings.specials, pieces.digits)


def _merges(
    pieces: PieceCounts, settings: Settings, natural: Mapping[str, int], progress: Progress | None = None
) -> Learned:
    rules = Rules(
        max_merges=settings.n_merges,
        min_frequency=settings.min_frequency,
        parity=settings.method == "parity",
        first_specials=len(settings.specials),
    )
    if settings.method == "parity":
        return learn(pieces, rules, progress=progress)
    if settings.method == "natural":
        return learn(pieces, rules, _scores(pieces, natural), progress=progress)
    wanted = _balanced_bytes(pieces, settings, natural)
    candidates = _candidates(pieces, rules, wanted) if settings.method == "union" and len(wanted) > 1 else ()
    return learn(pieces, rules, _scores(pieces, wanted), candidates, progress)


def _candidates(pieces: PieceCounts, rules: Rules, wanted: Mapping[str, float]) -> set[bytes]:
    """The tokens of the domains' own vocabularies that gain most, as many as fit.

    A token's gain in a domain is the share of the domain's tokens it saves when it is learned there (times the domain's
    say); gains of a token that several domains have add up. So the lists are cut where one more token is worth the same
    in each, not at the same length: a domain that is soon served leaves room to the others.
    """
    gains: dict[bytes, float] = {}
    for number, name in enumerate(pieces.domains):
        if name in wanted:
            learned = learn(pieces.only(number), rules)
            unit = wanted[name] / int(pieces.n_bytes[number])
            for token, gain in zip(learned.tokens(), learned.gains.tolist(), strict=True):
                gains[token] = gains.get(token, 0.0) + gain * unit
    return set(sorted(gains, key=lambda token: (-gains[token], len(token), token))[: rules.max_merges])


def _balanced_bytes(pieces: PieceCounts, settings: Settings, natural: Mapping[str, int]) -> dict[str, float]:
    unknown = [name for name in settings.weights if name not in pieces.domains]
    if unknown:
        raise AthanorError(
            f"no domain {unknown[0]!r} in the corpus",
            where="tokenizer.weights",
            fix=f"one of: {', '.join(pieces.domains)}",
        )
    return {
        name: settings.weights.get(name, 1.0) * natural[name] ** (1 - settings.balance)
        for name in pieces.domains
        if natural[name]
    }


def _scores(pieces: PieceCounts, wanted: Mapping[str, float]) -> Int64s:
    """Counts with each domain scaled to ``wanted`` bytes (in proportion), in whole numbers so that sums are exact."""
    share = np.array([wanted.get(name, 0.0) for name in pieces.domains], dtype=np.float64)
    scale = np.divide(share, pieces.n_bytes, out=np.zeros_like(share), where=pieces.n_bytes > 0)
    used = scale[scale > 0]
    if used.size and np.ptp(used) > 1e-12 * used.max():
        scale = np.round(scale * (1000 / used.min()))
    else:
        scale = (scale > 0).astype(np.float64)
    return np.asarray(pieces.counts @ scale.astype(np.int64), dtype=np.int64)


def _too_little(pieces: PieceCounts, settings: Settings, natural: Mapping[str, int], learned: int) -> AthanorError:
    """Why the vocabulary cannot be had, with what can."""
    least = len(settings.specials) + _BYTES
    fix = f"set tokenizer.vocab_size={learned + least} or less, or add text"
    if settings.min_frequency > 1:
        values = {name: getattr(settings, name) for name in ("method", "reserved", "balance", "weights")}
        more = len(_merges(pieces, Settings(settings.vocab_size, min_frequency=1, **values), natural)) + least
        reach = "all of them" if more == settings.vocab_size else f"{more}"
        fix += f"; tokenizer.min_frequency=1 reaches {reach}, with tokens seen once"
    return AthanorError(
        f"the text is enough for a vocabulary of {learned + least} tokens; {settings.vocab_size} were asked for",
        where="tokenizer.vocab_size",
        fix=fix,
    )


def assemble(learned: Learned, specials: list[str], digits: Digits) -> Tokenizer:
    """A tokenizer of learned merges: ids 0… are the specials, then the bytes, then the merges in order."""
    ids = byte_ids(len(specials))
    spelled = {int(ids[byte]): character for byte, character in enumerate(BYTE_CHARACTERS)}
    pairs: list[tuple[str, str]] = []
    for number, (a, b) in enumerate(learned.merges.tolist()):
        pairs.append((spelled[a], spelled[b]))
        spelled[len(specials) + _BYTES + number] = spelled[a] + spelled[b]
    vocabulary = {token: i for i, token in enumerate(specials)} | {token: i for i, token in sorted(spelled.items())}
    backend = byte_level(models.BPE(vocabulary, pairs), digits)
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    tokenizer = Tokenizer(backend, eos=EOS, pad=PAD)
    lost = unreachable(tokenizer)
    if lost or tokenizer.vocab_size != len(vocabulary):
        raise AssertionError(f"{len(lost)} tokens cannot be reached, first {tokenizer.token_bytes[lost[0]]!r}")
    return tokenizer


def unreachable(tokenizer: Tokenizer) -> list[int]:
    """Ids of the tokens whose own bytes do not encode to them alone.

    A token that is text is encoded whole, pre-tokeniser included; a part of a character by the merges only.
    """
    texts: list[str] = []
    text_ids: list[int] = []
    lost: list[int] = []
    for i, data in enumerate(tokenizer.token_bytes):
        if i in tokenizer.special_ids or not data:
            continue
        try:
            texts.append(data.decode())
            text_ids.append(i)
        except UnicodeDecodeError:
            if tokenizer.merge_bytes(data) != [i]:
                lost.append(i)
    for i, ids in zip(text_ids, tokenizer.encode_batch_to_arrays(texts), strict=True):
        if ids.tolist() != [i]:
            lost.append(i)
    return sorted(lost)
