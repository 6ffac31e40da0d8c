"""What the quality models see of a text: tokens reduced to classes, and some forty figures of its form.

Words that carry the grammar (function words, function characters, punctuation) stay themselves; all others become a
class of shape, ending and length. So a model trained on a few generated topics judges how something is written, and
not what it is about. Long texts are read in three windows, so that a document's cost is bounded.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Characters read of a text: the beginning, and as many from its middle and end together.
WINDOW = 4000
_TOKEN = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|[0-9]+|\n+|[^\sA-Za-z0-9]")

_ENGLISH = frozenset(
    """a an the this that these those some any each every no all both few many much more most other another such what which who
whom whose i you he she it we they me him her us them my your his its our their myself itself and or but nor so yet if then else
when while because since although though unless until as than whether of in on at by for with about against between into through
during before after above below to from up down out off over under again is are was were be been being am do does did have has had
having will would shall should can could may might must not n't there here where why how only also very too just now even still
however therefore thus hence for-example first second finally one two let define given suppose note def return import class self
elif except try raise lambda yield none true false int str void const var function public static new null struct""".split()
)
_CHINESE = frozenset(
    "的了是在和与有不这那我你他她它们也就都而及或但为以于对从到把被让使给向将因所如果则即若且并其之此该每各某哪什么怎谁几多少很更最太非常"
    "已经正曾会能可应该要想必须得地着过吗呢吧啊呀哦嘛啦哈个些种样时候后前中上下里外间内又再还只仅才却虽然尽管由据按关等例比较"
)
#: The most frequent characters of modern Chinese: what easy texts consist of.
COMMON_HAN = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学"
    "如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将"
    "两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及"
    "比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统"
    "区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共"
    "确传师观清今切院让识候带导争运笔每步算士往近"
)
_SUFFIXES = ("tion", "ment", "ness", "able", "ing", "ity", "ous", "ive", "ism", "ly", "ed", "es", "er", "al", "ic", "s", "y", "e")
_VOWELS = frozenset("aeiouyAEIOUY")

N_BUCKETS = 1 << 13
_PRIMES = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], dtype=np.uint64)


def windows(text: str) -> str:
    """At most ``WINDOW`` characters: the first half of them from the start, a quarter each from the middle and the end."""
    if len(text) <= WINDOW:
        return text
    half, quarter, middle = WINDOW // 2, WINDOW // 4, len(text) // 2
    return "\n".join((text[:half], text[middle : middle + quarter], text[-quarter:]))


@cache
def _han_kind(c: str) -> str:
    """Commonness of a Chinese character: the commonest, level 1 and level 2 of GB 2312, the rest."""
    if c in COMMON_HAN:
        return "H0"
    try:
        row = c.encode("gb2312")[0] - 0xA0
    except UnicodeEncodeError:
        return "H3"
    return "H1" if row < 56 else "H2"


def _kind(token: str) -> str:
    first = token[0]
    if first == "\n":
        return f"n{min(len(token), 2)}"
    if first.isascii():
        if first.isdigit():
            return f"d{min(len(token), 5)}"
        return _latin_kind(token) if first.isalpha() else f"p{first}"
    if "一" <= first <= "鿿" or "㐀" <= first <= "䶿":
        return f"c{first}" if first in _CHINESE else _han_kind(first)
    category = unicodedata.category(first)
    return f"p{first}" if category[0] == "P" else f"u{category}"


def _latin_kind(token: str) -> str:
    lower = token.lower()
    if lower in _ENGLISH:
        return f"w{lower}"
    if len(token) == 1:
        return "x1" if token.islower() else "X1"
    shape = "l" if token.islower() else "u" if token.isupper() else "c" if token[1:].islower() else "m"
    if not _VOWELS & set(token):
        return f"{shape}-novowel{min(len(token), 4)}"
    suffix = next((s for s in _SUFFIXES if len(lower) > len(s) + 2 and lower.endswith(s)), "")
    return f"{shape}{suffix}{min(len(token) // 3, 4)}"


class _Kinds(dict[str, int]):
    """Token → (class number, hash): filled as tokens come."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, int] = {}
        self.names: list[str] = []

    def __missing__(self, token: str) -> int:
        kind = _kind(token)
        number = self.numbers.get(kind)
        if number is None:
            number = self.numbers[kind] = len(self.names)
            self.names.append(kind)
        if len(self) < 500_000:  # a bound on memory, not on what is recognised
            self[token] = number
        return number


_KINDS = _Kinds()


def tokens_of(text: str) -> list[str]:
    """Words, numbers, single Chinese characters, signs, runs of line ends."""
    return _TOKEN.findall(text)


def hashed_counts(tokens: list[str]) -> tuple[Ints, Floats]:
    """(buckets, values) of class 1-, 2- and 3-grams: log(1 + count), scaled to unit length. Buckets ascend."""
    numbers = [_KINDS[token] for token in tokens]
    hashes = _class_hashes(len(_KINDS.names))[numbers]
    if not len(hashes):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    a = hashes * _PRIMES[0]
    two = a[:-1] ^ (hashes[1:] * _PRIMES[1])
    three = two[:-1] ^ (hashes[2:] * _PRIMES[2]) if len(hashes) > 2 else two[:0]
    every = np.concatenate([a, two, three])
    every = (every ^ (every >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    counts = np.bincount((every >> np.uint64(51)).astype(np.int64), minlength=N_BUCKETS)
    used = np.flatnonzero(counts)
    values = np.log1p(counts[used]).astype(np.float32)
    return used, values / np.linalg.norm(values)


@cache
def _known_hashes() -> dict[str, Any]:
    return {"n": 0, "array": np.zeros(0, dtype=np.uint64)}


def _class_hashes(n: int) -> npt.NDArray[np.uint64]:
    """Hash of each class's name: the same in every process, whatever order classes were met in."""
    known = _known_hashes()
    if known["n"] < n:
        fresh = [zlib.crc32(name.encode()) for name in _KINDS.names[known["n"] :]]
        known["array"] = np.concatenate([known["array"], np.array(fresh, dtype=np.uint64)])
        known["n"] = len(known["array"])
    return np.asarray(known["array"])


_CUES = {
    "explain": re.compile(
        r"\b(?:because|therefore|hence|thus|for example|for instance|that is|means|defined?|definition|consider|suppose|note that|"
        r"follows|implies|explain|reason|example|in general|called|known as|such as|theorem|proof|equation|solution|returns?|"
        r"consists?|between|theory|concept|method)\b|因为|因此|所以|例如|比如|定义|即|由于|指的?是|称为|概念|原理|说明|方法|"
        r"定理|证明|公式|解答|首先|其次|表示|其中|可以看出|参数|返回|步骤|注意|假设",
        re.I,
    ),
    "chat": re.compile(
        r"\b(?:lol|omg|haha+|hey|guys|gonna|wanna|kinda|dunno|awesome|yeah|hubby|love|super|totally|really|thanks|please|blog|"
        r"posted|my|i'm|i've|can't|excited|amazing)\b|[!?]{2,}|:\)|:\(|哈哈|呀|啦|哦|嘛|呜|楼主|大家|亲|超级|真的|~|。。|回复",
        re.I,
    ),
    "advert": re.compile(
        r"\b(?:buy|sale|discount|offer|free|shipping|order now|click|deals?|price|shop|cart|subscribe|newsletter|casino|loan|"
        r"cheap|guaranteed?|win|bonus|today|call|book now|store)\b|优惠|包邮|购买|点击|特价|折扣|领取|扫码|二维码|公众号|"
        r"咨询|下单|热卖|加盟|免费|贷款|发票|中奖|预约|赠送",
        re.I,
    ),
    "boiler": re.compile(
        r"\b(?:cookies?|privacy|copyright|rights reserved|terms|log ?in|sign ?in|register|menu|search|home|share|tweet|facebook|"
        r"comments?|next|previous|javascript|sitemap|rss|read more)\b|版权|备案|转载|首页|登录|注册|上一篇|下一篇|分享|收藏|"
        r"责任编辑|来源：|免责|声明|导航|尾页|<[a-z/][^>]{0,80}>|https?://|www\.",
        re.I,
    ),
    "filler": re.compile(
        r"\b(?:it is important to|as we all know|at the end of the day|needless to say|in other words|of course|all in all|"
        r"basically|generally|things?|very|many different|a lot|something|it goes without)\b|众所周知|总而言之|毫无疑问|换句话说|"
        r"不言而喻|总的来说|当然|各种各样|很多|许许多多|可以说",
        re.I,
    ),
    "formula": re.compile(r"\\[a-z]+\{|\$[^$\n]{2,80}\$|[=≤≥≠±×÷∑∫√∈]|\^[0-9{]|[a-z]_[0-9{]"),
}
#: Names of the figures, in their order.
FIGURES = (
    "log_tokens", "letters", "han", "digits", "signs", "odd", "spaces", "mean_word", "long_words", "caps", "upper_words", "novowel",
    "single_letters", "mixed_tokens", "unlike_words", "type_token", "repeat_4", "compress", "line_repeat", "log_line", "short_lines",
    "ended_lines", "bullets", "function_share", "rare_han", "sentence_tokens", "sentence_spread", "comma_rate", "unbalanced",
    *(f"cue_{name}" for name in _CUES), "double_signs", "glued", "alternating", "content_types",
)  # fmt: skip


def figures(text: str, tokens: list[str], unlikely: Floats | None = None) -> Floats:
    """``FIGURES`` of a text (its windows) [len(FIGURES)]. ``unlikely``: letter trigrams' cost, see :class:`Letters`."""
    n, n_tokens = max(len(text), 1), max(len(tokens), 1)
    numbers = np.fromiter((_KINDS[token] for token in tokens), dtype=np.int64, count=len(tokens))
    groups = np.array([_GROUPS.get(name[0], 0) for name in _KINDS.names] or [0], dtype=np.int64)
    per_group = np.bincount(groups[numbers], minlength=8) / n_tokens if len(numbers) else np.zeros(8)
    words = [token for token in tokens if len(token) > 1 and token[0].isascii() and token[0].isalpha()]
    lines = [line for line in text.split("\n") if line.strip()] or [""]
    ascii_letters = sum(map(len, words))
    values = [
        np.log1p(n_tokens),
        ascii_letters / n,
        sum("一" <= c <= "鿿" for c in text) / n,
        sum(len(token) for token in tokens if token[0].isdigit()) / n,
        per_group[3],
        sum(c in "\ufffd\x00\x7f�□¤¦§¬¶" or "\x80" <= c <= "\x9f" or "À" <= c <= "ÿ" for c in text) / n,
        sum(map(text.count, " \t")) / n,
        ascii_letters / max(len(words), 1) / 10,
        sum(len(word) > 7 for word in words) / max(len(words), 1),
        sum(word[0].isupper() for word in words) / max(len(words), 1),
        sum(word.isupper() for word in words) / max(len(words), 1),
        sum(not _VOWELS & set(word) for word in words) / max(len(words), 1),
        sum(len(token) == 1 and token.isascii() and token.isalpha() for token in tokens) / n_tokens,
        len(_MIXED.findall(text)) / n_tokens,
        _unlikely_share(words, unlikely),
        *_repetition(tokens, text, lines),
        *_lines(lines),
        per_group[1],
        _rare_han(text),
        *_sentences(text, n_tokens),
        *(10 * len(pattern.findall(text)) / n_tokens for pattern in _CUES.values()),
        10 * len(_DOUBLE.findall(text)) / n_tokens,
        10 * len(_GLUED.findall(text)) / n_tokens,
        10 * len(_ALTERNATING.findall(text)) / n_tokens,
        len({token for token in tokens if _is_content(token)}) / n_tokens,
    ]
    return np.array(values, dtype=np.float32)


#: First letter of a class's name → group: 1 function words and characters, 2 other words, 3 signs.
_GROUPS = {"w": 1, "c": 1, "l": 2, "u": 2, "m": 2, "H": 2, "p": 3}
_MIXED = re.compile(r"[A-Za-z][0-9][A-Za-z]|[a-z][A-Z][a-z]|[a-z][|\\@#$%^&*~][a-z]")
_DOUBLE = re.compile(r"[,，。.;；:：、]\s?[,，。;；:：、]|[，。、；：]\s?[的了着和与]|\b(?:the|a|an|of|to|and|in)\s(?:the|a|an|of|and|is|\.)\b")
_GLUED = re.compile(r"[A-Za-z]{22,}|[a-z][.,;!?][A-Za-z]{2}")
_ALTERNATING = re.compile(r"[a-z][A-Z][a-z]+[A-Z]|[A-Za-z][一-鿿][A-Za-z][一-鿿]|[�□]")
_END = re.compile(r"[.!?。！？…；;]+(?:\s|\Z|[”’\"』」])?")


def _is_content(token: str) -> bool:
    return (token.isalpha() and len(token) > 3 and token.isascii()) or ("一" <= token[0] <= "鿿" and token not in _CHINESE)


def _repetition(tokens: list[str], text: str, lines: list[str]) -> tuple[float, float, float, float]:
    head = tokens[:400]
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    raw = text.encode("utf-8", "surrogatepass")
    return (
        len(set(head)) / max(len(head), 1),
        1 - len(set(grams)) / max(len(grams), 1),
        len(zlib.compress(raw, 1)) / max(len(raw), 1) if len(raw) > 100 else 0.6,
        1 - len(set(lines)) / len(lines),
    )


def _lines(lines: list[str]) -> tuple[float, float, float, float]:
    lengths = [len(line.strip()) for line in lines]
    n = len(lines)
    return (
        float(np.log1p(sum(lengths) / n)),
        sum(length < 30 for length in lengths) / n,
        sum(line.rstrip()[-1:] in ".!?。！？：:；;”\"'…)）" for line in lines) / n,
        sum(line.lstrip()[:1] in "-*•·|>#" for line in lines) / n,
    )


def _rare_han(text: str) -> float:
    han = [c for c in text if "一" <= c <= "鿿"]
    return sum(_han_kind(c) in ("H2", "H3") for c in han) / max(len(han), 1)


def _sentences(text: str, n_tokens: int) -> tuple[float, float, float, float]:
    lengths = [len(part) for part in _END.split(text) if part and part.strip()] or [0]
    mean = sum(lengths) / len(lengths)
    spread = (sum((x - mean) ** 2 for x in lengths) / len(lengths)) ** 0.5
    commas = text.count(",") + text.count("，") + text.count("、")
    pairs = sum(abs(text.count(a) - text.count(b)) for a, b in ("()", "[]", "{}", "（）", "“”", "《》"))
    return float(np.log1p(mean)), spread / max(mean, 1.0), 10 * commas / n_tokens, 10 * pairs / n_tokens


class Letters:
    """How likely Latin words are by their letter trigrams: tells garbled words from real ones without a dictionary."""

    @staticmethod
    def train(texts: list[str]) -> Floats:
        """Cost in nats of each trigram over ``a–z`` and the word boundary [27³], add-½ smoothed."""
        counts = np.zeros((27, 27, 27))
        for text in texts:
            for word in re.findall(r"[a-z]{2,}", text.lower()):
                codes = [0, *(ord(c) - 96 for c in word), 0]
                for i in range(len(codes) - 2):
                    counts[codes[i], codes[i + 1], codes[i + 2]] += 1
        counts += 0.5
        return np.asarray(-np.log(counts / counts.sum(2, keepdims=True)), dtype=np.float32).reshape(-1)


def _unlikely_share(words: list[str], cost: Floats | None) -> float:
    """Share of words whose mean trigram costs more than 3.6 nats (real English words lie near 2.4)."""
    if cost is None or not words:
        return 0.0
    few = [word.lower() for word in words[:300] if word.isalpha()]
    high = 0
    for word in few:
        codes = [0, *(min(max(ord(c) - 96, 0), 26) for c in word), 0]
        total = sum(cost[(codes[i] * 27 + codes[i + 1]) * 27 + codes[i + 2]] for i in range(len(codes) - 2))
        high += total / (len(codes) - 2) > 3.6
    return high / max(len(few), 1)
