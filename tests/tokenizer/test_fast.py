"""The C++ encoder: the ids of ``tokenizers`` on every text, from any thread and process."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, pre_tokenizers

from athanor.errors import AthanorError
from athanor.tokenizer import Tokenizer, train_tokenizer
from athanor.tokenizer import kernel as kernel_room
from athanor.tokenizer.fast import BYTE_CHARACTERS, FastEncoder, pieces
from athanor.tokenizer.pattern import NUMBER, POLICIES, SIGN, SPACE, Digits, flags, pattern
from athanor.tokenizer.train import byte_level

needs_kernel = pytest.mark.skipif(kernel_room.kernel() is None, reason="no C++ compiler")
TEXTS = [
    "def add(self, first, second):\n        return self.first + 12 + second  \n\n\n" * 12,
    "The quick brown fox doesn't jump over the lazy dog's house, 1999 — and the dog sleeps. " * 9,
    "小明有三个苹果，小红有二〇二四个。他们一共有多少个苹果？\n答案：ｘ＝８ 个 apple。" * 9,
]
#: Characters that sit at the pattern's seams.
SEAMS = (
    " \t\n\r\x0b\x85\u2028\u3000\xa0\u200b\ufeff\x00aé\u0301ßЖあー한0٣²½Ⅷ〇中文々⺀。，（(=+_'\"-#$`~^"
    "\U0001f642\U0001d4b3\U00020000\U000e0100\ud7ff\ue000\U0010ffff"
)
texts = st.one_of(st.text(st.sampled_from(SEAMS), max_size=24), st.text(st.characters(codec="utf-8"), max_size=60))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 420)


@pytest.fixture
def without_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kernel_room.kernel.cache_clear()
    monkeypatch.setenv("ATHANOR_NATIVE", "0")
    yield
    monkeypatch.undo()
    kernel_room.kernel.cache_clear()


@needs_kernel
@pytest.mark.parametrize("digits", list(POLICIES))
@settings(max_examples=400, deadline=None)
@given(text=texts)
def test_pieces_are_those_of_the_pattern(digits: Digits, text: str) -> None:
    theirs = pre_tokenizers.Split(Regex(pattern(digits)), "isolated").pre_tokenize_str(text)
    assert pieces(text, digits) == [piece for piece, _ in theirs]


@needs_kernel
@settings(max_examples=400, deadline=None)
@given(st.lists(texts, max_size=4))
def test_ids_are_those_of_tokenizers(tokenizer: Tokenizer, some: list[str]) -> None:
    assert tokenizer.fast is not None
    theirs = [tokenizer.backend.encode(text, add_special_tokens=False).ids for text in some]
    ids, ends = tokenizer.fast.encode([text.encode() for text in some])
    assert ids.dtype == np.int32
    assert [part.tolist() for part in np.split(ids, ends[:-1])][: len(some)] == theirs


@needs_kernel
def test_ids_of_merges_that_contradict_one_another() -> None:
    """Lists of merges that no trainer made: several ways to one token, ranks against the order of making."""
    rng = random.Random(0)
    for _ in range(30):
        vocabulary = {character: i for i, character in enumerate(BYTE_CHARACTERS)}
        merges: list[tuple[str, str]] = []
        tokens = list("abc")
        for _ in range(40):
            a, b = rng.choice(tokens), rng.choice(tokens)
            if len(a + b) < 7 and (a, b) not in merges:
                merges.append((a, b))
                tokens.append(a + b)
                vocabulary.setdefault(a + b, len(vocabulary))
        rng.shuffle(merges)
        backend = byte_level(models.BPE(vocabulary, merges))
        fast = FastEncoder.of(backend)
        assert fast is not None
        for _ in range(60):
            word = "".join(rng.choice("abc") for _ in range(rng.randint(1, 40)))
            assert fast.encode([word.encode()])[0].tolist() == backend.encode(word).ids


@needs_kernel
def test_a_cache_that_overflows_changes_nothing(tokenizer: Tokenizer) -> None:
    """More distinct pieces than the cache holds: it begins anew in the middle."""
    rng = random.Random(1)
    many = [" ".join("".join(rng.choices("abcd", k=rng.randint(1, 4))) for _ in range(300)) for _ in range(9)]
    fast = FastEncoder.of(tokenizer.backend, cache_bytes=5_000)
    assert fast is not None
    theirs = [tokenizer.backend.encode(text).ids for text in many]
    assert [ids.tolist() for ids in fast.encode_many([text.encode() for text in many], threads=1)] == theirs


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_and_arrays_agree(tokenizer: Tokenizer, threads: int) -> None:
    some = [*TEXTS, "", "x", *(text[i:] for i in range(9) for text in TEXTS), "", *(text * 99 for text in TEXTS * 5)]
    expected = [tokenizer.backend.encode(text).ids for text in some]
    assert tokenizer.encode_batch(some, threads=threads) == expected
    assert [a.tolist() for a in tokenizer.encode_batch_to_arrays(some, threads)] == expected
    assert [tokenizer.encode_to_array(text).tolist() for text in some] == expected
    assert tokenizer.encode_batch([]) == []


def test_pickles_and_works_in_forked_and_spawned_processes(tokenizer: Tokenizer) -> None:
    expected = tokenizer.encode_batch(TEXTS * 20)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.fingerprint == tokenizer.fingerprint and again.encode_batch(TEXTS * 20) == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(tokenizer.encode_batch, [TEXTS * 20] * 3) == [expected] * 3


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_lossless_on_every_byte_string(tokenizer: Tokenizer, data: bytes) -> None:
    ids = tokenizer.encode_bytes(data)
    assert tokenizer.decode_bytes(ids) == data
    with contextlib.suppress(UnicodeDecodeError):
        assert ids == tokenizer.encode(data.decode())


def test_without_a_compiler_tokenizers_answers(tokenizer: Tokenizer, without_kernel: None) -> None:
    plain = pickle.loads(pickle.dumps(tokenizer))
    assert plain.fast is None
    assert plain.encode_batch(TEXTS * 20) == [tokenizer.backend.encode(text).ids for text in TEXTS * 20]
    assert plain.merge_bytes(b"\xe4\xb8") == tokenizer.merge_bytes(b"\xe4\xb8")
    assert pieces("a 12 中文\n") == ["a", " ", "1", "2", " ", "中文", "\n"]


def test_vocabularies_of_another_kind_are_left_to_tokenizers(tokenizer: Tokenizer) -> None:
    other = pickle.loads(pickle.dumps(tokenizer)).backend
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert FastEncoder.of(other) is None
    added = pickle.loads(pickle.dumps(tokenizer)).backend
    added.add_tokens([AddedToken("return", special=False)])
    assert FastEncoder.of(added) is None
    assert FastEncoder.of(byte_level(models.BPE({"a": 0}, []))) is None
    imported = Tokenizer(added, eos="<|endoftext|>", pad="<|pad|>")
    assert imported.encode_batch(TEXTS * 20)[0] == added.encode(TEXTS[0]).ids


def test_bytes_without_byte_tokens_are_refused() -> None:
    backend = byte_level(models.BPE({"a": 0}, []))
    backend.add_special_tokens([AddedToken("</s>", special=True)])
    with pytest.raises(AthanorError, match="each byte"):
        Tokenizer(backend, eos="</s>", pad="</s>").encode_bytes(b"\xff")


def test_lone_surrogates_are_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode_batch(["a\ud800b" * 20_000])


def test_classes_of_characters_are_those_of_the_regular_expressions() -> None:
    table = flags()
    assert table.shape == (0x110000,)
    for bit, members in ((NUMBER, r"\p{N}"), (SPACE, r"\s"), (SIGN, r"[^\s\p{L}\p{M}\p{N}]")):
        split = pre_tokenizers.Split(Regex(members), "isolated")
        rng = random.Random(bit)
        for point in [*range(0x3100), *(rng.randrange(0x3100, 0x110000) for _ in range(3000))]:
            if 0xD800 <= point < 0xE000:
                continue
            # between two letters a member is cut out, anything else leaves one piece (or two, of no match at all)
            cut = len(split.pre_tokenize_str("a" + chr(point) + "a")) == 3
            assert bool(table[point] & bit) == cut, hex(point)
