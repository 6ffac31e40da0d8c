"""MinHash deduplication against plain Python: tokens, Jaccard similarities, clusters, keep rules, indexes."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from athanor.data.steps import shingles, signatures
from athanor.data.steps.base import Docs, Step, run_in_memory
from athanor.data.steps.index import Index, merge_indexes
from athanor.data.steps.minhash import MinhashDedup
from athanor.errors import AthanorError
from athanor.recipe.steps.dedup import MinhashOptions

WORDS = ("stone", "river", "walk", "under", "green", "seven", "lamp", "voice", "paper", "north", "cloud", "bread")


def prose(seed: int, n: int = 120) -> list[str]:
    rng = random.Random(seed)
    return [rng.choice(WORDS) + str(rng.randrange(40)) for _ in range(n)]


def han(seed: int, n: int = 200) -> str:
    rng = random.Random(seed)
    return "".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(n))


def run(texts: list[str], tmp_path: Path, ids: list[str] | None = None, **options: object):  # type: ignore[no-untyped-def]
    columns = {name: options.pop(name) for name in ("meta", "source") if name in options}
    step = MinhashDedup(MinhashOptions(**options))  # type: ignore[arg-type]
    names = ids or [f"d{i}" for i in range(len(texts))]
    return step, run_in_memory([step], Docs.of(texts, id=names, **columns), tmp_path)


def token_strings(text: str, **how: bool) -> list[str]:
    tokens = shingles.tokens_of(Docs.of([text]), **how)
    raw = text.encode()
    return [raw[a:b].decode() for a, b in zip(tokens.start, tokens.end, strict=True)]


def test_tokens_are_words_and_single_han_characters() -> None:
    text = "Hello, World_2! 你好，世界 naïve ЖУК x² 日本のテスト 3.5km"
    assert token_strings(text) == [
        *("Hello", "World_2", "你", "好", "世", "界", "naïve", "ЖУК", "x²"),
        *("日", "本", "の", "テ", "ス", "ト", "3", "5km"),
    ]


def test_case_width_and_punctuation_do_not_change_hashes() -> None:
    same = ["Hello World 25 你好", "hello, WORLD! ２５—你、好", "ＨＥＬＬＯ\tworld\n25　你好。"]
    hashes = [shingles.tokens_of(Docs.of([text])).hash.tolist() for text in same]
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(set(hashes[0])) == len(hashes[0]) == 5


def test_numbers_fold_into_one_token() -> None:
    assert token_strings("he has 1,250.5 dollars and 三十五 元", numbers=True) == [
        *("he", "has", "1,250.5", "dollars", "and", "三十五", "元")
    ]
    a, b = (shingles.tokens_of(Docs.of([t]), numbers=True).hash for t in ("pay 1,250 now 12", "pay 七 now ９9"))
    assert a.tolist() == b.tolist()


def test_kernel_and_numpy_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    if shingles.dedup_kernel() is None:
        pytest.skip("no C++ compiler")
    rng = random.Random(5)
    ranges = ((32, 127), (0xA0, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000), (0x4E00, 0x9FFF), (48, 58))
    noise = ["".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(90))) for _ in range(60)]
    docs = Docs.of(
        [*noise, "", " ", "a", "one two three", "1 2 3 一二", "Ab9" * 400 + " x", han(3, 700), " ".join(prose(1, 900))]
    )
    for numbers in (False, True):
        fast = shingles.tokens_of(docs, numbers=numbers)
        minima = signatures.minima(fast, 5, 112, 3)
        with monkeypatch.context() as patch:
            patch.setattr(shingles, "dedup_kernel", lambda: None)
            patch.setattr(signatures, "dedup_kernel", lambda: None)
            slow = shingles.tokens_of(docs, numbers=numbers)
            for field in ("hash", "start", "end", "offsets"):
                np.testing.assert_array_equal(getattr(fast, field), getattr(slow, field))
            np.testing.assert_array_equal(minima, signatures.minima(slow, 5, 112, 3))


def test_signature_estimates_the_jaccard_similarity_of_word_sets() -> None:
    base = prose(1, 400)
    texts, expected = [" ".join(base)], []
    for n_changed in (4, 12, 25, 50):
        changed = list(base)
        for place in random.Random(n_changed).sample(range(400), n_changed):
            changed[place] = f"new{place}"
        texts.append(" ".join(changed))
        left, right = ({tuple(w[i : i + 5]) for i in range(396)} for w in (base, changed))
        expected.append(len(left & right) / len(left | right))
    words = signatures.packed_signature(signatures.minima(shingles.tokens_of(Docs.of(texts)), 5, 2048, 1))
    for i, jaccard in enumerate(expected, 1):
        agreeing = sum(int(signatures.agreements(w[:1].copy(), w[i : i + 1].copy())[0]) for w in words)
        assert abs(signatures.estimated_jaccard(np.array([agreeing]), 2048)[0] - jaccard) < 0.045


def test_found_pairs_follow_the_curve_of_lsh() -> None:
    """Share of pairs that meet in a band at J = 0.8: 1 - (1 - 0.8^8)^14 = 0.924, over 400 pairs of sets."""
    rng = np.random.default_rng(0)
    n_pairs, n_shared, n_own = 400, 160, 20  # 160 / (160 + 20 + 20) = 0.8
    shared = rng.integers(0, 2**63, (n_pairs, n_shared), dtype=np.uint64)
    sides = [np.hstack([shared, rng.integers(0, 2**63, (n_pairs, n_own), dtype=np.uint64)]) for _ in range(2)]
    offsets = np.arange(n_pairs + 1) * (n_shared + n_own)
    a, b = signatures.hash_parameters(112, 1)
    minima = [signatures._minima_numpy(shingles.mixed(side.ravel()), offsets, a, b) for side in sides]
    for groupings, low, high in ((1, 0.924 - 0.04, 0.924 + 0.04), (2, 0.97, 1.0)):
        left, right = (signatures.band_keys(m, 14, 8, groupings) for m in minima)
        assert low <= (left == right).any(axis=0).mean() <= high


@pytest.mark.parametrize("make", [lambda s: " ".join(prose(s)), han], ids=["en", "zh"])
def test_near_duplicates_are_dropped_whatever_the_order(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    texts = [make(i) for i in range(12)]
    for i in (2, 5, 9):
        texts.append(texts[i] + (" and one tail more" if texts[0].isascii() else "尾巴"))
    ids = [f"doc-{i}" for i in range(len(texts))]
    expected = {f"doc-{i}" for i in range(15)} - {"doc-2", "doc-5", "doc-9"}  # the longer copy stays
    for seed in range(4):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        step, outcome = run([texts[i] for i in order], tmp_path, [ids[i] for i in order])
        assert set(outcome.kept.column("id")) == expected
        assert {reason.split(":")[0] for _, _, reason in outcome.dropped} == {"near duplicate"}
    assert step.report(None)["clusters_by_size"] == {"2": 3}  # type: ignore[arg-type]


def test_measures_do_not_depend_on_the_batch() -> None:
    texts = [" ".join(prose(i)) for i in range(6)] + [han(7), ""]
    step = MinhashDedup(MinhashOptions())
    whole = step.annotate(Docs.of(texts))
    for i, text in enumerate(texts):
        alone = step.annotate(Docs.of([text]))
        assert all(pa.array(alone[name])[0] == pa.array(whole[name])[i] for name in step.fields)


def test_of_equal_texts_one_stays_the_same_in_every_order(tmp_path: Path) -> None:
    text = " ".join(prose(3))
    kept = set()
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        _, outcome = run([text] * 3, tmp_path, [f"copy-{i}" for i in order])
        kept.add(tuple(outcome.kept.column("id")))
    assert len(kept) == 1 and len(kept.pop()) == 1


def test_texts_that_share_little_or_nothing_stay(tmp_path: Path) -> None:
    half = " ".join(prose(1, 100))
    texts = [half + " " + " ".join(prose(i, 100)) for i in (2, 3)] + ["", "   ", "…", "!!", "short", "short note"]
    _, outcome = run(texts, tmp_path)
    assert not outcome.dropped  # J of the halves is about 0.33


def test_chains_make_one_cluster(tmp_path: Path) -> None:
    words = prose(1, 300)
    texts = [" ".join(words[i * 12 : i * 12 + 240]) for i in range(4)]
    step, outcome = run(texts, tmp_path)
    assert len(outcome.kept) == 1
    assert outcome.measures["minhash.cluster_size"].to_pylist() == [4]
    assert step.report(None)["largest"] == 4  # type: ignore[arg-type]


class Scores(Step):
    name = "quality"
    fields = {"score": pa.float32()}

    def annotate(self, docs: Docs) -> dict[str, list[float]]:
        return {"score": [1.0 if "best" in text else 0.0 for text in docs.texts]}


def test_keep_by_quality_and_by_date(tmp_path: Path) -> None:
    base = " ".join(prose(4))
    texts = [base + " a rather long tail", base + " best", base]
    step = MinhashDedup(MinhashOptions(keep="quality"))
    assert run_in_memory([Scores(None), step], Docs.of(texts), tmp_path).kept.texts == [texts[1]]
    dates = ["2021-05-01T10:00:00Z", "2020", "2019/12/31"]
    meta = [json.dumps({"date": date}) for date in dates]
    _, outcome = run(texts, tmp_path, keep="earliest", meta=meta)
    assert outcome.kept.texts == [texts[2]]
    with pytest.raises(AthanorError, match="no measure"):
        run(texts, tmp_path, keep="quality")


def test_later_builds_compare_with_an_index(tmp_path: Path) -> None:
    first = [" ".join(prose(i)) for i in range(8)]
    run(first, tmp_path / "one")
    run([han(i) for i in range(5)], tmp_path / "two")
    second = [first[3] + " changed tail", han(2) + "改", " ".join(prose(99))]
    against = [str(tmp_path / "one" / "index"), str(tmp_path / "two" / "index")]
    _, outcome = run(second, tmp_path / "three", against=against)
    assert outcome.kept.texts == [second[2]]
    assert [r for _, _, r in outcome.dropped] == [f"near duplicate of an earlier build: {path}" for path in against]
    assert Index.open(tmp_path / "three" / "index").n_documents == 1

    merge_indexes(against, tmp_path / "both")
    assert Index.open(tmp_path / "both").n_documents == 13
    _, merged = run(second, tmp_path / "four", against=[str(tmp_path / "both")])
    assert merged.kept.texts == [second[2]]
    keys = Index.open(tmp_path / "both").array("keys-003")
    assert len(keys) == 13 and (keys[1:] >= keys[:-1]).all()


def test_a_damaged_or_different_index_is_refused(tmp_path: Path) -> None:
    run([" ".join(prose(1))], tmp_path)
    where = str(tmp_path / "index")
    with pytest.raises(AthanorError, match="other settings"):
        run(["a text"], tmp_path / "x", against=[where], ngram=6)
    with pytest.raises(AthanorError, match="not an index"):
        run(["a text"], tmp_path / "x", against=[str(tmp_path / "nowhere")])
    file = tmp_path / "index" / "keys-000"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(AthanorError, match="checksum"):
        run(["a text"], tmp_path / "x", against=[where])


def test_options_are_part_of_the_key_only_where_measures_depend_on_them() -> None:
    def key(**options: object) -> object:
        return MinhashDedup(MinhashOptions(**options)).compute_key()  # type: ignore[arg-type]

    assert key() == key(keep="quality", against=("x",)) == key(min_jaccard=0.8)
    assert key() != key(ngram=4) and key() != key(seed=2)
    assert re.match(r"tokens-\d+/unicode-", key()[0]["tokens"])  # type: ignore[index]
