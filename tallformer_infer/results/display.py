"""A result as text and as HTML, for interactive sessions and notebooks."""

from __future__ import annotations

from html import escape

from tallformer_infer.structures import Action, Result

SHOWN = 10
"""Most actions in a `repr`."""
SHOWN_IN_NOTEBOOK = 50
"""Most rows of a table; those of the highest scores."""


def result_text(result: Result) -> str:
    """One line about the video, and one for each of the first actions: start, end, score, name."""
    head = (
        f"Result(video={result.video.path!r}, duration_s={round(result.duration_s, 2)}, "
        f"model={result.provenance.model_name!r}, actions={len(result.actions)})"
    )
    lines = [
        f"{action.start_s:9.2f} - {action.end_s:8.2f} s  {action.score:.3f}  {action.label}"
        for action in result.actions[:SHOWN]
    ]
    left = len(result.actions) - len(lines)
    return "\n".join([head, *lines, *([f"    ... and {left} more"] if left else [])])


def result_html(result: Result) -> str:
    """A headline, a time line and a table; no script, and nothing from outside."""
    best = sorted(result.actions, key=lambda action: -action.score)[:SHOWN_IN_NOTEBOOK]
    shown = sorted(best, key=lambda action: (action.start_s, action.end_s))
    colours = {label: _colour(number) for number, label in enumerate(dict.fromkeys(one.label for one in shown))}
    bars = "".join(_bar(action, result, colours[action.label]) for action in shown)
    rows = "".join(
        f"<tr><td>{action.start_s:.2f}</td><td>{action.end_s:.2f}</td>"
        f'<td style="text-align:left"><span style="color:{colours[action.label]}">&#9632;</span> {escape(action.label)}'
        f"</td><td>{action.score:.3f}</td></tr>"
        for action in shown
    )
    left = len(result.actions) - len(shown)
    note = f"<p>The best {len(shown)} of {len(result.actions)} actions.</p>" if left else ""
    table = (
        f"<table><tr><th>start (s)</th><th>end (s)</th><th>action</th><th>score</th></tr>{rows}</table>{note}"
        if shown
        else "<p>No action found.</p>"
    )
    use = result.provenance.intended_use
    intended = f"<br><small>{escape(use)}</small>" if use else ""
    return (
        f"<div><p><b>{escape(result.video.path)}</b>, {result.duration_s:.1f} s, model "
        f"{escape(result.provenance.model_name)}{intended}</p>"
        f'<div style="position:relative;height:1.2em;background:rgba(128,128,128,.2)">{bars}</div>{table}</div>'
    )


def _bar(action: Action, result: Result, colour: str) -> str:
    length_s = result.duration_s or 1.0
    left = 100 * (action.start_s - result.video.start_s) / length_s
    width = 100 * (action.end_s - action.start_s) / length_s
    title = escape(f"{action.label} {action.start_s:.2f}-{action.end_s:.2f} s, {action.score:.3f}", quote=True)
    return (
        f'<div title="{title}" style="position:absolute;top:0;height:100%;left:{left:.3f}%;width:{width:.3f}%;'
        f'background:{colour};opacity:.8"></div>'
    )


def _colour(number: int) -> str:
    """Distinct hues in any number: steps of the golden angle."""
    return f"hsl({round(number * 137.508) % 360} 65% 50%)"
