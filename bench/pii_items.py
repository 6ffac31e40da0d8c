# ruff: noqa: E501 - tables of examples, a line each
"""Generated personal data of every type, and hard negatives that look like it. Nothing here reads the finders' code:
checksums are computed by other formulas than those that check them."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable

_DIGITS = string.digits
_ALNUM = string.ascii_letters + string.digits
_CN_MOBILE = ("133", "135", "136", "138", "139", "147", "150", "152", "158", "159", "166", "170", "176", "177", "182", "186", "187",
              "188", "189", "191", "193", "198", "199")  # fmt: skip
_CN_AREAS = ("010", "021", "022", "023", "020", "024", "025", "027", "028", "029", "0755", "0571", "0512", "0532", "0411", "0371", "0731",
             "0591", "0871", "0991", "0769", "0316")  # fmt: skip
_REGIONS = ("110105", "310115", "440305", "330106", "510107", "420106", "610113", "320583", "370202", "210202", "500103", "230102",
            "650104", "450103", "130104")  # fmt: skip
_NAMES = ("li.wei", "zhang_san", "wanglei88", "chen-jing", "liuyang", "j.smith", "maria.garcia", "tom", "anna.k", "peter+news", "sales",
          "info", "support", "h.mueller", "yuki_t", "dev.team", "o'brien")  # fmt: skip
_HOSTS = ("163.com", "qq.com", "126.com", "sina.com.cn", "gmail.com", "outlook.com", "mail.tsinghua.edu.cn", "company.co.uk", "web.de",
          "startup.io", "uni-bonn.de", "example.org", "foxmail.com", "proton.me")  # fmt: skip


def pick(rng: random.Random, characters: str, n: int) -> str:
    """``n`` characters drawn with replacement."""
    return "".join(rng.choices(characters, k=n))


def luhn_digit(body: str) -> str:
    """The digit that completes a number, by the table of doubled digits."""
    table = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    total = sum(table[int(d)] if i % 2 == 0 else int(d) for i, d in enumerate(body[::-1]))
    return str((10 - total) % 10)


def email(rng: random.Random, zh: bool) -> str:
    """An address, sometimes with the at-sign spelled or full-width."""
    name, host = rng.choice(_NAMES), rng.choice(_HOSTS)
    if rng.random() < 0.3:
        name += pick(rng, _DIGITS, rng.randint(1, 6))
    roll = rng.random()
    if zh and roll < 0.05:
        return f"{name}＠{host}"
    if roll < 0.05:
        return f"{name} [at] {host}".replace("'", "")
    return f"{name}@{host}"


def phone(rng: random.Random, zh: bool) -> str:
    """Numbers of China (mobile, landline, hotline, full-width) or of elsewhere, in the ways people write them."""
    return _chinese_phone(rng) if zh else _western_phone(rng)


def _chinese_phone(rng: random.Random) -> str:
    head, middle, tail = rng.choice(_CN_MOBILE), pick(rng, _DIGITS, 4), pick(rng, _DIGITS, 4)
    area, local = rng.choice(_CN_AREAS), rng.choice("23568") + pick(rng, _DIGITS, 7)
    forms: list[str] = [
        f"{head}{middle}{tail}", f"{head}{middle}{tail}", f"{head}-{middle}-{tail}", f"{head} {middle} {tail}", f"+86 {head}{middle}{tail}",
        f"+86-{head}-{middle}-{tail}", f"86{head}{middle}{tail}", f"(+86){head}{middle}{tail}", f"{area}-{local}", f"({area}){local}",
        f"{area} {local}", f"+86-{area[1:]}-{local}", f"{area}-{local}-{rng.randint(10, 9999)}", f"400-{pick(rng, _DIGITS, 3)}-{pick(rng, _DIGITS, 4)}",
        "".join(chr(0xFF10 + int(d)) for d in head + middle + tail),
    ]  # fmt: skip
    return rng.choice(forms)


def _western_phone(rng: random.Random) -> str:
    area = rng.choice(("212", "415", "650", "312", "617", "206", "305", "702", "512", "404"))
    exchange, line = rng.choice("23456789") + rng.choice("02345678") + rng.choice("23456789"), pick(rng, _DIGITS, 4)
    forms = [
        f"({area}) {exchange}-{line}", f"{area}-{exchange}-{line}", f"{area}.{exchange}.{line}", f"+1 {area} {exchange} {line}",
        f"+1-{area}-{exchange}-{line}", f"1-{area}-{exchange}-{line}", f"+44 20 7{pick(rng, _DIGITS, 3)} {line}",
        f"+49 30 {rng.choice('23456789')}{pick(rng, _DIGITS, 6)}", f"+33 6 {rng.choice(('12', '14', '61', '83'))} {' '.join(pick(rng, _DIGITS, 2) for _ in range(3))}",
        f"+34 6{pick(rng, _DIGITS, 2)} {pick(rng, _DIGITS, 3)} {pick(rng, _DIGITS, 3)}", f"+91 98{pick(rng, _DIGITS, 3)} {pick(rng, _DIGITS, 5)}",
        f"020 7{pick(rng, _DIGITS, 3)} {line}", f"07911 {pick(rng, _DIGITS, 6)}", f"06 {' '.join(rng.choice(('12', '34', '51', '78', '60')) for _ in range(4))}",
    ]  # fmt: skip
    return rng.choice(forms)


def resident_id(rng: random.Random, zh: bool) -> str:
    """18 characters with their check character; in Chinese now and then the 15-digit form."""
    region = rng.choice(_REGIONS)
    year, month, day = rng.randint(1950, 2012), rng.randint(1, 12), rng.randint(1, 28)
    if zh and rng.random() < 0.08:
        return f"{region}{year % 100:02}{month:02}{day:02}{pick(rng, _DIGITS, 3)}"
    body = f"{region}{year}{month:02}{day:02}{pick(rng, _DIGITS, 3)}"
    remainder = 0
    for digit in body:  # ISO 7064 pure system, the recursive method
        remainder = (remainder + int(digit)) * 2 % 11
    check = (1 - remainder) % 11
    return body + ("X" if check == 10 else str(check)).replace("X", rng.choice("XXx"))


def credit_code(rng: random.Random, zh: bool) -> str:
    """GB 32100 code of 18 characters."""
    alphabet = "0123456789ABCDEFGHJKLMNPQRTUWXY"
    body = rng.choice(("91", "92", "12", "52")) + rng.choice(_REGIONS) + pick(rng, alphabet, 9)
    total = sum(alphabet.index(c) * pow(3, i, 31) for i, c in enumerate(body))
    return body + alphabet[(31 - total % 31) % 31]


def bank_card(rng: random.Random, zh: bool) -> str:
    """A number of a card network, bare or in groups of four."""
    if zh or rng.random() < 0.2:
        body = rng.choice(("622202", "621700", "622848", "621661", "625958")) + pick(rng, _DIGITS, rng.choice((9, 12)))
    elif rng.random() < 0.2:
        body = "37" + pick(rng, _DIGITS, 12)
    else:
        body = rng.choice(("4", "51", "53", "55")) + pick(rng, _DIGITS, 14)
        body = body[:15]
    number = body + luhn_digit(body)
    if len(number) == 16 and rng.random() < 0.5:
        return rng.choice(" -").join(number[i : i + 4] for i in range(0, 16, 4))
    return number


def iban(rng: random.Random, zh: bool) -> str:
    """DE, GB, FR, NL, ES or IT, bare or in groups of four."""
    country, bban = rng.choice((
        ("DE", pick(rng, _DIGITS, 18)), ("GB", rng.choice(("NWBK", "BARC", "WEST")) + pick(rng, _DIGITS, 14)), ("FR", pick(rng, _DIGITS, 23)),
        ("NL", "ABNA" + pick(rng, _DIGITS, 10)), ("ES", pick(rng, _DIGITS, 20)), ("IT", "X" + pick(rng, _DIGITS, 22)),
    ))  # fmt: skip
    value = 0
    for c in bban + country + "00":
        for digit in str(int(c, 36)):
            value = (value * 10 + int(digit)) % 97
    number = f"{country}{98 - value:02}{bban}"
    return " ".join(number[i : i + 4] for i in range(0, len(number), 4)) if rng.random() < 0.5 else number


def ssn(rng: random.Random, zh: bool) -> str:
    """US social security number with hyphens."""
    area = rng.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}"


def passport(rng: random.Random, zh: bool) -> str:
    """Chinese or US style."""
    return (
        rng.choice(("E", "G", "EA", "EJ")) + pick(rng, _DIGITS, 8 if rng.random() < 0.5 else 7)
        if zh
        else pick(rng, _DIGITS, 9)
    )


def plate(rng: random.Random, zh: bool) -> str:
    """Licence plate of the mainland, also of electric cars."""
    head = rng.choice("京沪粤苏浙川鄂鲁湘渝") + rng.choice("ABCDEFG")
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    tail = (
        rng.choice(letters) + pick(rng, _DIGITS, 4) if rng.random() < 0.6 else rng.choice("DF") + pick(rng, _DIGITS, 5)
    )
    return head + rng.choice(("", "·", "·", " ")) + tail


def ip(rng: random.Random, zh: bool) -> str:
    """A public address of version 4 or 6."""
    if rng.random() < 0.2:
        return "2001:4860:" + ":".join(f"{rng.randrange(1, 65536):x}" for _ in range(6))
    return ".".join(
        (str(rng.choice((8, 23, 45, 61, 114, 123, 139, 183, 202, 219))), *(str(rng.randint(1, 254)) for _ in range(3)))
    )


def mac(rng: random.Random, zh: bool) -> str:
    """Six pairs, at least one hexadecimal letter."""
    pairs = [f"{rng.randrange(256):02x}" for _ in range(5)] + [rng.choice(("ab", "c4", "5e"))]
    joined = rng.choice(":-").join(pairs)
    return joined.upper() if rng.random() < 0.5 else joined


def key(rng: random.Random, zh: bool) -> str:
    """Tokens in issuers' forms, JWTs and random keys (the sentence assigns them to a name)."""
    part = lambda data: base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")  # noqa: E731
    forms: tuple[Callable[[], str], ...] = (
        lambda: "AKIA" + pick(rng, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16),
        lambda: "ghp_" + pick(rng, _ALNUM, 36),
        lambda: f"xoxb-{pick(rng, _DIGITS, 12)}-{pick(rng, _DIGITS, 12)}-{pick(rng, _ALNUM, 24)}",
        lambda: "AIza" + pick(rng, _ALNUM + "-_", 35),
        lambda: "sk_live_" + pick(rng, _ALNUM, 24),
        lambda: "sk-" + pick(rng, _ALNUM, 48),
        lambda: f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'sub': pick(rng, _DIGITS, 8), 'iat': 1516239022})}.{pick(rng, _ALNUM + '-_', 43)}",
        lambda: pick(rng, _ALNUM, 32),
        lambda: pick(rng, "0123456789abcdef", 40),
        lambda: pick(rng, _ALNUM + "+/", 40),
    )  # fmt: skip
    return rng.choice(forms)()


ITEMS: dict[str, Callable[[random.Random, bool], str]] = {
    "EMAIL": email, "PHONE": phone, "RESIDENT_ID": resident_id, "SOCIAL_CREDIT_CODE": credit_code, "BANK_CARD": bank_card, "IBAN": iban,
    "SSN": ssn, "PASSPORT": passport, "PLATE": plate, "IP": ip, "MAC": mac, "KEY": key,
}  # fmt: skip


def negative(rng: random.Random, zh: bool) -> str:
    """A sentence with something that only looks like personal data."""
    d = lambda n: pick(rng, _DIGITS, n)  # noqa: E731
    h = lambda n: pick(rng, "0123456789abcdef", n)  # noqa: E731
    v = lambda: ".".join(str(rng.randint(0, 30)) for _ in range(4))  # noqa: E731
    chinese = (
        lambda: f"订单号：{rng.choice(_CN_MOBILE)}{d(8)}，请妥善保管。", lambda: f"物流单号 {d(13)} 已签收。", lambda: f"该书 ISBN 978-7-{d(3)}-{d(5)}-{d(1)}，定价 {d(2)}.00 元。",
        lambda: f"软件版本 {v()} 修复了若干问题。", lambda: f"圆周率约为 3.14159265358979{d(4)}。", lambda: f"文件的 SHA1 为 {h(40)}。",
        lambda: f"时间戳 {rng.randint(1600000000000, 1700000000000)} 对应北京时间 20{rng.randint(10, 24)}-0{rng.randint(1, 9)}-{rng.randint(10, 28)} 10:{d(1)}5:{d(1)}0。",
        lambda: f"2023 年全国粮食产量 {rng.choice(_CN_MOBILE)}{d(8)} 公斤。", lambda: f"计算得 $x = {rng.choice(_CN_MOBILE)}{d(8)} \\times 2$。",
        lambda: f"流水号{d(16)}，序列号 {d(18)}。", lambda: f"参见第 {rng.randint(1, 9)}.{rng.randint(1, 9)}.{rng.randint(1, 9)}.{rng.randint(1, 9)} 节。",
        lambda: f"学号 2019{d(6)}，工号 {rng.choice(_CN_MOBILE)}{d(8)}。", lambda: f"本机地址为 192.168.{rng.randint(0, 255)}.{rng.randint(1, 254)}。",
        lambda: f"共处理 {d(9)} 条记录，耗时 {d(11)} 纳秒。", lambda: "京A股市场和沪B股指数今日收涨。",
    )  # fmt: skip
    english = (
        lambda: f"Order #{rng.choice(_CN_MOBILE)}{d(8)} has shipped.", lambda: f"Tracking number {d(12)} is out for delivery.",
        lambda: f"ISBN 978-0-{d(3)}-{d(5)}-{d(1)} is out of print.", lambda: f"Upgrade to version {v()} to fix it.", lambda: f"The commit {h(40)} broke the build.",
        lambda: f"At timestamp {rng.randint(1600000000, 1700000000)} the counter read {d(10)}.", lambda: f"The md5 sum is {h(32)}.",
        lambda: f"The constant is 2.7182818284590{d(6)} exactly.", lambda: f"It moved {rng.choice(_CN_MOBILE)}{d(8)} bytes in {d(2)} ms.",
        lambda: f"pip install tool=={v()}", lambda: f"See section {rng.randint(1, 9)}.{rng.randint(1, 9)}.{rng.randint(1, 9)}.{rng.randint(1, 9)} for details.",
        lambda: f"The router listens on 10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.1 by default.", lambda: f"On 2021-0{rng.randint(1, 9)}-1{d(1)} at 12:{d(1)}0:{d(1)}4 it stopped.",
        lambda: f"Invoice {d(16)} and part number {d(3)}-{d(2)}-{d(4)} were archived.", lambda: f"arXiv:23{rng.randint(10, 12)}.{d(5)} and doi 10.1038/s41586-021-{d(5)}-{d(1)} agree.",
        lambda: f"We solve ${d(3)}-{d(3)}-{d(4)} = x$ for x.", lambda: "Use `std::vector<int>` and abc::def from the header.",
        lambda: "The @property decorator and icon@2x.png need no change; clone git@github.com:owner/repo.git instead.",
        lambda: f"See https://shop.test/item/{rng.choice(_CN_MOBILE)}{d(8)}?ref={d(10)} for the listing.", lambda: f"UUID {h(8)}-{h(4)}-4{h(3)}-a{h(3)}-{h(12)} was assigned.",
    )  # fmt: skip
    roll = rng.random()
    if roll < 0.1:
        return f"\n{_table(rng)}\n"
    if roll < 0.2:
        return f"\n{_code(rng)}\n"
    return rng.choice(chinese if zh else english)()


def _table(rng: random.Random) -> str:
    """Rows of decimals and long integers."""
    cells = [
        [f"{rng.random() * 10**6:.4f}" if rng.random() < 0.5 else pick(rng, _DIGITS, 11) for _ in range(5)]
        for _ in range(3)
    ]
    return "\n".join(" ".join(row) for row in cells)


def _code(rng: random.Random) -> str:
    """Constants, hashes, and names of secrets without a secret."""
    hexadecimal = "0123456789abcdef"
    return f"""```python
SEED = {pick(rng, _DIGITS, 10)}
TABLE = [0x{pick(rng, hexadecimal, 8)}, 0x{pick(rng, hexadecimal, 8)}, {pick(rng, _DIGITS, 11)}, {pick(rng, _DIGITS, 16)}]
token = get_token(request.headers["Authorization"])
password = os.environ["DB_PASSWORD"]
api_key = "YOUR_API_KEY_HERE"
DIGEST = "{pick(rng, hexadecimal, 64)}"
```"""
