"""Checksums and rules of issued numbers: what tells an identity number from any other number of that length.

Each check takes the bare characters (separators removed) and costs microseconds; none needs data beyond this file.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from datetime import date

#: First two digits of a Chinese administrative division code (GB/T 2260), with 81–83 of Hong Kong, Macao and Taiwan.
_REGIONS = "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83"
PROVINCES = frozenset(_REGIONS.split())
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECK = "10X98765432"
_USCC_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_USCC_WEIGHTS = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)
#: Total length of an IBAN by country (ISO 13616 registry).
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in (
        line.split(":")
        for line in """15:NO
16:BE
18:DK FI FO GL NL
19:MK SI
20:AT BA EE KZ LT LU XK
21:CH CR HR LI LV
22:BG BH DE GB GE IE ME RS
23:AE GI IL IQ TL
24:AD CZ ES MD PK RO SA SE SK TN VG
25:PT ST
26:IS TR
27:FR GR IT MC MR SM
28:AL AZ BY CY DO GT HU LB LC PL SV
29:BR EG PS QA UA
30:JO KW MU
31:MT SC""".splitlines()
    )
    for country in countries.split()
}
#: (first prefix, last prefix, lengths) of issuer identification numbers in use (ISO/IEC 7812 ranges of the networks).
_ISSUERS = (
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
    ("81", "81", (16, 17, 18, 19)),
    ("6011", "6011", (16, 19)),  # Discover
    ("644", "659", (16, 19)),
    ("3528", "3589", (16, 19)),  # JCB
    ("300", "305", (14,)),  # Diners
    ("36", "36", (14,)),
    ("38", "39", (14,)),
)


def _date(year: int, month: int, day: int) -> bool:
    try:
        born = date(year, month, day)
    except ValueError:
        return False
    return date(1880, 1, 1) <= born <= date(2100, 1, 1)


def resident_id(number: str) -> bool:
    """Chinese resident identity number of 18 characters (GB 11643): region, date of birth, ISO 7064 MOD 11-2."""
    if len(number) != 18 or not number[:17].isascii() or not number[:17].isdigit():
        return False
    if number[:2] not in PROVINCES or not _date(int(number[6:10]), int(number[10:12]), int(number[12:14])):
        return False
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], _ID_WEIGHTS, strict=True))
    return _ID_CHECK[total % 11] == number[17].upper()


def resident_id_15(number: str) -> bool:
    """The form of before 1999: six digits of the region, the date as yymmdd, three of sequence; no checksum."""
    if len(number) != 15 or not number.isdigit() or number[:2] not in PROVINCES:
        return False
    return _date(1900 + int(number[6:8]), int(number[8:10]), int(number[10:12]))


def social_credit_code(code: str) -> bool:
    """Unified social credit code (GB 32100): department, division, then check character, weights 3^i modulo 31."""
    code = code.upper()
    if len(code) != 18 or any(c not in _USCC_ALPHABET for c in code) or code[2:4] not in PROVINCES | {"10"}:
        return False
    if code[0] not in "123456789ANY" or not code[2:8].isdigit():
        return False
    total = sum(_USCC_ALPHABET.index(c) * w for c, w in zip(code[:17], _USCC_WEIGHTS, strict=True))
    return _USCC_ALPHABET[-total % 31] == code[17]


def luhn(number: str) -> bool:
    """ISO/IEC 7812-1 annex B: digits from the right, every second doubled, the sum of digits divides by ten."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def bank_card(number: str) -> bool:
    """An issuer's prefix, a length that it uses, and Luhn's checksum; no number of one repeated digit."""
    if len(set(number)) < 2:
        return False
    known = any(len(number) in lengths and first <= number[: len(first)] <= last for first, last, lengths in _ISSUERS)
    return known and luhn(number)


def iban(number: str) -> bool:
    """Country's length and remainder 1 modulo 97 with the first four characters moved behind (ISO 13616)."""
    number = number.upper()
    if _IBAN_LENGTHS.get(number[:2]) != len(number) or not number.isalnum() or not number.isascii():
        return False
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1


def social_security(number: str) -> bool:
    """US number of nine digits: no area 000, 666 or 900–999, no group 00, no serial 0000 (SSA rules since 2011)."""
    area, group, serial = number[:3], number[3:5], number[5:]
    if number in ("123456789", "078051120", "219099999") or len(set(number)) == 1:
        return False
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def public_ip(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is well-formed and globally reachable (IANA's special registries)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.version == 6 and address[:1] not in "23":  # 2000::/3 is all that has been assigned
        return False
    return parsed.is_global and not parsed.is_multicast


def entropy_bits(text: str) -> float:
    """Shannon entropy of a string's characters, bits a character."""
    n = len(text)
    return -sum(count / n * math.log2(count / n) for count in Counter(text).values()) if n else 0.0
