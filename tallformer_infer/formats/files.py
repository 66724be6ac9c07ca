"""Files of labels as text and as XML, read with care."""

from __future__ import annotations

import codecs
import xml.etree.ElementTree as ET
from pathlib import Path
from xml.parsers import expat

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.json_rows import read_bytes

_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


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
