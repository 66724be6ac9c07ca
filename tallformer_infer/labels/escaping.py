r"""Any label in formats that cannot hold every text, so that it comes back as it was.

Note [labels with escapes]
    A label is written as it is wherever the format can hold it. Where it cannot (a line break in a subtitle, a control
    character in XML), or where it would be taken for an escape, `\` becomes `\\` and what cannot stand becomes `\n`,
    `\r`, `\t` or `\u` with four digits. Other backslashes in a file mean themselves, so `C:\x` in a file that a person
    wrote stays what it is.
"""

from __future__ import annotations

import re

SUBTITLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]|-(?=->)|\A\s|\s\Z")
"""What would break a line of a subtitle, end it, or be trimmed from it."""
SUBRIP = re.compile(
    rf"{SUBTITLE.pattern}|<(?=/?(?:[bius]|font|c|v|lang|ruby|rt)[\s.>])|\{{(?=\\|/?[bius]\}})", re.IGNORECASE
)
"""The same in SubRip, where some tags and braces are markup and nothing else stands for them."""
XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML 1.0 document may hold, not even as a reference."""
LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff\ud800-\udfff]")
"""What cannot stand in a line of text, or in XML."""
CELL = re.compile(r"[\x00\ud800-\udfff]")
"""What cannot stand in a quoted cell."""
CHAPTER = re.compile(r"[\x00\r\ud800-\udfff]")
"""What cannot stand in FFmpeg's metadata, where a line break may, behind a backslash."""

_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_ESCAPE = re.compile(r"\\(?:([\\nrt])|u([0-9a-fA-F]{4}))")
_FORMULA = re.compile(r"'*(?:\s*[=+\-@＝＋－＠]|[\t\r\n])")


def escape(text: str, forbidden: re.Pattern[str]) -> str:
    """`text` without what is forbidden; see Note [labels with escapes].

    Args:
        text: Anything.
        forbidden: Matches characters of the basic plane, one at a time.
    """
    if not forbidden.search(text) and unescape(text) == text:
        return text
    return forbidden.sub(lambda match: _code(match[0]), text.replace("\\", "\\\\"))


def unescape(text: str) -> str:
    """The text that `escape` was given."""
    return _ESCAPE.sub(_meaning, text)


def guard_formula(text: str) -> str:
    """`text` such that no spreadsheet program computes it: an apostrophe goes before what begins like a formula.

    Source: OWASP, "CSV Injection".
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unguard_formula(text: str) -> str:
    """The text that `guard_formula` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def xml_text(text: str) -> str:
    """`text` as content of an XML element; what XML cannot hold is escaped first."""
    safe = escape(text, XML).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return safe.replace("\r", "&#13;")  # a bare one would be read as a line feed


def xml_attribute(text: str) -> str:
    """`text` as value of an XML attribute, with its quotation marks."""
    safe = xml_text(text).replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#9;")
    return f'"{safe}"'


def _code(character: str) -> str:
    return _NAMED.get(character) or f"\\u{ord(character):04x}"


def _meaning(match: re.Match[str]) -> str:
    if match[2]:
        return chr(int(match[2], 16))
    return {"n": "\n", "r": "\r", "t": "\t"}.get(match[1], match[1])
