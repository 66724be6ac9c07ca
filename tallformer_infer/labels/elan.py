"""ELAN annotation documents (.eaf): a tier per class, and further tiers where actions of one class overlap.

The value of an annotation is its label; the score is a child annotation on a tier `... score`, which ELAN shows below.

Source: EAF 3.0 schema and its description, Max Planck Institute for Psycholinguistics.
"""

from __future__ import annotations

import mimetypes
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.files import Problems, parse_xml, read_bytes, shown, unescape, xml_attribute, xml_text
from tallformer_infer.labels.segments import (
    GatheredVideos,
    LabelledVideo,
    Segment,
    by_class,
    lanes,
    milliseconds,
    named_after,
    only_video,
    relative_address_of,
)

_ACTION, _SCORE, _SCORE_TYPE = "action", "score", "tallformer-score"
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    # ELAN requires a date; a fixed one makes the output reproducible, and ELAN writes its own on saving.
    '<ANNOTATION_DOCUMENT AUTHOR="tallformer" DATE="1970-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    ' xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">\n'
)
_TAIL = (
    f'<LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="{_ACTION}" TIME_ALIGNABLE="true" GRAPHIC_REFERENCES="false"/>\n'
    f'<LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="{_SCORE_TYPE}" TIME_ALIGNABLE="false" GRAPHIC_REFERENCES="false"'
    ' CONSTRAINTS="Symbolic_Association"/>\n'
    '<CONSTRAINT STEREOTYPE="Symbolic_Association" DESCRIPTION="1-1 association with a parent annotation"/>\n'
    "</ANNOTATION_DOCUMENT>\n"
)


@dataclass(frozen=True)
class _Tier:
    name: str
    segments: list[Segment]


def encode_eaf(videos: Sequence[LabelledVideo], folder: Path | None) -> str:
    """Encode one video as an ELAN document.

    Args:
        videos: Exactly one video.
        folder: Folder of the file, to which the video is also named by a relative path; None if not on this machine.

    Raises:
        OutputError: There is not exactly one video.
    """
    video = only_video(videos, "eaf")
    tiers = _tiers(video)
    numbered = list(enumerate((segment for tier in tiers for segment in tier.segments), start=1))
    slots = "".join(_slots(number, segment) for number, segment in numbered)
    numbers = iter(range(1, 2 * len(numbered) + 2))
    body = "".join(_tier(tier, first, numbers) for tier, first in zip(tiers, _firsts(tiers), strict=True))
    last = next(numbers) - 1
    return "".join([_HEAD, _header(video, folder, last), f"<TIME_ORDER>\n{slots}</TIME_ORDER>\n", body, _TAIL])


def read_eaf(path: Path, problems: Problems, *, tiers: Sequence[str] = ()) -> tuple[LabelledVideo, ...]:
    """Read the time-aligned annotations; an annotation with an empty value is labelled with the name of its tier.

    Time-aligned tiers are independent tiers and child tiers of type "Included In" or "Time Subdivision". A child tier
    of type "Symbolic Association" is read only if it is in `tiers`, with the times of its parent annotations.

    Args:
        path: The file.
        problems: Receives errors, and notes on tiers that were skipped.
        tiers: Names of the tiers to read; empty for all time-aligned ones.

    Raises:
        AnnotationError: The file cannot be read, is not an ELAN document, lacks one of `tiers`, or has annotations
            without times.
    """
    root = parse_xml(read_bytes(path), str(path))
    if root.tag != "ANNOTATION_DOCUMENT":
        raise AnnotationError(f"{path}: expected <ANNOTATION_DOCUMENT> of ELAN, got <{root.tag}>")
    found = GatheredVideos(problems)
    named, origin_s = _media_of(root, path)
    about = LabelledVideo(name=named) if named else named_after(path)
    name = about.name
    found.add_video(name, has_bare_name=about.has_bare_name)
    document = _Document(root, _times_s(root, origin_s, problems), problems)
    for tier in document.chosen(tiers, path):
        label_of_tier = _class_of_tier(tier.get("TIER_ID", ""), set(document.names))
        for identity, value, ends in document.annotations(tier):
            label = unescape(value) or label_of_tier
            found.add(name, f"annotation {identity}", ends, label, score=document.scores.get(identity) or None)
    return found.videos()


class _Document:
    """Tiers and annotations of a document."""

    def __init__(self, root: ET.Element, times_s: dict[str, float], problems: Problems) -> None:
        self._tiers = [tier for tier in root.iter("TIER") if tier.get("LINGUISTIC_TYPE_REF") != _SCORE_TYPE]
        self._times_s, self._problems = times_s, problems
        self.names = [tier.get("TIER_ID", "") for tier in root.iter("TIER")]
        self.scores = _scores_of(root)
        for tier in self._tiers:
            _fill_between(tier, times_s)
        self._ends = {
            annotation.get("ANNOTATION_ID", ""): self._ends_of(annotation)
            for annotation in root.iter("ALIGNABLE_ANNOTATION")
        }

    def chosen(self, wanted: Sequence[str], path: Path) -> list[ET.Element]:
        """Tiers with these names, or all time-aligned ones."""
        names = [tier.get("TIER_ID", "") for tier in self._tiers]
        if missing := [name for name in wanted if name not in names]:
            raise AnnotationError(f"{path}: has no tier {missing[0]!r}; it has {', '.join(map(repr, names)) or 'none'}")
        if wanted:
            return [tier for tier in self._tiers if tier.get("TIER_ID", "") in wanted]
        timeless = [tier.get("TIER_ID", "") for tier in self._tiers if tier.find(".//REF_ANNOTATION") is not None]
        if timeless:
            self._problems.note(
                f"tiers without times of their own were skipped: {', '.join(timeless)}; "
                "`tallformer convert --tier NAME` reads one"
            )
        return [tier for tier in self._tiers if tier.find(".//REF_ANNOTATION") is None]

    def annotations(self, tier: ET.Element) -> Iterator[tuple[str, str, list[float | None]]]:
        """ID, value, and [start, end] in seconds of every annotation of a tier."""
        parents: set[str] = set()
        for annotation in tier.iter():
            if annotation.tag not in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION"):
                continue
            identity, value = annotation.get("ANNOTATION_ID", ""), annotation.findtext("ANNOTATION_VALUE") or ""
            ends = self._ends.get(identity, [None, None])
            if annotation.tag == "REF_ANNOTATION":
                parent = annotation.get("ANNOTATION_REF", "")
                if parent in parents:
                    self._problems.add(f"annotation {identity}", f"has the same times as another child of {parent}")
                parents.add(parent)
                ends = self._ends[identity] = self._ends.get(parent, [None, None])
            yield identity, value, ends

    def _ends_of(self, annotation: ET.Element) -> list[float | None]:
        return [self._times_s.get(annotation.get(f"TIME_SLOT_REF{end}", "")) for end in (1, 2)]


def _fill_between(tier: ET.Element, times_s: dict[str, float]) -> None:
    """Interpolate time slots without a time evenly between those of their neighbours on the tier, as ELAN does."""
    chain: list[str] = []
    for annotation in tier.iter("ALIGNABLE_ANNOTATION"):
        first, last = (annotation.get(f"TIME_SLOT_REF{end}", "") for end in (1, 2))
        if first in times_s:
            chain = [first]
        if not chain or chain[-1] != first:
            chain = []
            continue
        chain.append(last)
        if last in times_s:
            start_s, step_s = times_s[chain[0]], (times_s[last] - times_s[chain[0]]) / (len(chain) - 1)
            for place, slot in enumerate(chain[1:-1], start=1):
                times_s[slot] = round(start_s + place * step_s, 3)


def _tiers(video: LabelledVideo) -> list[_Tier]:
    """Tiers named after classes; further tiers of a class, and clashing names, get a number."""
    tiers: list[_Tier] = []
    names: set[str] = set()
    for label, segments in by_class(video.segments).items():
        for lane in lanes(segments):
            name, number = label, 1
            while {name, f"{name} {_SCORE}"} & names:
                number += 1
                name = f"{label} #{number}"
            names |= {name, f"{name} {_SCORE}"}
            tiers.append(_Tier(name, lane))
    return tiers


def _firsts(tiers: list[_Tier]) -> Iterator[int]:
    """Number of the first segment of each tier, from 1."""
    first = 1
    for tier in tiers:
        yield first
        first += len(tier.segments)


def _header(video: LabelledVideo, folder: Path | None, last: int) -> str:
    kind = mimetypes.guess_type(PurePosixPath(video.name).name)[0] or "video/mp4"
    attributes = f"MEDIA_URL={xml_attribute(video.address)} MIME_TYPE={xml_attribute(kind)}"
    relative = None if folder is None else relative_address_of(video.name, folder)
    if relative is not None:
        attributes += f" RELATIVE_MEDIA_URL={xml_attribute(relative)}"
    return (
        f'<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">\n<MEDIA_DESCRIPTOR {attributes}/>\n'
        f'<PROPERTY NAME="lastUsedAnnotationId">{last}</PROPERTY>\n</HEADER>\n'
    )


def _slots(number: int, segment: Segment) -> str:
    times_ms = (max(0, milliseconds(time_s)) for time_s in (segment.start_s, segment.end_s))
    return "".join(
        f'<TIME_SLOT TIME_SLOT_ID="ts{2 * number - 1 + end}" TIME_VALUE="{time_ms}"/>\n'
        for end, time_ms in enumerate(times_ms)
    )


def _tier(tier: _Tier, first: int, numbers: Iterator[int]) -> str:
    own, scores = [], []
    for number, segment in enumerate(tier.segments, start=first):
        identity = f"a{next(numbers)}"
        own.append(
            f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="{identity}" TIME_SLOT_REF1="ts{2 * number - 1}"'
            f' TIME_SLOT_REF2="ts{2 * number}"><ANNOTATION_VALUE>{xml_text(segment.label)}</ANNOTATION_VALUE>'
            "</ALIGNABLE_ANNOTATION></ANNOTATION>\n"
        )
        if segment.score is not None:
            scores.append(
                f'<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a{next(numbers)}" ANNOTATION_REF="{identity}">'
                f"<ANNOTATION_VALUE>{round(segment.score, 6):.6f}</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>\n"
            )
    name = xml_attribute(tier.name)
    text = f'<TIER TIER_ID={name} LINGUISTIC_TYPE_REF="{_ACTION}">\n{"".join(own)}</TIER>\n'
    if scores:
        below = f"TIER_ID={xml_attribute(f'{tier.name} {_SCORE}')} PARENT_REF={name}"
        text += f'<TIER {below} LINGUISTIC_TYPE_REF="{_SCORE_TYPE}">\n{"".join(scores)}</TIER>\n'
    return text


def _media_of(root: ET.Element, path: Path) -> tuple[str, float]:
    """Name of the video, empty if there is none, and the video time at which the document starts, in seconds."""
    header = root.find("HEADER")
    if header is not None and header.get("TIME_UNITS", "milliseconds") != "milliseconds":
        raise AnnotationError(
            f"{path}: TIME_UNITS is {header.get('TIME_UNITS')}, expected milliseconds; save it again in ELAN"
        )
    descriptors = sorted(
        root.iter("MEDIA_DESCRIPTOR"), key=lambda media: not media.get("MIME_TYPE", "").startswith("video/")
    )  # audio may come first
    media = next(iter(descriptors), None)
    address = "" if media is None else media.get("RELATIVE_MEDIA_URL") or media.get("MEDIA_URL") or ""
    origin = "0" if media is None else media.get("TIME_ORIGIN", "0")
    if not re.fullmatch(r"-?\d{1,12}", origin):
        raise AnnotationError(f"{path}: TIME_ORIGIN: expected milliseconds, got {shown(origin)}")
    name = unquote(re.split(r"[?#]", address)[0], errors="surrogateescape").rpartition("/")[2]
    return name, int(origin) / 1000


def _times_s(root: ET.Element, origin_s: float, problems: Problems) -> dict[str, float]:
    times: dict[str, float] = {}
    for slot in root.iter("TIME_SLOT"):
        identity, value = slot.get("TIME_SLOT_ID", ""), slot.get("TIME_VALUE")
        if value is None:
            continue  # interpolated in `_fill_between`
        if re.fullmatch(r"\d{1,12}", value):
            times[identity] = round(int(value) / 1000 + origin_s, 3)
        else:
            problems.add(f"time slot {identity}", f"expected milliseconds, got {shown(value)}")
    return times


def _scores_of(root: ET.Element) -> dict[str, str]:
    """Scores by the ID of their annotation."""
    return {
        annotation.get("ANNOTATION_REF", ""): annotation.findtext("ANNOTATION_VALUE") or ""
        for tier in root.iter("TIER")
        if tier.get("LINGUISTIC_TYPE_REF") == _SCORE_TYPE
        for annotation in tier.iter("REF_ANNOTATION")
    }


def _class_of_tier(name: str, names: set[str]) -> str:
    base = re.sub(r" #\d+\Z", "", name)
    return unescape(base if base in names else name)
