"""Ways to one vocabulary for several domains. Each gives exactly N tokens, every one reachable, or says why not.

``natural``   one BPE over all text as it comes: a domain's share of the text is its say.
``balanced``  one BPE over counts scaled so that every domain has (nearly, see ``balance``) the same number of bytes.
``parity``    every merge serves the domain that is compressed worst so far (arXiv 2508.04796).
``union``     a vocabulary of its own for each domain, the lists united and de-duplicated; then merges are derived anew,
              by BPE on balanced counts that may only make tokens of the union, and filled up to N. The
              tokens used least must then earn their places again (``refine_rounds``). (Pangu Ultra,
              arXiv 2504.07866 §3.2, unites frequency lists of domains. Lists of *merges* cannot be united: they
              contradict one another, and tokens become unreachable.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from tokenizers import AddedToken, models

from athanor.errors import AthanorError
from athanor.tokenizer.bpe import Learned, Progress, Rules, byte_ids, learn
from athanor.tokenizer.chat import EOS, PAD
from athanor.tokenizer.counts import PieceCounts
from athanor.tokenizer.fast import BYTE_CHARACTERS
from athanor.tokenizer.kernel import Int32s, Int64s
from athanor.tokenizer.pattern import Digits
from athanor.tokenizer.tokenizer import Tokenizer
from athanor.tokenizer.train import byte_level, special_tokens

Method = Literal["union", "balanced", "parity", "natural"]
METHODS: tuple[Method, ...] = ("union", "balanced", "parity", "natural")
_BYTES = 256
#: The guard of ``_balanced``: rounds at most, the shortfall it lets pass, and a first guess of how bytes a token answer
#: to a domain's say (a say e times as large gains this much of itself; from the second round on that is measured).
_ROUNDS, _TOLERANCE, _ANSWER = 5, 0.001, 0.25
#: Of all merges the share that a round of ``_refined`` puts up for exchange.
_EXCHANGED = 0.4


@dataclass(frozen=True, slots=True)
class Settings:
    """What to train.

    ``weights``: a domain's say where domains are balanced (default 1 each); ``balance``: 1 gives every domain an equal
    say, 0 a say by its bytes, between them a compromise (bytes to the power 1 − balance). ``refine_rounds``: how often
    ``union`` exchanges the tokens used least for better ones (0 never; a second round finds next to nothing).
    """

    vocab_size: int
    method: Method = "union"
    min_frequency: int = 2
    reserved: int = 0
    balance: float = 0.85
    weights: Mapping[str, float] = field(default_factory=dict)
    refine_rounds: int = 1

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
        return learn(pieces, rules, weighted_scores(pieces, natural), progress=progress)
    return _balanced(pieces, settings, natural, rules, progress)


def _balanced(
    pieces: PieceCounts,
    settings: Settings,
    natural: Mapping[str, int],
    rules: Rules,
    progress: Progress | None,
) -> Learned:
    """``union`` and ``balanced``: again with more say for a domain that the natural mixture would have served better
    (all but the largest, which is to give), unless the say was set by hand."""
    wanted = _balanced_bytes(pieces, settings, natural)
    lists = _own_vocabularies(pieces, rules, wanted) if settings.method == "union" and len(wanted) > 1 else {}
    guarded = len(wanted) > 1 and not settings.weights and settings.balance > 0
    dominant = max(wanted, key=natural.__getitem__, default="")
    reference: dict[str, int] = {}
    before: dict[str, tuple[float, int]] = {}
    for _ in range(_ROUNDS if guarded else 1):
        candidates = _candidates(pieces, lists, wanted, rules.max_merges)
        learned = learn(pieces, rules, weighted_scores(pieces, wanted), candidates, progress)
        if len(learned) < rules.max_merges:
            return learned
        if not guarded:
            break
        if not reference:
            by_nature = _tokens(pieces, learn(pieces, rules, weighted_scores(pieces, natural)), settings)
            reference = {d: by_nature[d] for d in wanted if d != dominant}
        now = _tokens(pieces, learned, settings)
        behind = [d for d, n in reference.items() if now[d] > n * (1 + _TOLERANCE)]
        if not behind:
            break
        said = {d: (wanted[d], now[d]) for d in behind}
        for domain in behind:
            wanted[domain] *= _more_say(said[domain], before.get(domain), reference[domain])
        before = said
    if not lists or not settings.refine_rounds:
        return learned
    return _refined(pieces, settings, rules, learned, wanted, reference, progress)


def _refined(
    pieces: PieceCounts,
    settings: Settings,
    rules: Rules,
    learned: Learned,
    wanted: Mapping[str, float],
    reference: Mapping[str, int],
    progress: Progress | None,
) -> Learned:
    """``learned`` with the tokens used least exchanged for better ones; itself where that is no gain.

    A token of the union was worth its place in a domain's own vocabulary; among the tokens of all it may be rare.
    The most used stay candidates, the others come back only where a pair is worth a token now (the steps of a longer
    token's merges do: their pairs stay frequent). ``reference``: the tokens that the natural mixture would need, of all
    domains but the largest. With it, these first share their say evenly (of all ways to share it that is the best for
    the harmonic mean over domains, which must gain, and the largest keeps its part of the whole); where one of them
    would fall behind, the guard's say stands. Without it the say was set by hand, and what it weighs must gain.
    """
    goal = dict.fromkeys(wanted, 1.0) if reference else wanted
    n_bytes = dict(zip(pieces.domains, pieces.n_bytes.tolist(), strict=True))

    def cost(tokens: Mapping[str, int]) -> float:
        return sum(goal[d] * tokens[d] / n_bytes[d] for d in wanted if n_bytes[d])

    before = _tokens(pieces, learned, settings)
    even = sum(wanted[d] for d in reference) / max(len(reference), 1)
    for say in ({**wanted, **dict.fromkeys(reference, even)}, wanted) if reference else (wanted,):
        scores, made = weighted_scores(pieces, say), learned
        for _ in range(settings.refine_rounds):
            made = learn(pieces, rules, scores, _most_used(pieces, made, scores, settings), progress)
        if len(made) < rules.max_merges:
            continue
        now = _tokens(pieces, made, settings)
        fair = all(now[d] <= max(before[d], n * (1 + _TOLERANCE)) for d, n in reference.items())
        if fair and cost(now) < cost(before):
            return made
    return learned


def _most_used(pieces: PieceCounts, learned: Learned, scores: Int64s, settings: Settings) -> set[bytes]:
    """The learned tokens without those that the (scored) pieces, encoded, hold least often."""
    ids, lengths = _encoded(pieces, learned, settings)
    first = learned.first_specials + _BYTES
    use = np.bincount(ids, weights=np.repeat(scores, lengths), minlength=first + len(learned))[first:]
    return {token for token, kept in zip(learned.tokens(), use >= np.quantile(use, _EXCHANGED), strict=True) if kept}


def _more_say(now: tuple[float, int], before: tuple[float, int] | None, wanted_tokens: int) -> float:
    """By what to multiply a domain's say, from (say, tokens) of this round and the last (a secant in logarithms)."""
    answer = _ANSWER
    if before is not None:
        answer = math.log(before[1] / now[1]) / math.log(now[0] / before[0])
    step = math.log(now[1] / wanted_tokens) / answer if answer > 0 else math.inf
    return math.exp(min(max(step, 0.02), math.log(2)))


def _tokens(pieces: PieceCounts, learned: Learned, settings: Settings) -> dict[str, int]:
    """How many tokens each domain's pieces make."""
    lengths = _encoded(pieces, learned, settings)[1]
    return dict(zip(pieces.domains, (lengths @ pieces.counts).tolist(), strict=True))


def _encoded(pieces: PieceCounts, learned: Learned, settings: Settings) -> tuple[Int32s, Int64s]:
    """(ids, lengths): the distinct pieces' ids end to end, and how many each piece has."""
    tokenizer = build(learned, settings.specials, pieces.digits)
    encoded = tokenizer.encode_batch_to_arrays([piece.decode() for piece in pieces.pieces()])
    lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
    return np.concatenate([np.zeros(0, dtype=np.int32), *encoded]), lengths


def _own_vocabularies(pieces: PieceCounts, rules: Rules, wanted: Mapping[str, float]) -> dict[str, Learned]:
    return {name: learn(pieces.only(i), rules) for i, name in enumerate(pieces.domains) if name in wanted}


def _candidates(
    pieces: PieceCounts, lists: Mapping[str, Learned], wanted: Mapping[str, float], size: int
) -> set[bytes]:
    """The tokens of the domains' own vocabularies that gain most, as many as fit.

    A token's gain in a domain is the share of the domain's tokens it saves when it is learned there (times the domain's
    say); gains of a token that several domains have add up. So the lists are cut where one more token is worth the same
    in each, not at the same length: a domain that is soon served leaves room to the others.
    """
    gains: dict[bytes, float] = {}
    for name, learned in lists.items():
        unit = wanted[name] / int(pieces.n_bytes[pieces.domains.index(name)])
        for token, gain in zip(learned.tokens(), learned.gains.tolist(), strict=True):
            gains[token] = gains.get(token, 0.0) + gain * unit
    return set(sorted(gains, key=lambda token: (-gains[token], len(token), token))[:size])


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


def weighted_scores(pieces: PieceCounts, wanted: Mapping[str, float]) -> Int64s:
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
    possible, reached = settings.vocab_size, learned + least
    while reached < possible:  # with another size in view, other merges are made: a few fewer may come of it
        possible = reached
        reached = len(_merges(pieces, replace(settings, vocab_size=possible), natural)) + least
    fix = f"set tokenizer.vocab_size={possible} or less, or add text"
    if settings.min_frequency > 1:
        by_hand = settings.weights or dict.fromkeys(pieces.domains, 1.0)  # one round, the guard would only take time
        more = len(_merges(pieces, replace(settings, min_frequency=1, weights=by_hand), natural)) + least
        if more > possible:
            reach = "all of them" if more == settings.vocab_size else f"{more}"
            fix += f"; tokenizer.min_frequency=1 reaches {reach}, with tokens seen once"
    return AthanorError(
        f"the text is enough for a vocabulary of {possible} tokens; {settings.vocab_size} were asked for",
        where="tokenizer.vocab_size",
        fix=fix,
    )


def assemble(learned: Learned, specials: list[str], digits: Digits) -> Tokenizer:
    """A tokenizer of learned merges, asserted to have every token, and every token reachable."""
    tokenizer = build(learned, specials, digits)
    lost = unreachable(tokenizer)
    if lost or tokenizer.vocab_size != len(specials) + _BYTES + len(learned):
        raise AssertionError(f"of {tokenizer.vocab_size} tokens cannot be reached: {lost[:20]}")
    return tokenizer


def build(learned: Learned, specials: list[str], digits: Digits) -> Tokenizer:
    """Ids 0… are the specials, then the bytes, then the merges in order."""
    ids = byte_ids(len(specials))
    spelled = {int(ids[byte]): character for byte, character in enumerate(BYTE_CHARACTERS)}
    pairs: list[tuple[str, str]] = []
    for number, (a, b) in enumerate(learned.merges.tolist()):
        pairs.append((spelled[a], spelled[b]))
        spelled[len(specials) + _BYTES + number] = spelled[a] + spelled[b]
    vocabulary = {token: i for i, token in enumerate(specials)} | {token: i for i, token in sorted(spelled.items())}
    backend = byte_level(models.BPE(vocabulary, pairs), digits)
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    return Tokenizer(backend, eos=EOS, pad=PAD)


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
