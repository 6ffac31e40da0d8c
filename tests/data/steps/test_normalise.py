"""Normalisation: what must not change does not, what is broken is repaired, a second time changes nothing."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.steps.base import Docs, run_in_memory
from athanor.data.steps.mojibake import repaired
from athanor.data.steps.normalise import Normalise, normalised, scalar_text
from athanor.recipe.steps.clean import NormaliseOptions

DEFAULT = NormaliseOptions()
CHINESE = "他说：“你好，世界！”——（第②章）……《红楼梦》、【注】；全角ＡＢＣ１２３，　　缩进。"
LATEX = (
    r"Let $\alpha_{i}^{2} \le \frac{1}{2}$, $$\int_0^\infty e^{-x}\,dx = 1 \\ f'(x) → ∞$$ "
    r"\begin{aligned}a &= b \\ c\end{aligned}"
)
CODE = (
    'def f(x):\n    """Doc ﬁle"""\n    if x != 0:   # trailing   \n        return "naïve café Å"\n\n\n\n\n'
    "class A:\t\n\tpass  \n"
)


def normal(text: str, **options: object) -> str:
    return normalised(text, NormaliseOptions(**options))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        CHINESE,
        LATEX,
        "“curly” ‘quotes’ – dashes — and … dots, ﬁ ligature, x² ½ ℵ ™ №",
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n- item  \n  continued\n\n1. x\n",
        "```python\nx = 1   \n\n\n\n\ny = 2\n```\ntext",
        "$$\na  \\\\\nb\n$$",
        "Ünïcödé français: « ça va ? » Ελληνικά Русский العربية हिन्दी ไทย 한국어 日本語",
        "می‌خواهم 👨‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿 क्‍ष",
        "Ã is a letter, and so is Â.",
        "涓涓细流，汇成江海。锛是一种工具。",
        CODE,
        "",
    ],
)
def test_good_text_comes_out_byte_identical(text: str):
    assert normal(text) == text


def test_code_keeps_every_byte_but_hidden_controls():
    strange = 'x = "e\u0301 \u00a0 \u200b \u2028 Ã©"  \n\n\n\n\n\x0c\ny\t= 1 \t\n'
    for docs in (Docs.of([strange], domain="code"), Docs.of([strange], meta=json.dumps({"path": "src/a.py"}))):
        outcome = run_in_memory([Normalise(DEFAULT)], docs)
        assert outcome.kept.texts == [strange]
    trojan = "if x:\u202e\u2066 # check\r\n    return\x00\n"
    outcome = run_in_memory([Normalise(DEFAULT)], Docs.of(["\ufeff" + trojan], domain="code"))
    assert outcome.kept.texts == ["if x: # check\n    return\n"]


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\x00b\x07c\x7f", "abc"),
        ("\ufeffa\u200bb\u2060c\u00add", "abcd"),
        ("a\u202eb\u2066c", "abc"),
        ("sugar\u200dfree \u200fend", "sugarfree end"),
        ("hid\U000e0041\U000e0042den", "hidden"),
        ("line  \t\nnext", "line\nnext"),
        ("a   \nb", "a  \nb"),  # a line break of Markdown needs two
        ("a  \n\nb  ", "a\n\nb"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("a\u00a0b\u2009c", "a b c"),
        ("e\u0301", "é"),
        ("it\x92s \x93so\x94", "it’s “so”"),
        ("a\u2028b\u2029c", "a\nb\n\nc"),
        ("page\x0cnext", "page\nnext"),
    ],
)
def test_format_is_repaired(broken: str, whole: str):
    assert normal(broken) == whole


@pytest.mark.parametrize("text", ["你好，世界！今天我们学习机器学习的基础知识。", CHINESE.replace("　", "")])
@pytest.mark.parametrize("wrong", ["latin-1", "cp1252"])
def test_utf8_read_as_latin(text: str, wrong: str):
    broken = text.encode().decode(wrong, "strict" if wrong == "latin-1" else "ignore")
    if broken.encode(wrong) == text.encode():  # Windows-1252 has no sign for five bytes
        assert normal(broken) == text
    assert repaired(broken)[1] > 0


def test_western_text_read_as_latin():
    for text in ("Café – déjà vu, naïve coöperation", "“It’s Zürich’s größte Straße"):
        assert normal(text.encode().decode("cp1252")) == text


def test_gbk_and_utf8_mixed_up():
    text = "今天天气很好，我们去公园散步。学习使人进步，知识改变命运！"
    assert normal(text.encode("gbk").decode("latin-1")) == text
    found = normal(text.encode().decode("gb18030", "replace"))
    kept = sum(a == b for a, b in zip(found.replace("\ufffd", ""), text, strict=False))
    assert found.count("\ufffd") <= 3 and set(found) <= set(text) | {"\ufffd"} and kept > 0


def test_lone_surrogates_never_crash():
    assert scalar_text("a\ud800b\ud83d\ude00") == "a\ufffdb😀"
    assert normal("a\udfff") == "a\ufffd"


@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(list("aÃ©Â\x80\x00 \t\n\r锛銆屽\ufffd`~é\u0301\u200d👨&;#x41")), max_size=30).map(
        "".join
    )
)
@settings(max_examples=400)
def test_a_second_time_changes_nothing(text: str):
    for options in (DEFAULT, NormaliseOptions(entities=True)):
        for code in (False, True):
            once, _ = normalised(text, options, code=code)
            assert normalised(once, options, code=code) == (once, 0)
            once.encode()


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
@settings(max_examples=300)
def test_texts_without_unusual_characters_take_the_short_way(text: str):
    """The step skips what the character table clears: it must come to what the whole way comes to."""
    outcome = Normalise(DEFAULT).annotate(Docs.of([text]))
    new = outcome["text"][0]
    assert (text if new is None else new) == normalised(text, DEFAULT)[0]
    assert unicodedata.is_normalized("NFC", normalised(text, DEFAULT)[0])


def test_garbled_documents_are_dropped_and_counted():
    texts = ["锟斤拷锟斤拷 some words", "fine text", "\x00\x01", "a\ue123\ue124 b"]
    outcome = run_in_memory([Normalise(DEFAULT)], Docs.of(texts, id=["lost", "fine", "empty", "private"]))
    assert [(name, reason.split(":")[0]) for name, _, reason in outcome.dropped] == [
        ("lost", "garbled text"),
        ("empty", "empty after normalisation"),
        ("private", "garbled text"),
    ]
    kept = run_in_memory([Normalise(NormaliseOptions(max_garbled_share=None))], Docs.of(texts))
    assert len(kept.kept) == 3
    measures = Normalise(DEFAULT).annotate(Docs.of(["a\ue123 \ufffd b\x00"]))
    assert (measures["private_chars"], measures["garbled_chars"], measures["removed_chars"]) == ([1], [1], [1])


def test_thresholds_measure_nothing_anew():
    assert Normalise(DEFAULT).compute_key() == Normalise(NormaliseOptions(max_garbled_share=0.5)).compute_key()
    assert Normalise(DEFAULT).compute_key() != Normalise(NormaliseOptions(nfc=False)).compute_key()


def test_entities_on_demand():
    assert normal("a &amp;lt; b &nbsp;&#x4f60; AT&T &unknown;") == "a &amp;lt; b &nbsp;&#x4f60; AT&T &unknown;"
    assert normal("a &amp;lt; b&nbsp;&#x4f60; AT&T", entities=True) == "a < b 你 AT&T"


CORPUS = Path(os.environ.get("ATHANOR_SHARED_DATA", "../shared/data")) / "corpus"


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no shared corpus")
def test_real_code_and_chinese_stay_as_they_are():
    from bench.data_filters import corpus

    texts = corpus(CORPUS, 200_000)
    for name in ("zh_classical_prose", "zh_classical_poetry"):
        changed = [text for text in texts[name] if normal(text) != text]
        assert len(changed) <= 0.02 * len(texts[name])
    code = Docs.of(texts["code_python"], domain="code")
    assert all(
        new is None
        for new, old in zip(Normalise(DEFAULT).annotate(code)["text"], code.texts, strict=True)
        if "\r" not in old and "\ufeff" not in old and "\u202a" not in old
    )
