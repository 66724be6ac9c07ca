r"""Read and write label files: bytes, text, JSON and XML, lists of problems, and escapes for labels.

Note [labels with escapes]
    A label is written unchanged if the format can represent it. If it cannot (a line break in a subtitle, a control
    character in XML), or if it would be read as an escape, `\` becomes `\\` and forbidden characters become `\n`,
    `\r`, `\t` or `\u` with four digits. Other backslashes in a file are literal, so `C:\x` in a hand-written file is
    left unchanged.
"""

from __future__ import annotations

import codecs
import gzip
import json
import math
import re
import xml.etree.ElementTree as ET
import zlib
from collections import Counter
from pathlib import Path
from typing import Any
from xml.parsers import expat

from tallformer_infer.errors import AnnotationError
from tallformer_infer.text import truncated

SHOWN = 20
"""Maximum number of problems listed; the others are only counted."""
MOST_UNPACKED_BYTES = 1 << 29
"""Maximum size of a decompressed file; the labels of a thousand hours take a hundredth of it."""

_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

SUBTITLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]|-(?=->)|\A\s|\s\Z")
"""What would break or end a subtitle line, or be trimmed from it."""
SUBRIP = re.compile(
    rf"{SUBTITLE.pattern}|<(?=/?(?:[bius]|font|c|v|lang|ruby|rt)[\s.>])|\{{(?=\\|/?[bius]\}})", re.IGNORECASE
)
"""The same in SubRip, where some tags and braces are markup and have no escape sequence."""
XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters forbidden in XML 1.0, even as references."""
LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff\ud800-\udfff]")
"""Characters that are not allowed in a line of text, or in XML."""
CELL = re.compile(r"[\x00\ud800-\udfff]")
"""Characters that are not allowed in a quoted CSV cell."""
CHAPTER = re.compile(r"[\x00\r\ud800-\udfff]")
"""Characters that are not allowed in FFmpeg metadata; line breaks are, after a backslash."""

_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_ESCAPE = re.compile(r"\\(?:([\\nrt])|u([0-9a-fA-F]{4}))")
_FORMULA = re.compile(r"'*(?:\s*[=+\-@＝＋－＠]|[\t\r\n])")


_LONGEST_LINE = 500
"""Maximum length of a message, in characters; keys and labels of a damaged file may be of any length."""


class Problems:
    """Problems of one file, in the order they were found."""

    def __init__(self, source: str, *, most: int | None = SHOWN) -> None:
        """Create an empty list.

        Args:
            source: Name of the file, for messages.
            most: Maximum number of problems listed; None for all.
        """
        self._source, self._most = source, most
        self.lines: list[str] = []
        """One line per problem: file, key, what is wrong."""
        self.notes: list[str] = []
        """One line for each valid part of the file that was skipped."""

    def add(self, key: str, problem: str) -> None:
        """Add a problem at `key` (a path into the file, or a line number)."""
        self.lines.append(f"{self._source}: {truncated(f'{key}: {problem}', _LONGEST_LINE)}")

    def take(self, others: Problems) -> None:
        """Add the problems and notes of another part of the file."""
        self.lines += others.lines
        self.notes += others.notes

    def note(self, text: str) -> None:
        """Add a note on what was skipped."""
        self.notes.append(f"{self._source}: {truncated(text, _LONGEST_LINE)}")

    @property
    def count(self) -> int:
        """Number of problems so far."""
        return len(self.lines)

    def raise_if_any(self) -> None:
        """Raise if there is any problem.

        Raises:
            AnnotationError: One line per problem.
        """
        if not self.lines:
            return
        shown_lines = self.lines if self._most is None else self.lines[: self._most]
        more = len(self.lines) - len(shown_lines)
        tail = [f"{self._source}: and {more} more problems"] if more else []
        raise AnnotationError("\n".join(shown_lines + tail))


def read_bytes(path: Path) -> bytes:
    """Read a file; one with the suffix `.gz` is decompressed.

    Raises:
        AnnotationError: The file cannot be read or decompressed, or its content exceeds `MOST_UNPACKED_BYTES`.
    """
    try:
        if path.suffix.lower() != ".gz":
            return path.read_bytes()
        with gzip.open(path) as packed:
            content = packed.read(MOST_UNPACKED_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise AnnotationError(f"{path}: not gzip, or truncated: {error}") from error
    except OSError as error:
        raise AnnotationError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if len(content) > MOST_UNPACKED_BYTES:
        raise AnnotationError(f"{path}: unpacks to more than {MOST_UNPACKED_BYTES >> 20} MB")
    return content


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file whose top level is an object.

    Raises:
        AnnotationError: The file cannot be read, is not JSON, has a duplicate key, or is not an object.
    """
    try:
        value = json.loads(read_bytes(path), object_pairs_hook=_object_without_duplicates)
    except RecursionError as error:
        raise AnnotationError(f"{path}: not JSON: nested too deeply") from error
    except _DuplicateKeyError as error:
        raise AnnotationError(f"{path}: the key {error} appears twice in one object; keep one of them") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not JSON: not a text file") from error
    except ValueError as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise AnnotationError(f"{path}: expected a JSON object, got {shown(value)}")
    return value


def shown(value: object) -> str:
    """Abbreviate a JSON value for messages."""
    return truncated(json.dumps(value, ensure_ascii=False, default=str), 60)


def number(value: object) -> float | None:
    """Convert a number, or a string with one, to a finite float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def read_decoded(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        AnnotationError: The file cannot be read, or has another encoding.
    """
    content = read_bytes(path)
    encoding = _BYTE_ORDER_MARKS.get(content[:2], "utf-8-sig")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise AnnotationError(f"{path}: not text in {name} (byte {error.start}); save it as UTF-8") from error


def read_text(path: Path) -> str:
    r"""Like `read_decoded`, with line ends converted to `\n`.

    Raises:
        AnnotationError: The file cannot be read, or is not text.
    """
    return read_decoded(path).replace("\r\n", "\n").replace("\r", "\n")


def parse_xml(content: bytes, source: str) -> ET.Element:
    """Parse an XML document and return its root element.

    Document types are rejected: they declare entities, which can make a small file expand to gigabytes or refer to
    other files. Label formats have none.

    Args:
        content: The document.
        source: Name of the file, for messages.

    Raises:
        AnnotationError: The content is not XML, or has a document type.
    """
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*_declaration: object) -> None:
        raise AnnotationError(f"{source}: has a document type (<!DOCTYPE>), which is not read for safety; remove it")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # LookupError: unknown encoding
        raise AnnotationError(f"{source}: not XML: {error}") from error
    return builder.close()


class _DuplicateKeyError(Exception):
    pass


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _DuplicateKeyError(json.dumps(counts.most_common(1)[0][0], ensure_ascii=False))
    return value


def escape(text: str, forbidden: re.Pattern[str]) -> str:
    """Escape forbidden characters in `text`; see Note [labels with escapes].

    Args:
        text: Any text.
        forbidden: Matches single characters of the Basic Multilingual Plane.
    """
    if not forbidden.search(text) and unescape(text) == text:
        return text
    return forbidden.sub(lambda match: _code(match[0]), text.replace("\\", "\\\\"))


def unescape(text: str) -> str:
    """Inverse of `escape`."""
    return _ESCAPE.sub(_meaning, text)


def guard_formula(text: str) -> str:
    """Prefix text that starts like a formula with an apostrophe, so that no spreadsheet program evaluates it.

    Source: OWASP, "CSV Injection".
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unguard_formula(text: str) -> str:
    """Inverse of `guard_formula`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def xml_text(text: str) -> str:
    """`text` as the content of an XML element; characters that XML forbids are escaped first."""
    safe = escape(text, XML).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return safe.replace("\r", "&#13;")  # parsers convert a literal one to a line feed


def xml_attribute(text: str) -> str:
    """`text` as the value of an XML attribute, including the quotation marks."""
    safe = xml_text(text).replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#9;")
    return f'"{safe}"'


def _code(character: str) -> str:
    return _NAMED.get(character) or f"\\u{ord(character):04x}"


def _meaning(match: re.Match[str]) -> str:
    if match[2]:
        return chr(int(match[2], 16))
    return {"n": "\n", "r": "\r", "t": "\t"}.get(match[1], match[1])
