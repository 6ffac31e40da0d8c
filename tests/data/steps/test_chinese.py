"""The rules on the shape of Chinese text."""

from __future__ import annotations

import pytest

from athanor.data.steps.base import Docs, run_in_memory
from athanor.data.steps.chinese import Chinese, is_chinese
from athanor.recipe.steps.clean import ChineseOptions

SENTENCES = (
    "春天到了，河边的柳树发出了新芽，孩子们在草地上放风筝。",
    "老人坐在门前的石凳上，慢慢地讲起了年轻时在海上的经历。",
    "城里的图书馆每天早上八点开门，周末也有许多学生来看书。",
    "他们花了三年时间修好这座桥，从此两岸的人来往方便多了。",
    "“这本书是谁写的？”她问，“我想再读一遍。”",
    "科学家发现，这种植物在高原上也能生长，而且耐旱耐寒。",
)
PROSE = "\n".join(SENTENCES[i % 6] + SENTENCES[(i + 1) % 6] for i in range(6))
COMMANDS = "pip install --upgrade some-package && python -m some.module --help\n" * 30
TECHNICAL = f"# 安装\n\n{PROSE}\n\n```bash\n{COMMANDS}```\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROSE, None),
        (TECHNICAL, None),  # code blocks say nothing of the prose around them
        (SENTENCES[0], "too few characters: 27"),
        ("说明 " + "some English words that fill the page. " * 20, "too little Chinese: "),
        ("\n".join("短短的行" for _ in range(80)), "lines too short: 4 characters on average"),
        ("\n".join(s[:-1].rstrip("。”") for s in SENTENCES * 3), "too few lines end a sentence: 0 of lines"),
        ("\n".join(["好的。"] * 60 + [PROSE.replace("\n", "")] * 3), "too many short lines: "),
        ("\n".join("- " + s for s in SENTENCES * 3), "too many bullet points: 1 of lines"),
        ("\n".join(s[:-1] + "……" for s in SENTENCES * 3), "too many lines end in an ellipsis: "),
        ("手机电脑相机耳机键盘鼠标屏幕" * 30 + "。", "too little punctuation: "),
        ("价格优惠多多：￥￥￥★★★■■■▲。" * 20, "too many symbols: "),
        ("电话号码是这个：1380013800。" * 20, "too many digits: "),
        ("（）。" + "床前明月光疑是地上霜举头望明月低头思故乡" * 15 + "（）（）（）。", "clauses too long: "),
    ],
)
def test_each_rule(text: str, expected: str | None):
    outcome = run_in_memory([Chinese(ChineseOptions())], Docs.of([text], language="zh"))
    found = outcome.dropped[0][2] if outcome.dropped else None
    assert found is None if expected is None else (found or "").startswith(expected)


def test_what_is_chinese():
    docs = Docs.of(
        [PROSE, PROSE, "日本語の文章です。漢字も使います。", "English", "English"],
        language=["und", "en", "und", "und", "zh"],
    )
    assert is_chinese(docs).tolist() == [True, False, False, False, True]
    outcome = run_in_memory([Chinese(ChineseOptions(min_chars=1000))], docs)
    assert len(outcome.dropped) == 2  # those taken for Chinese


def test_length_of_a_short_line_is_measured_and_limits_are_not():
    assert Chinese(ChineseOptions(min_chars=1)).compute_key() == Chinese(ChineseOptions()).compute_key()
    assert Chinese(ChineseOptions(short_line_chars=5)).compute_key() != Chinese(ChineseOptions()).compute_key()
