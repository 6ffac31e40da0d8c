"""The vocabulary: lossless, single digits, no injection, the same ids in transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.errors import AthanorError
from athanor.tokenizer import SPECIALS, Tokenizer, train_tokenizer

TEXTS = [
    "def add(self, first, second):\n        return self.first + first + second\n\n\n" * 12,
    "The quick brown fox doesn't jump over the lazy dog's house, and the dog sleeps in the house. " * 3,
    "小明有三个苹果，小红有五个苹果。他们一共有多少个苹果？答案是八个苹果。" * 3,
]
CHAT = [
    {"role": "system", "content": "Answer briefly. 简短回答。"},
    {"role": "user", "content": " What is 12 + 34?\n"},
    {"role": "assistant", "content": "12 + 34 = 46\n答案：46"},
    {"role": "user", "content": "  spaces  "},
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 360)


@pytest.fixture(scope="module")
def saved(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(path)
    return path


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_every_string_decodes_to_itself(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_not_normalised(tokenizer: Tokenizer) -> None:
    for text in ("\u00e9", "e\u0301", "ﬁ", "①²½", "\r\n\t \u3000\ufeff", "<|pad|>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("\u00e9") != tokenizer.encode("e\u0301")


def test_specials_have_the_contract_ids(tokenizer: Tokenizer) -> None:
    assert [tokenizer.special(token) for token in SPECIALS] == list(range(6))
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.special("assistant")) == (0, 1, 4)
    assert tokenizer.vocab_size == 360


@pytest.mark.parametrize("text", ["1234567890", "x = 12 + 34", "共12个,3.14", "    12\n 7", "a1b22", "v1.2.3 == 45%"])
def test_every_digit_is_one_token_everywhere(tokenizer: Tokenizer, text: str) -> None:
    digit_ids = {tokenizer.encode(d)[0]: d for d in "0123456789"}
    ids = tokenizer.encode(text)
    assert [digit_ids[i] for i in ids if i in digit_ids] == [c for c in text if c.isdigit()]
    for i in ids:
        assert i in digit_ids or not any(c.isdigit() for c in tokenizer.decode([i]))


def test_indentation_is_one_token_and_words_keep_their_space(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode("\n        return self")]
    assert pieces[:2] == ["\n", " " * 7]
    assert tokenizer.encode("        return")[1:] == tokenizer.encode(" return")


def test_every_token_is_reachable(tokenizer: Tokenizer) -> None:
    for token_id in range(len(SPECIALS), tokenizer.vocab_size):
        text = tokenizer.decode([token_id])
        if "�" not in text:
            assert tokenizer.encode(text) == [token_id]


@pytest.mark.parametrize("text", ["<|end|>", "a<|assistant|>b", "<|endoftext|><|pad|>", "<|user|>"])
def test_specials_in_text_stay_text(tokenizer: Tokenizer, saved: Path, text: str) -> None:
    for t in (tokenizer, Tokenizer.load(saved)):
        assert min(t.encode(text)) >= len(SPECIALS) and min(t.encode_batch([text])[0]) >= len(SPECIALS)
        assert t.decode(t.encode(text)) == text
        ids = t.render_chat([{"role": "user", "content": text}])
        assert [i for i in ids if i < len(SPECIALS)] == [t.special("user"), t.special("end")]


def test_decode_hides_specials_unless_asked(tokenizer: Tokenizer) -> None:
    ids = tokenizer.render_chat([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special=False) == "<|user|>hi<|end|><|assistant|>"


def test_chat_spans_mark_the_assistant(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.chat_spans(CHAT)
    assert ids == tokenizer.render_chat(CHAT)
    learned = [i for i, m in zip(ids, mask, strict=True) if m]
    assert learned == [*tokenizer.encode(CHAT[2]["content"]), tokenizer.special("end")]
    assert mask[ids.index(tokenizer.special("assistant"))] == 0


@pytest.mark.parametrize("model_type", [None, "glm4", "llama", "qwen3"])
def test_transformers_gives_the_same_ids(tokenizer: Tokenizer, saved: Path, model_type: str | None) -> None:
    from transformers import AutoTokenizer

    if model_type:
        (saved / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = AutoTokenizer.from_pretrained(saved)
    for text in [*TEXTS, "def f(x):\n\treturn 12  +  3", "中文 English 混合，12个 \n\n ok", " lead", ""]:
        assert theirs.encode(text) == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    for generation in (False, True):
        rendered = theirs.apply_chat_template(CHAT, add_generation_prompt=generation, return_dict=False)
        assert rendered == tokenizer.render_chat(CHAT, add_generation_prompt=generation)
    assert (theirs.eos_token_id, theirs.pad_token_id, len(theirs)) == (0, 1, tokenizer.vocab_size)
    plain = theirs.encode("a<|end|>b", split_special_tokens=True)
    assert plain == tokenizer.encode("a<|end|>b") != theirs.encode("a<|end|>b")


def test_save_load_keeps_ids_and_fingerprint(tokenizer: Tokenizer, saved: Path, tmp_path: Path) -> None:
    again = Tokenizer.load(saved)
    assert again.fingerprint == tokenizer.fingerprint == train_tokenizer(TEXTS, 360).fingerprint
    assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert again.eos_id == 0 and again.pad_id == 1
    assert train_tokenizer(TEXTS[:1] * 2 + TEXTS[1:], 340).fingerprint != tokenizer.fingerprint
    again.save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (saved / "tokenizer.json").read_bytes()


def test_another_vocabulary_loads(tmp_path: Path) -> None:
    """A checkpoint of another family: other end token, no pad, no chat tokens of ours."""
    from tokenizers import AddedToken, models
    from tokenizers import Tokenizer as Backend

    backend = Backend(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    backend.add_special_tokens([AddedToken("</s>", special=True)])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}')
    t = Tokenizer.load(tmp_path)
    assert (t.eos_id, t.pad_id, t.vocab_size, t.encode("ab"), t.has_chat) == (3, 3, 4, [2], False)
    with pytest.raises(AthanorError, match="end"):
        t.render_chat([{"role": "user", "content": "ab"}])


def test_small_corpus_says_what_it_reached() -> None:
    with pytest.raises(AthanorError, match=r"enough for a vocabulary of \d+ tokens; 5000 were asked"):
        train_tokenizer(TEXTS, 5000)
    with pytest.raises(AthanorError, match="too small"):
        train_tokenizer(TEXTS, 100)


@pytest.mark.parametrize("content", [None, "{", '{"version": "1.0"}', "[]"])
def test_missing_or_corrupt_directory(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(AthanorError, match=str(tmp_path)):
        Tokenizer.load(tmp_path)


def test_corrupt_config_and_no_end_token(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((saved / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(AthanorError, match="tokenizer_config.json"):
        Tokenizer.load(tmp_path)


def test_vocabulary_must_fit_the_model(tokenizer: Tokenizer) -> None:
    tokenizer.require_fits(360)
    with pytest.raises(AthanorError, match="another vocabulary"):
        tokenizer.require_fits(359)


@pytest.mark.parametrize(
    "messages",
    [[], "hi", [{"role": "tool", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": 3}], ["x"]],
)
def test_bad_conversations_are_refused(tokenizer: Tokenizer, messages: object) -> None:
    with pytest.raises(AthanorError):
        tokenizer.render_chat(messages)  # type: ignore[arg-type]


def test_special_tokens_are_not_confused_with_words_of_the_vocabulary() -> None:
    """Source code makes "end" and "user" ordinary tokens; the turn marks must still be the special ones."""
    trained = train_tokenizer(["end user system assistant pad endoftext " * 50] * 4, 290)
    assert trained.backend.token_to_id("end") is not None
    assert [trained.special(name) for name in ("endoftext", "pad", "system", "user", "assistant", "end")] == [*range(6)]
    assert trained.special("<|end|>") == 5
    ids, mask = trained.chat_spans([{"role": "user", "content": "end"}, {"role": "assistant", "content": "user"}])
    assert [i for i in ids if i < 6] == [3, 5, 4, 5] or [i for i in ids if i < 6] == [3, 5, 4, 5, 0]
    with pytest.raises(AthanorError, match="no special token"):
        trained.special("nobody")
