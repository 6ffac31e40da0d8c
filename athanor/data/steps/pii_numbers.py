"""Numbers of people: phones, identity numbers, cards, accounts, passports, licence plates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from athanor.data.steps import pii_checks as checks
from athanor.data.steps.pii_context import CARD, IDENTITY, ORGANISATION, PHONE, PLATE, SSN, Around

#: Digits with separators, and what may stand at their ends. Everything below is looked for in such stretches only.
_STRETCH = re.compile(r"[0-9](?:[ \-.()/]{0,3}[0-9]){6,}")
_PAD = 12

_ID_18 = re.compile(r"(?<![0-9A-Za-z.])[1-8][0-9]{5}[ \-]?[12][0-9]{7}[ \-]?[0-9]{3}[0-9Xx](?![0-9A-Za-z])")
_ID_15 = re.compile(r"(?<![0-9A-Za-z.])[1-8][0-9]{14}(?![0-9A-Za-z])")
_CREDIT_CODE = re.compile(r"(?<![0-9A-Za-z])[0-9ANY][0-9A-Z][0-9]{6}[0-9A-HJ-NP-RTUWXY]{10}(?![0-9A-Za-z])")
_CARD = re.compile(
    r"(?<![0-9A-Za-z.])(?:[0-9]{4}([ \-])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3})?|"
    r"3[47][0-9]{2}([ \-])[0-9]{6}\2[0-9]{5}|"
    r"6[0-9]{5}[ ][0-9]{10,13}|[0-9]{13,19})(?![0-9A-Za-z])"
)
_SSN = re.compile(r"(?<![0-9A-Za-z.\-])[0-8][0-9]{2}([\- ]?)[0-9]{2}\1[0-9]{4}(?![0-9A-Za-z]|-[0-9])")
_IBAN = re.compile(r"(?<![0-9A-Za-z])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![0-9A-Za-z])")

_MOBILE = re.compile(
    r"(?<![0-9A-Za-z.])(?<!\+)(?:(?:\+|00)?[(]?86[)]?[ \-]?)?"
    r"(1(?:3[0-9]|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8[0-9]|9[0-35-9])([ \-]?)[0-9]{4}\2[0-9]{4})(?![0-9A-Za-z])"
)
_MOBILE_BEHIND_WORD = re.compile(r"(?<=[A-Za-z])(1[3-9][0-9]{9})(?![0-9A-Za-z])")
#: Area codes of the mainland: 010, 02x, and 03xx to 09xx as allotted (no second digit 0 there).
_LANDLINE = re.compile(
    r"(?<![0-9A-Za-z.])(?:(?:\+|00)86[ \-]?(?:\(0?|0)?|\(0|（0|0)(?:10|2[0-57-9]|[3-9][1-9][0-9])[)）]?[ \-]?"
    r"[2-8](?:[0-9]{7}|[0-9]{6}|[0-9]{3}[ \-][0-9]{4}|[0-9]{2}[ \-][0-9]{4})"
    r"(?:\s?(?:-|转|分机|ext\.?)\s?[0-9]{1,5})?(?![0-9A-Za-z])"
)
_HOTLINE = re.compile(
    r"(?<![0-9A-Za-z.\-])[48]00[ \-][0-9]{3}[ \-]?[0-9]{4}(?![0-9A-Za-z])|"
    r"(?<![0-9A-Za-z.\-])[48]00[0-9]{7}(?![0-9A-Za-z])"
)
_PLUS = re.compile(r"(?<![0-9A-Za-z])(?:\+|00)[ ]?[1-9](?:[ \-.()/]{0,3}[0-9]){6,14}(?![0-9A-Za-z])")
_NORTH_AMERICA = re.compile(
    r"(?<![0-9A-Za-z.\-/])(?:\+?1[ .\-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}([\-. ]))"
    r"[0-9]{3}(?:(?(1)\1|[\-. ]))[0-9]{4}"
    r"(?![0-9A-Za-z]|[.\-][0-9])"
)
_NATIONAL = re.compile(r"(?<![0-9A-Za-z.+])[(]?[0-9][0-9)](?:[ \-.()/]{0,3}[0-9]){5,13}(?![0-9A-Za-z])")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9]{4}[\-/.][0-9]{1,2}[\-/.][0-9]{1,2}")
#: Where a national number after a word for a telephone is tried, in this order.
_REGIONS = ("US", "GB", "DE", "FR", "IT", "ES", "NL", "AU", "CA", "IN", "SG", "HK", "TW", "JP", "KR")

_PASSPORT_WORDS = ("护照", "通行证", "assport", "ASSPORT")
_PASSPORT_NUMBER = re.compile(
    r"(?:[号编]?[号码])?[\s:：#为是号（(\-]{0,4}(?:(?:number|no|is|nr)\.?[\s:：]{0,2})*([A-Z]{0,2}[0-9]{6,9}[A-Z]?)(?![0-9A-Za-z])",
    re.I,
)
_PLATE = re.compile(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-HJ-NP-Z]([·•\- ]?)"
    r"(?:[DF][A-HJ-NP-Z0-9][0-9]{4}|[0-9]{5}[DF]|[A-HJ-NP-Z0-9]{4}[A-HJ-NP-Z0-9挂学警港澳])(?![0-9A-Za-z])"
)

Found = tuple[int, int, str]


def bare(number: str) -> str:
    """Letters and digits alone."""
    return re.sub(r"[^0-9A-Za-z]", "", number)


def numbers(around: Around) -> Iterator[Found]:
    """Identity numbers, cards and phones in every stretch of digits, the best-founded kinds first."""
    stretches = _stretches(around.text)
    for finder in (_identities, _cards, _securities, _phones):
        for start, end in stretches:
            yield from finder(around, start, end)


def _stretches(text: str) -> list[tuple[int, int]]:
    """Windows around stretches of at least seven digits, joined where they touch."""
    windows: list[tuple[int, int]] = []
    for match in _STRETCH.finditer(text):
        start, end = max(0, match.start() - _PAD), min(len(text), match.end() + _PAD)
        if windows and start <= windows[-1][1]:
            windows[-1] = (windows[-1][0], end)
        else:
            windows.append((start, end))
    return windows


def _identities(around: Around, start: int, end: int) -> Iterator[Found]:
    for match in _ID_18.finditer(around.text, start, end):
        if checks.resident_id(bare(match.group())) and not around.in_decimal(*match.span()):
            yield *match.span(), "RESIDENT_ID"
    for match in _CREDIT_CODE.finditer(around.text, start, end):
        if not checks.social_credit_code(match.group()) or around.in_decimal(*match.span()):
            continue
        # One in 31 of numbers without a letter passes the check: then words that name another kind count.
        if not (match.group().isdigit() and around.is_other(match.start(), ORGANISATION)):
            yield *match.span(), "SOCIAL_CREDIT_CODE"
    for match in _ID_15.finditer(around.text, start, end):
        if checks.resident_id_15(match.group()) and around.speaks_for(match.start(), IDENTITY):
            yield *match.span(), "RESIDENT_ID"


def _cards(around: Around, start: int, end: int) -> Iterator[Found]:
    for match in _CARD.finditer(around.text, start, end):
        a, b = match.span()
        if not checks.bank_card(bare(match.group())) or _is_quantity(around, a, b):
            continue
        grouped = match.group(1) or match.group(2)
        if around.speaks_for(a, CARD) or not around.is_other(a, CARD) and (grouped or not around.in_number_table(a, b)):
            yield a, b, "BANK_CARD"


def _securities(around: Around, start: int, end: int) -> Iterator[Found]:
    for match in _SSN.finditer(around.text, start, end):
        a, b = match.span()
        if not checks.social_security(bare(match.group())) or _is_quantity(around, a, b):
            continue
        named = bool(SSN.search(around.before(a, 40)))
        if named or match.group(1) == "-" and not around.is_other(a, SSN) and not around.in_number_table(a, b):
            yield a, b, "SSN"


def _is_quantity(around: Around, start: int, end: int) -> bool:
    return (
        around.in_decimal(start, end)
        or around.in_formula(start, end)
        or around.in_address(start)
        or around.has_unit(end)
    )


def _phones(around: Around, start: int, end: int) -> Iterator[Found]:
    for pattern, is_phone in _PHONE_FORMS:
        for match in pattern.finditer(around.text, start, end):
            a, b = match.span()
            number = match.group()
            if (
                around.in_decimal(a, b)
                or not around.speaks_for(a, PHONE)
                and (around.in_formula(a, b) or around.has_unit(b))
            ):
                continue
            if around.in_address(a) and not around.before(a, 5).endswith(("tel:", "sms:", "tel:+")):
                continue
            if is_phone(around, number, a, b):
                yield a, b, "PHONE"


def _plain(around: Around, number: str, start: int, end: int) -> bool:
    """A form that is a phone number unless words before name another kind or it stands in a table of numbers."""
    if around.speaks_for(start, PHONE) or "+" in number:
        return True
    assigned = around.before(start, 3).rstrip().endswith("=") and number.isdigit()  # an integer in code
    return not assigned and not around.is_other(start, PHONE) and not around.in_number_table(start, end)


def _named(around: Around, number: str, start: int, end: int) -> bool:
    return around.speaks_for(start, PHONE)


def _hotline(around: Around, number: str, start: int, end: int) -> bool:
    return around.speaks_for(start, PHONE) or not number.isdigit() and _plain(around, number, start, end)


def _landline(around: Around, number: str, start: int, end: int) -> bool:
    if number.isdigit() and not around.speaks_for(start, PHONE):  # eleven or twelve bare digits from 0
        return False
    return _plain(around, number, start, end)


def _plus(around: Around, number: str, start: int, end: int) -> bool:
    """A number in international form that the numbering plan of its country allows."""
    if not number.startswith("+") and not around.speaks_for(start, PHONE):
        return False
    plain = "+" + re.sub(r"^(\+|00)\s?", "", re.sub(r"\(0\)", "", number))
    return _is_valid(plain, None, merely_possible=around.speaks_for(start, PHONE))


def _north_america(around: Around, number: str, start: int, end: int) -> bool:
    """Area codes that are in use; any, where brackets or a word show that it is a telephone."""
    shown = number.startswith("(") or around.speaks_for(start, PHONE)
    return _is_valid(number, "US", merely_possible=shown) and _plain(around, number, start, end)


def _national(around: Around, number: str, start: int, end: int) -> bool:
    if _DECIMAL.fullmatch(number) or not around.speaks_for(start, PHONE):
        return False
    return any(_is_valid(number, region) for region in _REGIONS)


_PHONE_FORMS: tuple[tuple[re.Pattern[str], Any], ...] = (
    (_MOBILE, _plain),
    (_MOBILE_BEHIND_WORD, _named),
    (_LANDLINE, _landline),
    (_HOTLINE, _hotline),
    (_PLUS, _plus),
    (_NORTH_AMERICA, _north_america),
    (_NATIONAL, _national),
)


@cache
def _library() -> Any:
    import phonenumbers

    return phonenumbers


def _is_valid(number: str, region: str | None, merely_possible: bool = False) -> bool:
    library = _library()
    judge = library.is_possible_number if merely_possible else library.is_valid_number
    try:
        return bool(judge(library.parse(number, region)))
    except library.NumberParseException:
        return False


def ibans(around: Around) -> Iterator[Found]:
    """Account numbers with country, length and remainder modulo 97; the longest reading that checks."""
    for match in _IBAN.finditer(around.text):
        start, end = match.span()
        while end - start >= 15:
            if checks.iban(bare(around.text[start:end])) and not around.text[end - 1].isspace():
                yield start, end, "IBAN"
                break
            end = around.text.rfind(" ", start, end)


def passports(around: Around) -> Iterator[Found]:
    """Numbers directly behind a word for a passport."""
    text = around.text
    for word in _PASSPORT_WORDS:
        at = text.find(word)
        while at >= 0:
            match = _PASSPORT_NUMBER.match(text, at + len(word))
            if match:
                yield *match.span(1), "PASSPORT"
            at = text.find(word, at + 1)


def plates(around: Around) -> Iterator[Found]:
    """Licence plates of the mainland: with the dot that they carry, or beside a word for a vehicle."""
    for match in _PLATE.finditer(around.text):
        start, end = match.span()
        if not any(c.isdigit() for c in match.group()):
            continue
        near = around.text[max(0, start - 24) : start] + around.text[end : end + 12]
        if match.group(1) in ("·", "•") or PLATE.search(near):
            yield start, end, "PLATE"
