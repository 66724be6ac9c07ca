r"""Read and write label files: bytes, text, JSON and XML, lists of problems, and escapes for labels.

Note [labels with escapes]
    A label is written as it is wherever the format can hold it. Where it cannot (a line break in a subtitle, a control
    character in XML), or where it would be taken for an escape, `\` becomes `\\` and forbidden characters become `\n`,
    `\r`, `\t` or `\u` with four digits. Other backslashes in a file mean themselves, so `C:\x` in a hand-written file
    stays what it is.
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

SHOWN = 20
"""Problems that are written out; of the others only the number."""
MOST_UNPACKED_BYTES = 1 << 29
"""Content of a packed file; labels of a thousand hours are a hundredth of it."""

_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

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


_LONGEST_LINE = 500
"""Characters of a message; keys and labels of a damaged file may be of any length."""


class Problems:
    """The problems of one file, in the order in which they were found."""

    def __init__(self, source: str, *, most: int | None = SHOWN) -> None:
        """No problem yet.

        Args:
            source: The file, for messages.
            most: Problems that are written out; None for all.
        """
        self._source, self._most = source, most
        self.lines: list[str] = []
        """One per problem: file, key, what is wrong."""
        self.notes: list[str] = []
        """What was passed over although nothing is wrong with it, one line each."""

    def add(self, key: str, problem: str) -> None:
        """Note a problem at `key` (a path into the file, or a line of it)."""
        self.lines.append(f"{self._source}: {_shortened(f'{key}: {problem}')}")

    def take(self, others: Problems) -> None:
        """Add the problems and notes of another part of the file."""
        self.lines += others.lines
        self.notes += others.notes

    def note(self, text: str) -> None:
        """Note what was passed over."""
        self.notes.append(f"{self._source}: {_shortened(text)}")

    @property
    def count(self) -> int:
        """Problems so far."""
        return len(self.lines)

    def raise_if_any(self) -> None:
        """Refuse the file if there is a problem.

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
    """The content of a file; of one that ends in `.gz`, what is packed in it.

    Raises:
        AnnotationError: It cannot be read or unpacked.
    """
    try:
        if path.suffix.lower() != ".gz":
            return path.read_bytes()
        with gzip.open(path) as packed:
            content = packed.read(MOST_UNPACKED_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise AnnotationError(f"{path}: not gzip, or cut short: {error}") from error
    except OSError as error:
        raise AnnotationError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if len(content) > MOST_UNPACKED_BYTES:
        raise AnnotationError(f"{path}: unpacks to more than {MOST_UNPACKED_BYTES >> 20} MB")
    return content


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file whose top level is an object.

    Raises:
        AnnotationError: There is no such file, it is not JSON, a key appears twice, or it is not an object.
    """
    try:
        value = json.loads(read_bytes(path), object_pairs_hook=_object_without_duplicates)
    except RecursionError as error:
        raise AnnotationError(f"{path}: not JSON: nested too deeply") from error
    except _DuplicateKeyError as error:
        raise AnnotationError(f"{path}: the key {error} appears twice in one object; keep one of them") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not JSON, and no text") from error
    except ValueError as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise AnnotationError(f"{path}: expected a JSON object, got {shown(value)}")
    return value


def shown(value: object) -> str:
    """A short picture of a JSON value for messages."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 3]}..."


def number(value: object) -> float | None:
    """A finite number, also one written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def read_decoded(path: Path) -> str:
    """The content of a text file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        AnnotationError: It cannot be read, or is neither.
    """
    content = read_bytes(path)
    encoding = _BYTE_ORDER_MARKS.get(content[:2], "utf-8-sig")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise AnnotationError(f"{path}: not text in {name} (byte {error.start}); save it as UTF-8") from error


def read_text(path: Path) -> str:
    """As `read_decoded`; every line ends with one line feed.

    Raises:
        AnnotationError: It cannot be read, or is not text.
    """
    return read_decoded(path).replace("\r\n", "\n").replace("\r", "\n")


def parse_xml(content: bytes, source: str) -> ET.Element:
    """The root element of an XML document.

    A document type is refused: it is where entities are declared, which can make a small file expand to gigabytes or
    name other files; formats for labels have none.

    Args:
        content: The document.
        source: Its file, for messages.

    Raises:
        AnnotationError: It is not XML, or has a document type.
    """
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*_declaration: object) -> None:
        raise AnnotationError(f"{source}: has a document type (<!DOCTYPE>), in which XML can hide traps; remove it")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # LookupError: an encoding that there is not
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
