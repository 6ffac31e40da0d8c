"""Vocabularies for several domains: exactly N tokens, all reachable in Hugging Face's encoder, the same ids there."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.errors import AthanorError
from athanor.tokenizer import Tokenizer, train_tokenizer
from athanor.tokenizer import kernel as kernel_room
from athanor.tokenizer.bpe import Rules, learn
from athanor.tokenizer.bpe_python import learn_slowly
from athanor.tokenizer.counts import LONGEST_PIECE, PieceCounts, count_pieces
from athanor.tokenizer.fast import BYTE_CHARACTERS
from athanor.tokenizer.measure import fit
from athanor.tokenizer.methods import METHODS, Method, Settings, train_domains, unreachable

needs_kernel = pytest.mark.skipif(kernel_room.kernel() is None, reason="no C++ compiler")
Docs = list[tuple[str, str]]


def words(rng: random.Random, letters: str, n: int, longest: int) -> list[str]:
    return ["".join(rng.choices(letters, k=rng.randint(1, longest))) for _ in range(n)]


def zipf_text(rng: random.Random, lexicon: list[str], n: int, space: str) -> str:
    """Pseudo-words drawn as natural words are: the k-th most frequent about 1/k as often as the first."""
    weights = [1 / (rank + 2) for rank in range(len(lexicon))]
    return space.join(rng.choices(lexicon, weights, k=n))


def corpus(scale: int = 1) -> Docs:
    """Four domains, nine tenths of them English."""
    rng = random.Random(0)
    english = words(rng, "etaoinshrdlu", 900 * scale, 8)
    han = words(rng, "的一是不了人我在有他这中大来上国", 600 * scale, 3)
    code = [f"{a}_{b}" for a, b in zip(words(rng, "abcdefgx", 300, 5), words(rng, "xyzijk", 300, 4), strict=True)]
    docs: Docs = [("english", zipf_text(rng, english, 300, " ") + ".\n") for _ in range(60 * scale)]
    docs += [("chinese", zipf_text(rng, han, 60, "") + "。\n  \n") for _ in range(6 * scale)]
    docs += [("code", "def f():\n    " + zipf_text(rng, code, 60, "\n    ")) for _ in range(4 * scale)]
    docs += [
        ("mathematics", f"{a} + {b} = {a + b} \\frac{{{a}}}{{{b}}}\n" * 2)
        for a, b in zip(range(99), range(5, 104), strict=True)
    ]
    return docs


@pytest.fixture(scope="module")
def docs() -> Docs:
    return corpus()


@pytest.fixture(scope="module")
def pieces(docs: Docs) -> PieceCounts:
    return count_pieces(docs, "single/end")


@needs_kernel
@pytest.mark.parametrize("digits", ["single", "three"])
def test_one_column_and_no_bans_give_the_merges_of_tokenizers(docs: Docs, digits: str) -> None:
    theirs = train_tokenizer([text for _, text in docs], 1500, digits=digits)  # type: ignore[arg-type]
    merges = json.loads(theirs.backend.to_str())["model"]["merges"]
    learned = learn(count_pieces(docs, digits), Rules(1500 - 262, alone=False, first_specials=6))  # type: ignore[arg-type]
    spelled = ["".join(BYTE_CHARACTERS[byte] for byte in token) for token in learned.tokens()]
    assert spelled == ["".join(pair) for pair in merges]
    assert list(learned.gains) == sorted(learned.gains, reverse=True)


@needs_kernel
@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_the_trainer_in_python_learns_the_same(docs: Docs, parity: bool, alone: bool) -> None:
    small = count_pieces(docs[::7])
    rules = Rules(260, parity=parity, alone=alone, first_specials=9)
    raw = small.counts.sum(axis=1)
    columns = small.counts if parity else np.stack([raw, raw], axis=1)
    candidates = () if parity else learn(small, rules).tokens()[:120]
    ours = learn(small, rules, candidates=candidates)
    slow = learn_slowly(small, rules, columns, frozenset(candidates))
    assert np.array_equal(ours.merges, slow.merges) and np.array_equal(ours.gains, slow.gains)


@pytest.mark.parametrize("method", METHODS)
def test_exactly_n_tokens_all_reachable_for_hugging_face(pieces: PieceCounts, method: Method) -> None:
    tokenizer = train_domains(pieces, Settings(900, method, reserved=7))
    assert tokenizer.vocab_size == tokenizer.backend.get_vocab_size(with_added_tokens=True) == 900
    assert unreachable(tokenizer) == []
    for i in range(13, 900):
        token = tokenizer.backend.id_to_token(i)
        assert [t.id for t in tokenizer.backend.model.tokenize(token)] == [i]
        text = tokenizer.backend.decode([i])
        if "\ufffd" not in text:
            assert tokenizer.backend.encode(text, add_special_tokens=False).ids == [i]
    assert [tokenizer.special(f"reserved_{i}") for i in range(7)] == [*range(6, 13)]


@pytest.mark.parametrize("method", METHODS)
def test_order_and_batches_change_nothing(docs: Docs, pieces: PieceCounts, method: Method) -> None:
    shuffled = docs[:]
    random.Random(5).shuffle(shuffled)
    again = count_pieces(shuffled, "single/end", pieces.domains)
    settings_ = Settings(700, method)
    assert train_domains(again, settings_).fingerprint == train_domains(pieces, settings_).fingerprint


def test_balanced_methods_serve_the_small_domains(docs: Docs, pieces: PieceCounts) -> None:
    texts = {d: [t for domain, t in docs if domain == d] for d in pieces.domains}
    figures = {}
    for method in METHODS:
        tokenizer = train_domains(pieces, Settings(700, method))
        figures[method] = {d: fit(tokenizer, some).bytes_per_token for d, some in texts.items()}
    for method in ("union", "balanced"):
        assert all(figures[method][d] > 1.2 * figures["natural"][d] for d in ("chinese", "code"))
        assert figures[method]["mathematics"] >= figures["natural"]["mathematics"]
        assert figures[method]["english"] < figures["natural"]["english"]
    towards_natural = train_domains(pieces, Settings(700, "balanced", balance=0.0))
    assert towards_natural.fingerprint == train_domains(pieces, Settings(700, "natural")).fingerprint
    heavy = train_domains(pieces, Settings(700, "union", weights={"english": 20.0}))
    assert fit(heavy, texts["english"]).bytes_per_token > figures["union"]["english"]


def test_no_domain_but_the_largest_pays_for_a_smaller_one(docs: Docs) -> None:
    """A second domain that is large already would pay for the smallest ones when all are balanced: it gets more say."""
    pieces = count_pieces(docs)
    natural = {"english": 10**9, "chinese": 9 * 10**8, "code": 10**5, "mathematics": 10**5}
    texts = {d: [t for domain, t in docs if domain == d] for d in pieces.domains}

    def figures(**options: Any) -> dict[str, float]:
        tokenizer = train_domains(pieces, Settings(420, min_frequency=1, **options), natural)
        return {d: fit(tokenizer, some).bytes_per_token for d, some in texts.items()}

    by_nature, guarded = figures(method="natural"), figures(balance=1.0)
    by_hand = figures(balance=1.0, weights={"english": 1.0})  # weights given: no guard
    assert by_hand["chinese"] < by_nature["chinese"] * 0.97  # else this corpus would show nothing
    assert by_nature["chinese"] * 0.998 < guarded["chinese"] < by_nature["chinese"] * 1.1
    assert guarded["code"] > by_nature["code"] and guarded["english"] > by_hand["english"] * 0.9


def weighed_tokens(tokenizer: Tokenizer, docs: Docs) -> float:
    """Tokens a byte, summed over domains: the reciprocal of the harmonic mean of bytes a token."""
    domains = dict.fromkeys(domain for domain, _ in docs)
    texts = {d: [t for domain, t in docs if domain == d] for d in domains}
    return sum(1 / fit(tokenizer, some).bytes_per_token for some in texts.values())


@pytest.mark.parametrize("weights", [{}, {"code": 3.0}])
def test_refining_exchanges_tokens_that_earn_too_little(docs: Docs, weights: dict[str, float]) -> None:
    """Exactly as many, all reachable, lossless, and fewer tokens for the domains together than without."""
    pieces = count_pieces(docs, "single/end")
    plain = train_domains(pieces, Settings(500, weights=weights, refine_rounds=0))
    refined = train_domains(pieces, Settings(500, weights=weights))
    assert refined.fingerprint != plain.fingerprint
    assert refined.vocab_size == refined.backend.get_vocab_size(with_added_tokens=True) == 500
    assert unreachable(refined) == []
    if not weights:
        assert weighed_tokens(refined, docs) < weighed_tokens(plain, docs) * 0.999
    assert all(refined.decode(refined.encode(text)) == text for _, text in docs[::5])
    other_method = Settings(500, "balanced", weights=weights)
    unrefined = train_domains(pieces, replace(other_method, refine_rounds=0))
    assert train_domains(pieces, other_method).fingerprint == unrefined.fingerprint


def test_natural_bytes_undo_what_was_read_in_other_shares(docs: Docs, pieces: PieceCounts) -> None:
    half = [pair for pair in docs if pair[0] != "english"] + [pair for pair in docs if pair[0] == "english"] * 2
    doubled = count_pieces(half, "single/end", pieces.domains)
    natural = dict(zip(pieces.domains, pieces.n_bytes.tolist(), strict=True))
    wanted = Settings(600, "natural", min_frequency=1)
    assert train_domains(doubled, wanted, natural).fingerprint == train_domains(pieces, wanted).fingerprint


def test_too_little_text_says_which_size_is_possible(pieces: PieceCounts) -> None:
    with pytest.raises(AthanorError, match=r"enough for a vocabulary of (\d+) tokens; 50000 were asked") as error:
        train_domains(pieces, Settings(50_000))
    possible = int(str(error.value).split("vocabulary of ")[1].split()[0])
    assert "min_frequency=1 reaches" in str(error.value)
    assert train_domains(pieces, Settings(possible)).vocab_size == possible
    with pytest.raises(AthanorError, match="enough"):
        train_domains(pieces, Settings(possible + 50))
    with pytest.raises(AthanorError, match="too small"):
        train_domains(pieces, Settings(260))
    with pytest.raises(AthanorError, match="no domain 'klingon'"):
        train_domains(pieces, Settings(600, weights={"klingon": 2.0}))


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_lossless(pieces: PieceCounts, text: str) -> None:
    tokenizer = _cached(pieces)
    assert tokenizer.decode(tokenizer.encode(text)) == text


_made: dict[int, Tokenizer] = {}


def _cached(pieces: PieceCounts) -> Tokenizer:
    return _made.setdefault(id(pieces), train_domains(pieces, Settings(800)))


@pytest.mark.parametrize("digits", ["single", "three", "single/end"])
def test_transformers_gives_the_same_ids(docs: Docs, tmp_path: Path, digits: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = train_domains(count_pieces(docs, digits), Settings(800, reserved=3))  # type: ignore[arg-type]
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    samples = [text for _, text in docs[::9]] + ["1234567 + ８ = x", "a<|end|>b<|reserved_1|>", " \n\n  中文 \t"]
    for text in samples:
        assert theirs.encode(text, split_special_tokens=True) == tokenizer.encode(text)
        assert min(tokenizer.encode(text)) >= 9
    numbers = [tokenizer.decode([i]) for i in tokenizer.encode("1234567")]
    assert all(len(n) == 1 for n in numbers) if digits != "three" else max(map(len, numbers)) > 1
    chat = [{"role": "user", "content": "1 <|end|>"}, {"role": "assistant", "content": "好"}]
    assert theirs.apply_chat_template(chat[1:], return_dict=False) == tokenizer.render_chat(chat[1:])
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint


def test_a_space_behind_signs_at_the_end_makes_their_token_reachable(docs: Docs) -> None:
    sums = [("mathematics", f"{a} + {b} = {a + b}, ") for a in range(40) for b in range(40)]
    whole = train_domains(count_pieces(sums, "single/end"), Settings(267, min_frequency=2))
    assert whole.encode(" = ") == whole.encode("1 = 2")[1:2] and whole.encode("1 = ") == whole.encode("1 = 2")[:2]
    assert {" = ", " + "} <= {whole.decode([i]) for i in range(262, 267)}
    cut = train_domains(count_pieces(sums), Settings(264, min_frequency=2))
    assert not {" = ", " + "} & {cut.decode([i]) for i in range(262, 264)} and unreachable(cut) == []


def test_pieces_that_are_too_long_teach_nothing() -> None:
    long = "x" * (LONGEST_PIECE + 1)
    counts = count_pieces([("a", f"short {long} short"), ("a", "\ud800 odd")])
    assert b" short" in counts.pieces() and not any(b"xx" in piece for piece in counts.pieces())
    assert counts.n_bytes[0] == len(long) + 12 + 5


@needs_kernel
def test_counts_without_a_compiler_are_the_same(docs: Docs, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = count_pieces(docs[::5])
    kernel_room.kernel.cache_clear()
    monkeypatch.setenv("ATHANOR_NATIVE", "0")
    slow = count_pieces(docs[::5])
    vocabulary = train_domains(slow, Settings(500)).fingerprint
    monkeypatch.undo()
    kernel_room.kernel.cache_clear()
    assert slow.pieces() == expected.pieces() and np.array_equal(slow.counts, expected.counts)
    assert train_domains(expected, Settings(500)).fingerprint == vocabulary


@needs_kernel
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_preset_size(method: Method) -> None:
    """153,376 tokens from generated text: pseudo-words of several scripts, as often as natural words are."""
    rng = random.Random(3)
    scripts = {"english": "etaoinshrdlu", "chinese": "的一是不了人我在有他这中大来上国个到说们为子", "code": "_abcxyz"}
    documents: Docs = []
    for domain, letters in scripts.items():
        lexicon = words(rng, letters, 160_000, 9)
        documents += [(domain, zipf_text(rng, lexicon, 900_000 if domain == "english" else 300_000, " "))]
    tokenizer = train_domains(count_pieces(documents), Settings(153_376, method, min_frequency=1, reserved=256))
    assert tokenizer.vocab_size == 153_376 and unreachable(tokenizer) == []
