"""Irrelevant content: menus, notices, messages, advertising; prose about them stays."""

from __future__ import annotations

from typing import Any

import pytest

from athanor.data.steps.base import Docs, run_in_memory
from athanor.data.steps.irrelevant import Irrelevant
from athanor.recipe.steps.clean import IrrelevantOptions

ENGLISH = [f"Paragraph {i} tells how the harbour grew and what the people of the town thought of it." for i in range(8)]
CHINESE = [f"第{i}段讲述港口是怎样发展起来的，以及镇上的人们对它的看法和回忆。" for i in range(8)]


def result(text: str, **options: Any) -> str | None:
    """The reason, or None."""
    outcome = run_in_memory([Irrelevant(IrrelevantOptions(**options))], Docs.of([text]))
    return outcome.dropped[0][2] if outcome.dropped else None


@pytest.mark.parametrize(
    "line",
    [
        "Home | About us | Contact",
        "Log in",
        "« Previous  Next »",
        "Skip to content",
        "Copyright © 2019 Some Company",
        "This website uses cookies to improve your experience.",
        "Posted by admin on May 3",
        "Share this article",
        "12 Comments",
        "Tags: harbour, town",
        "首页 > 新闻中心 > 公司简介",
        "登录 | 注册",
        "上一篇：港口的故事",
        "版权所有 某某公司 京ICP备12345678号",
        "发布时间：2020-01-01 浏览次数：23",
        "扫描二维码关注我们的公众号",
        "当前位置：首页 > 新闻",
        "返回顶部",
    ],
)
def test_boilerplate_lines_are_taken_out(line: str):
    for good in (ENGLISH, CHINESE):
        outcome = run_in_memory([Irrelevant(IrrelevantOptions())], Docs.of(["\n".join([line, *good, line])]))
        assert outcome.kept.texts == ["\n".join(good)]
        kept = run_in_memory([Irrelevant(IrrelevantOptions(remove_lines=False))], Docs.of(["\n".join([line, *good])]))
        assert kept.kept.texts == ["\n".join([line, *good])]


@pytest.mark.parametrize(
    "line",
    [
        "She wanted to log in to the old system, but nobody remembered how the search worked.",
        "## FAQ",
        "返回：一个整数",
        "days, felt more than ever overpowered by the jubilant sense of my sudden",
        "“来，到首页看看。”他说，“那里有更多。”",
        "关键词：港口；历史；城市",
        "Posted in London,' she said, examining the envelope eagerly.",
        "cookies and milk",
        "",
    ],
)
def test_other_lines_stay(line: str):
    text = "\n".join([*ENGLISH[:4], line, *ENGLISH[4:]])
    outcome = run_in_memory([Irrelevant(IrrelevantOptions())], Docs.of([text]))
    assert outcome.kept.texts == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("404 Not Found\n\nSorry, the page you are looking for does not exist.", "error page"),
        ("抱歉，您访问的页面不存在或已被删除。\n返回首页", "error page"),
        ("Please log in to continue reading this story.", "login wall"),
        ("本帖隐藏的内容，登录后才能查看全文。", "login wall"),
        ("Checking your browser before accessing the site.", "blocked page"),
        ("请完成验证后继续访问", "blocked page"),
        ("This domain is for sale. Buy this domain.", "placeholder page"),
        ("网站建设中，请稍候。", "placeholder page"),
        ("Welcome\nComing soon!\n", "placeholder page"),
        ("\n".join(["Home", "About", "Contact", ENGLISH[0], ENGLISH[1]]), "mostly boilerplate: 0.6 of lines"),
        ("\n".join(["首页", "登录", "注册", CHINESE[0]]), "mostly boilerplate: 0.75 of lines"),
        (
            "© 2020 A very long name of a company that owns this page\n" + "Short text of its own.",
            "mostly boilerplate: ",
        ),
        ("Lorem ipsum dolor sit amet.\n" + ENGLISH[0], "lorem ipsum: 1 times"),
        (
            "厂家直销，价格优惠，欢迎来电咨询！咨询热线在此，包邮，加微信领取优惠券，限时抢购，立即购买。" * 3,
            "advertising: ",
        ),
        (
            "Buy now! Free shipping and best price, 50% off. Order today, limited offer, click here. " * 5,
            "advertising: ",
        ),
        ("\n".join(ENGLISH), None),
        ("\n".join(CHINESE), None),
        ("The error 404 means that a page was not found.\n" + "\n".join(ENGLISH * 2), None),  # an article about it
    ],
)
def test_pages_are_dropped(text: str, expected: str | None):
    found = result(text)
    assert found is None if expected is None else (found or "").startswith(expected)


def test_rules_off_and_domains_skipped():
    off = {
        name: None
        for name in ("max_lines", "max_chars", "max_page_chars", "max_adverts_per_1000_chars", "max_lorem_ipsum")
    }
    assert result("404 Not Found\nHome\nAbout\nlorem ipsum", **off) is None
    docs = Docs.of(["Home", "404 Not Found"], domain="code")
    outcome = run_in_memory([Irrelevant(IrrelevantOptions())], docs)
    assert outcome.kept.texts == docs.texts
