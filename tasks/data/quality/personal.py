"""Where personal data stands in a text: patterns, each with a check that keeps look-alikes out.

Card numbers: ISO/IEC 7812 (Luhn's digit, known issuers). IBAN: ISO 13616 (length by country, remainder 97).
Telephone numbers: E.164 and the usual spellings of North America, Germany, Britain, France and China; plain digits are
none unless they look like a mobile number, since orders and tickets have such numbers, too.
Addresses that name no person are left out: private, loopback and link-local IPs, net masks, `git@` and file names.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["email", "phone", "card", "iban", "ip"]


class Span(NamedTuple):
    start: int
    end: int
    kind: Kind


_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])([A-Za-z0-9._%+-]{1,64})@(?:[A-Za-z0-9-]{1,63}\.){1,8}([A-Za-z]{2,24})(?![A-Za-z0-9-])"
)
_FILES = frozenset({"png", "jpg", "jpeg", "gif", "svg", "webp"})

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}")
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "CH": 21,
    "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18,
    "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23,
    "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27,
    "MD": 24, "ME": 22, "MK": 19, "MT": 31, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29,
    "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29, "XK": 20,
}  # fmt: skip

_CARD = re.compile(r"(?<![A-Za-z0-9_.,+#-])\d(?:[ -]?\d){12,18}(?![A-Za-z0-9_-]|[.,]\d)")
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|220\d{13}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}"
    r"|35\d{14}|6(?:011|5\d\d|4[4-9]\d)\d{12}|62\d{14,17}"
)

_IPV4 = re.compile(r"(?<![A-Za-z0-9_.-])(?:\d{1,3}\.){3}\d{1,3}(?![A-Za-z0-9_-]|\.\d)")
_IPV6 = re.compile(r"(?<![A-Za-z0-9_:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![A-Za-z0-9_:])")
_VERSION = re.compile(r"(?:\bv|version|release|build|firmware|section|chapter)[ :.#]*$", re.IGNORECASE)

_PHONES = tuple(
    re.compile(rf"(?<![A-Za-z0-9_.,#$€£/+-]){spelling}(?![A-Za-z0-9_-]|[.,/]\d)")
    for spelling in (
        r"(?:\+|00(?=\d{1,3}[ (/-]))[1-9]\d{0,2}(?:[ ./-]{0,2}\(?\d{1,5}\)?){2,7}",
        r"(?:1[ .-])?(?:\(\d{3}\) ?|[2-9]\d{2}([-.]))\d{3}(?:\1|[-.])\d{4}",
        r"555-\d{4}",
        r"0[1-9](?:[ .-]\d{2}){4}",
        r"\(?0[1-9]\d{1,4}\)?(?: ?[/-] ?| )\d{2,8}(?:[ -]\d{2,7}){0,4}",
        r"01[5-7]\d{8,9}",
        r"07\d{9}",
        r"1[3-9]\d{9}",
    )
)
_PHONE_DIGITS = range(9, 16)

_MANY_DIGITS = re.compile(r"\d(?:[ ()./-]{0,3}\d){4}")


def spans(text: str) -> list[Span]:
    """Everything found, in order, without overlaps: the stricter pattern wins.

    Law: spans are sorted, disjoint and within the text. Time is linear in the text.
    """
    spans: list[Span] = []
    taken = bytearray()
    for span in _candidates(text):
        taken = taken or bytearray(len(text))
        if taken.find(1, span.start, span.end) < 0:
            taken[span.start : span.end] = b"\1" * (span.end - span.start)
            spans.append(span)
    return sorted(spans)


def _candidates(text: str) -> Iterator[Span]:
    """What the patterns find, the strictest pattern first."""
    if "@" in text:
        yield from _emails(text)
    if ":" in text:
        yield from _ips(text, _IPV6)
    if not _MANY_DIGITS.search(text):
        return
    yield from _ibans(text)
    yield from (Span(*found.span(), "card") for found in _CARD.finditer(text) if _is_card(found[0]))
    yield from _ips(text, _IPV4)
    for pattern in _PHONES:
        yield from (Span(*found.span(), "phone") for found in pattern.finditer(text) if _is_phone(found[0]))


def _emails(text: str) -> Iterator[Span]:
    for found in _EMAIL.finditer(text):
        if found[1] != "git" and found[2].lower() not in _FILES:
            yield Span(*found.span(), "email")


def _ibans(text: str) -> Iterator[Span]:
    for found in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(found[0][:2], 0)
        places = [place for place in range(*found.span()) if text[place] != " "]
        if not length or len(places) < length:
            continue
        end = places[length - 1] + 1
        if not text[end : end + 1].isalnum() and _remainder("".join(text[found.start() : end].split())) == 1:
            yield Span(found.start(), end, "iban")


def _remainder(iban: str) -> int:
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97


def _is_card(found: str) -> bool:
    digits = [int(character) for character in found if character.isdigit()]
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0 and _ISSUERS.fullmatch("".join(map(str, digits))) is not None


def _is_phone(found: str) -> bool:
    digits = [character for character in found if character.isdigit()]
    return found.startswith("555-") or (len(digits) in _PHONE_DIGITS and len(set(digits)) > 1)


def _ips(text: str, pattern: re.Pattern[str]) -> Iterator[Span]:
    for found in pattern.finditer(text):
        if _is_public(found[0]) and not _VERSION.search(text, max(0, found.start() - 16), found.start()):
            yield Span(*found.span(), "ip")


def _is_public(found: str) -> bool:
    """Whether it is an address that may belong to somebody; numbers like 1.2.3.4 are rather versions or sections."""
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    groups = [group for group in re.split(r"[.:]", found) if group]
    if address.version == 4:
        plain = all(len(group) == 1 for group in groups) or groups[0] in ("0", "255")
    else:
        plain = len(groups) < 3 or not re.search(r"\d", found)
    return not (plain or address.is_loopback or address.is_link_local or address.is_multicast or _is_inner(address))


_INNER = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))


def _is_inner(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(address in network for network in _INNER if network.version == address.version)
