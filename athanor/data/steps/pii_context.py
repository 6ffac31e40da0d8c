"""What stands around a candidate: words that speak for or against it, formulas, addresses, number tables, hashes."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property

from athanor.data.steps.pii_checks import resident_id

#: How many characters before a candidate are read for words.
REACH = 28

PHONE = re.compile(
    r"手机|电话|联系|致电|拨打|热线|传真|座机|客服|短信|微信|来电|"
    r"\b(?:tel|phone|telephone|mobile|cell|call|fax|text|whatsapp|contact|dial|hotline|sms|"
    r"telefon|mobil|handy|rufen|téléphone|teléfono|telefono|tél|ph)\b"
)
IDENTITY = re.compile(r"身份证|证件号|证件|公民身份|居民|identity|id (?:card|number|no)|national id|\bid\b")
ORGANISATION = re.compile(r"信用代码|机构代码|税号|纳税人|credit code|uscc|tax")
CARD = re.compile(
    r"银行卡|卡号|信用卡|借记卡|储蓄卡|账号|账户|刷卡|\b(?:card|visa|mastercard|amex|unionpay|credit|debit|account)\b"
)
SSN = re.compile(r"\b(?:ssn|social security|social-security|ss#|soc\. sec)")
PLATE = re.compile(
    r"车牌|号牌|牌照|车辆|轿车|货车|汽车|驾驶|小车|客车|车主|面包车|摩托|停车|的车|车号|出租车|违章|违停"
)
ADDRESS = re.compile(
    r"\b(?:ip|ips|ipv4|ipv6|host|hostname|server|address|addr|from|ping|ssh|gateway|dns|client|peer|remote|login|logged|"
    r"nameserver|proxy|listen|connect|connected)\b|地址|服务器|主机|来自|登录|网关|解析|访问|代理|://"
)
MAC = re.compile(r"\bmac\b|ether|hwaddr|物理地址|网卡|physical address|bssid|lladdr")
VERSION = re.compile(
    r"(?:\bv|\bver\.?|version|versions|release|releases|版本号?|升级到|upgrade to|section|sec\.|chapter|clause|oid|"
    r"§|第|[=><~!]=|-)\s?[\"'(:：为]?\s?$"
)
#: Numbers that are names of things and not of people.
OTHER_NUMBER = re.compile(
    r"订单|单号|流水|编号|序列|运单|快递|批次|型号|货号|条码|发票|工单|学号|工号|合同|专利|哈希|时间戳|版本|校验|回执|标识|案号|第\s?\Z|"
    r"isbn|issn|doi|arxiv|timestamp|hash|sha|md5|uuid|"
    r"\b(?:order|tracking|invoice|serial|sku|ticket|reference|ref|item|batch|part|model|version|build|commit|isbn|patent|upc|ean|"
    r"product|transaction|confirmation|case|id|uid|seed|job|record|checksum|page|offset|receipt|parcel|shipment|barcode|revision)\b"
)
_UNIT_AFTER = re.compile(
    r"[ \t]?(?:[%‰℃°]|[公千毫]?[克米]|[公市]?[斤里]|[毫微纳]?秒|[元个次人万亿条页吨年倍票部行]|字节|美元|分钟|小时|"
    r"天(?!气)|(?:bytes?|tokens?|ms|ns|us|kb|mb|gb|kg|km|usd|rows?|items?|users?|people|dollars|units|steps|cycles|ops)\b)",
    re.I,
)
_OPERATOR_AFTER = re.compile(r"[ \t]?(?:[*/^×÷=<>≤≥≈±∑]|[+−]\s|\\(?:times|cdot|div|approx|le|ge)\b)")
_OPERATOR_BEFORE = re.compile(r"(?:[*^×÷<>≤≥≈±]|[+−]\s|\\(?:times|cdot|div|approx|le|ge))\s?$")
_FORMULA = re.compile(r"\$\$.{1,2000}?\$\$|\$[^$\n]{1,300}\$|\\\(.{1,300}?\\\)|\\\[.{1,2000}?\\\]", re.S)
_ADDRESS_TOKEN = re.compile(r"(?:[a-z][a-z0-9+.\-]{1,10}://|www\.|\?|&)[^\s<>\"'，。）)】]*$", re.I)
#: A full stop ends a sentence only behind a long word: ``Tel. 030 …`` goes on.
_SENTENCE_END = re.compile(r"[。！？；]|(?<=[a-z0-9)]{5})[.!?]\s|(?<![:：])\n")
_LEFT_NUMBER = re.compile(r"([0-9A-Za-z.]*[0-9][0-9A-Za-z.]*)\s?,\s?$")
_RIGHT_NUMBER = re.compile(r"\s?,\s?([0-9A-Za-z.]*[0-9][0-9A-Za-z.]*)")
_GOES_BACK = re.compile(r"[0-9][.\-]\Z|\.\Z|(?<![0-9])[0-9]{1,3},\Z")
_GOES_ON = re.compile(r"[.\-][0-9]|,[0-9]{3}(?![0-9])")
_CELL = re.compile(r"[-+]?[0-9][0-9.,eE+\-%]*")
_NUMBER_LINE_REST = re.compile(r"[^\W\d_]")


class Around:
    """A text with look-ups of what stands around a span ``[start, end)``. Everything is computed when first asked."""

    def __init__(self, text: str) -> None:
        self.text = text

    def before(self, start: int, reach: int = REACH) -> str:
        """The characters before ``start`` in its sentence, lower case; a line that ends in a colon goes on."""
        return _SENTENCE_END.split(self.text[max(0, start - reach) : start].lower())[-1]

    def nearest(self, start: int, wanted: re.Pattern[str], reach: int = REACH) -> int:
        """Characters between the last word of ``wanted`` before ``start`` and it; a large number if there is none."""
        last = None
        for last in wanted.finditer(self.before(start, reach)):  # noqa: B007 - the last one counts
            pass
        return 10**6 if last is None else min(reach, start) - last.end()

    def speaks_for(self, start: int, wanted: re.Pattern[str], reach: int = REACH) -> bool:
        """Whether a word of ``wanted`` stands before, and nearer than any word for another kind of number."""
        near = self.nearest(start, wanted, reach)
        return near < 10**6 and near <= self.nearest(start, OTHER_NUMBER, reach)

    def is_other(self, start: int, unless: re.Pattern[str]) -> bool:
        """Whether the words before name another kind of number, with none of ``unless`` nearer."""
        near = self.nearest(start, OTHER_NUMBER)
        return near < 10**6 and near < self.nearest(start, unless)

    @cached_property
    def _formulas(self) -> tuple[list[int], list[int]]:
        spans = [match.span() for match in _FORMULA.finditer(self.text)]
        return [a for a, _ in spans], [b for _, b in spans]

    def in_formula(self, start: int, end: int) -> bool:
        """Inside ``$…$`` or ``\\(…\\)``, or beside an operator."""
        starts, ends = self._formulas
        at = bisect_right(starts, start) - 1
        if at >= 0 and end <= ends[at]:
            return True
        after = self.text[end : end + 10]
        return bool(_OPERATOR_AFTER.match(after) or _OPERATOR_BEFORE.search(self.text[max(0, start - 8) : start]))

    def has_unit(self, end: int) -> bool:
        """Whether a unit or counting word follows: then it is a quantity."""
        return bool(_UNIT_AFTER.match(self.text[end : end + 12]))

    def in_address(self, start: int) -> bool:
        """Whether it is a part of a URL."""
        return bool(_ADDRESS_TOKEN.search(self.text[max(0, start - 200) : start]))

    def in_decimal(self, start: int, end: int) -> bool:
        """Whether it is some digits of a longer decimal, grouped or dotted number."""
        left, right = self.text[max(0, start - 5) : start], self.text[end : end + 5]
        return bool(_GOES_BACK.search(left) or _GOES_ON.match(right))

    def in_number_table(self, start: int, end: int) -> bool:
        """Whether its line is numbers alone, at least four cells of them, or its list neighbours are unlike it."""
        left = self.text.rfind("\n", 0, start) + 1
        right = self.text.find("\n", end)
        if self._in_list(start, end):
            return True
        line = self.text[left : right if right >= 0 else len(self.text)]
        if len(line) > 2000 or _NUMBER_LINE_REST.search(line.replace("e", "").replace("E", "")):
            return False
        return len(_CELL.findall(line)) >= 4

    def _in_list(self, start: int, end: int) -> bool:
        before, after = self.text[max(0, start - 40) : start], self.text[end : end + 40]
        left, right = _LEFT_NUMBER.search(before), _RIGHT_NUMBER.match(after)
        if right is not None and resident_id(right.group(1)):  # a row about a person
            return False
        unlike_left = left is not None and len(left.group(1)) != end - start
        unlike_right = right is not None and len(right.group(1)) != end - start
        opens, closes = before.rstrip()[-1:] in ("[", "(", "{"), after.lstrip()[:1] in ("]", ")", "}")
        return unlike_left and (unlike_right or closes) or opens and unlike_right
