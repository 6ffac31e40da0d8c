"""Strings and regular expressions."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

from athanor.data.synthesis.programs.base import program, sentence, word


@program(
    "返回字符串中元音字母（aeiou）的个数",
    "Return how many vowels (aeiou) a string has.",
    lambda r, n: (word(r, n, "aeioubcdst"),),
    order="n",
    grow=lambda n: ("ab" * (n // 2),),
)
def count_vowels(text: str) -> int:
    count = 0
    for c in text:
        if c in "aeiou":
            count += 1
    return count


@program(
    "忽略非字母字符和大小写，判断字符串是否为回文",
    "Return whether a string is a palindrome, ignoring case and what is no letter.",
    lambda r, n: ((lambda w: r.choice([w + w[::-1], w + ", " + w[::-1].upper(), w]))(word(r, n // 2 + 1, "abc")),),
)
def palindrome(text: str) -> bool:
    letters = [c.lower() for c in text if c.isalpha()]
    return letters == letters[::-1]


@program(
    "把小写字母按凯撒密码后移 {k} 位，其他字符不变",
    "Shift lower-case letters by {k} (Caesar cipher), leaving other characters.",
    lambda r, n: (sentence(r, n // 4 + 1),),
    k=(1, 3, 5, 13),
)
def caesar(text: str, *, k: int) -> str:
    result = ""
    for c in text:
        if "a" <= c <= "z":
            result += chr((ord(c) - ord("a") + k) % 26 + ord("a"))
        else:
            result += c
    return result


@program(
    "游程编码：把连续相同字符压缩为“字符+次数”",
    "Run-length encode: every run becomes its character and its length.",
    lambda r, n: (word(r, n, "aab"),),
)
def run_length(text: str) -> str:
    result = ""
    i = 0
    while i < len(text):
        j = i
        while j < len(text) and text[j] == text[i]:
            j += 1
        result += text[i] + str(j - i)
        i = j
    return result


@program(
    "把每个单词倒过来，单词顺序不变",
    "Reverse every word, keeping the order of the words.",
    lambda r, n: (sentence(r, n // 3 + 1),),
)
def reverse_words(text: str) -> str:
    return " ".join(w[::-1] for w in text.split())


@program(
    "返回最长单词（一样长时取最先出现的）",
    "Return the longest word (the first of several).",
    lambda r, n: (sentence(r, n // 2 + 1),),
)
def longest_word(text: str) -> str:
    best = ""
    for w in text.split():
        if len(w) > len(best):
            best = w
    return best


@program(
    "判断括号 ()[]{{}} 是否配对",
    "Return whether the brackets ()[]{{}} of a string match.",
    lambda r, n: (r.choice(["()[]", "([])", "{[()]}"]) + r.choice(["", word(r, n // 3, "()[]")]),),
)
def brackets(text: str) -> bool:
    pairs = {")": "(", "]": "[", "}": "{"}
    stack = []
    for c in text:
        if c in "([{":
            stack.append(c)
        elif c in pairs and (not stack or stack.pop() != pairs[c]):
            return False
    return not stack


@program(
    "判断两个字符串是否互为字母重排",
    "Return whether two strings are anagrams.",
    lambda r, n: (lambda w: (w, "".join(r.sample(w, len(w))) if r.random() < 0.5 else word(r, len(w), "abc")))(
        word(r, n // 2 + 2, "abc")
    ),
)
def anagrams(a: str, b: str) -> bool:
    return sorted(a) == sorted(b)


@program(
    "用正则表达式返回文本中所有整数之和",
    "Return the sum of all whole numbers in a text, with a regular expression.",
    lambda r, n: (" ".join(r.choice([str(r.randint(1, 60)), word(r, 3)]) for _ in range(n)),),
)
def regex_sum(text: str) -> int:
    import re

    return sum(int(m) for m in re.findall(r"\d+", text))


@program(
    "用正则表达式把形如 YYYY-MM-DD 的日期改写成 DD/MM/YYYY",
    "Rewrite dates YYYY-MM-DD as DD/MM/YYYY with a regular expression.",
    lambda r, n: (
        " ".join(
            r.choice([f"{r.randint(1990, 2030)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}", word(r, 4)])
            for _ in range(n // 3 + 1)
        ),
    ),
)
def regex_dates(text: str) -> str:
    import re

    return re.sub(r"(\d{4})-(\d{2})-(\d{2})", r"\3/\2/\1", text)


@program(
    "用正则表达式返回所有以 {c} 开头的单词",
    "Return all words that begin with {c}, with a regular expression.",
    lambda r, n: (sentence(r, n),),
    c=("s", "g", "r", "w"),
)
def regex_words(text: str, *, c: str) -> list[str]:
    import re

    return re.findall(r"\b" + c + r"\w*", text)


@program(
    "返回字符串的最长公共前缀",
    "Return the longest common prefix of two strings.",
    lambda r, n: (lambda p: (p + word(r, n // 3, "abc"), p + word(r, n // 3, "abc")))(word(r, r.randint(0, 4), "abc")),
)
def common_prefix(a: str, b: str) -> str:
    i = 0
    while i < min(len(a), len(b)) and a[i] == b[i]:
        i += 1
    return a[:i]


@program(
    "把 snake_case 名字改写成 camelCase",
    "Turn a snake_case name into camelCase.",
    lambda r, n: ("_".join(sentence(r, n // 4 + 1).split()),),
)
def camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


@program(
    "把整数格式化为至少 {k} 位（不足补 0）并用 | 连接",
    "Format whole numbers with at least {k} digits (zero-padded), joined by |.",
    lambda r, n: ([r.randint(0, 1500) for _ in range(n // 2 + 1)],),
    k=(2, 3, 4),
)
def padded(items: list[int], *, k: int) -> str:
    return "|".join(f"{x:0{k}d}" for x in items)


@program(
    "返回 pattern 在 text 中出现的所有下标（可重叠）",
    "Return every index at which pattern occurs in text (overlaps count).",
    lambda r, n: (word(r, n + 2, "ab"), word(r, 2, "ab")),
)
def occurrences(text: str, pattern: str) -> list[int]:
    return [i for i in range(len(text) - len(pattern) + 1) if text[i : i + len(pattern)] == pattern]


@program(
    "返回最长的无重复字符子串的长度（滑动窗口）",
    "Return the length of the longest substring without repeated characters (sliding window).",
    lambda r, n: (word(r, n + 2, "abcde"),),
)
def longest_unique(text: str) -> int:
    start = best = 0
    last: dict[str, int] = {}
    for i, c in enumerate(text):
        if c in last and last[c] >= start:
            start = last[c] + 1
        last[c] = i
        best = max(best, i - start + 1)
    return best


@program(
    "返回文本的 UTF-8 字节数与字符数之差",
    "Return how many more UTF-8 bytes than characters a text has.",
    lambda r, n: (word(r, n, "ab中文é"),),
)
def byte_surplus(text: str) -> int:
    return len(text.encode("utf-8")) - len(text)
