"""Labels that are hard to write down, for tests of formats."""

from __future__ import annotations

from hypothesis import strategies as st

from tallformer_infer.labels.segments import LabelledVideo, Segment

ODD_LABELS = (
    "<img src=x onerror=alert(1)>",
    "=cmd()",
    "'=cmd()",
    "'tis",
    " =1+1",
    "-5",
    "@SUM(A1)",
    "say \"hi\", she said; it's 'odd'",
    "two\nlines",
    "blank\n\nline",
    "\r\n",
    "tab\there",
    "back\\slash, back\\new, C:\\temp",
    "00:00:01,000 --> 00:00:02,000",
    "score 0.5",
    "NOTE this",
    "42",
    " spaces ",
    "🤸 Drehung 左 é",
    "&amp; &lt;b&gt; ]]> <![CDATA[",
    "a,b;c",
    "jump #2",
    "jump score",
    "nul\x00 and \x1b[31m",
    "line\u2028separator \x85",
    "half \ud83d of a pair",
    "key=value ;comment #hash",
    "{\\an8}",
)

labels = st.one_of(st.sampled_from(ODD_LABELS), st.text(min_size=1, max_size=12))
times_ms = st.integers(min_value=0, max_value=400_000)


@st.composite
def segments(draw: st.DrawFn, *, shortest_ms: int = 0, scored: bool = True) -> Segment:
    """A segment at whole milliseconds."""
    start_ms = draw(times_ms)
    length_ms = draw(st.integers(min_value=shortest_ms, max_value=30_000))
    score = draw(st.none() | st.integers(min_value=0, max_value=1_000_000)) if scored else None
    return Segment(
        start_s=start_ms / 1000,
        end_s=(start_ms + length_ms) / 1000,
        label=draw(labels),
        score=None if score is None else score / 1_000_000,
    )


def videos(*, name: str = "clip.mp4", **changes: object) -> st.SearchStrategy[LabelledVideo]:
    """A video with any segments, many of which overlap."""
    found = st.lists(segments(**changes), max_size=8)  # type: ignore[arg-type]
    return found.map(lambda each: LabelledVideo(name=name, segments=tuple(each), duration_s=430.0, fps=25.0))


def segment(start_s: float, end_s: float, label: str = "jump", score: float | None = None) -> Segment:
    """A segment."""
    return Segment(start_s=start_s, end_s=end_s, label=label, score=score)


def video(*found: Segment, name: str = "clip.mp4", fps: float | None = 25.0) -> LabelledVideo:
    """A video of a minute."""
    return LabelledVideo(name=name, segments=found, duration_s=60.0, fps=fps)


def spans(found: LabelledVideo) -> list[tuple[float, float, str]]:
    """Start, end and label of every segment."""
    return [(each.start_s, each.end_s, each.label) for each in found.segments]
