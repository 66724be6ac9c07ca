"""The actions of a video as a table for people."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tallformer_infer.commands.truth_table import KnownSegments, summary, truth_table
from tallformer_infer.evaluation.matching import pair_up
from tallformer_infer.results import select_actions
from tallformer_infer.structures import Result
from tallformer_infer.text import clock, counted, printable, times

_BAR_CELLS = 10
_LEAST_SHOWN = 0.05
_LEAST_PART_SHOWN = 0.2
UNTRAINED = "untrained model: its weights are random and these actions mean nothing"


def actions_table(result: Result, *, rows: int, known: KnownSegments | None = None) -> RenderableType:
    """Headline, actions and remarks of one video.

    Args:
        result: What was found.
        rows: Most actions to show, those of the highest scores, in the order of the video; see also `display_floor`.
        known: What is known to happen; shown next to what was found, where it knows the video.
    """
    parts: list[RenderableType] = [_headline(result)]
    floor = display_floor(result)
    shown = select_actions(result.actions, threshold=floor, top_k=rows) if rows else ()
    truth = None if known is None else known.of(result.video.path)
    if truth is not None:
        pairs = pair_up(result.actions, truth)
        near = [pair for pair in pairs if pair.known is not None or pair.action in shown]
        parts += [Padding(truth_table(near), (0, 0, 0, 2), expand=False), Text(f"  {summary(pairs)}", style="dim")]
    elif shown:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for name in ("start", "end", "length"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("action", overflow="fold")
        table.add_column("score", no_wrap=True)
        for action in shown:
            table.add_row(
                clock(action.start_s),
                clock(action.end_s),
                f"{action.end_s - action.start_s:.2f} s",
                Text(printable(action.label), style="bold"),
                _score(action.score),
            )
        parts.append(Padding(table, (0, 0, 0, 2), expand=False))
    if known is not None and truth is None:
        parts.append(Text(f"  {printable(str(known.path))} does not have this video", style="yellow"))
    parts += [Text(f"  {line}", style=style) for line, style in _remarks(result, len(shown), floor)]
    return Group(*parts, Text())


def display_floor(result: Result) -> float:
    """Lowest score of an action that a table shows; files always hold them all.

    A model that was never calibrated gives hundreds of actions, nearly all of which mean nothing. Where no threshold
    was asked for, a table shows what has at least a fifth of the best score, and at least 0.05.
    """
    selection = result.selection
    if selection.threshold is not None or selection.operating_point is not None or not result.actions:
        return 0.0
    best = max(action.score for action in result.actions)
    return min(max(_LEAST_SHOWN, _LEAST_PART_SHOWN * best), 1.0)


def outside_domain(result: Result, footage: str | None) -> str:
    """A warning where a model of generated videos is used on other footage; empty where there is nothing to warn of.

    Args:
        result: Of a video.
        footage: What the model was trained on, as its bundle says.
    """
    if footage != "generated" or result.video.is_generated:
        return ""
    return (
        f"{result.provenance.model_name} is a sample model for generated videos and does not work on real footage: "
        "its actions mean nothing here; `tallformer models` lists other models"
    )


def losses(result: Result) -> str:
    """What was lost of a damaged video and what else there is to know of it; empty where there is nothing."""
    lost = describe_losses(result.video.duration_s, result.missing_s, result.decode_errors)
    return "; ".join([*([lost] if lost else []), *result.notes])


def describe_losses(told_s: float | None, missing_s: float, decode_errors: int) -> str:
    """What was lost of a damaged video; empty where nothing was.

    Args:
        told_s: Length as the header says, in seconds.
        missing_s: What is missing of it at the end, in seconds.
        decode_errors: Places that are damaged or left out.
    """
    parts = []
    if missing_s and told_s is not None:
        parts.append(f"{told_s - missing_s:.1f} s of {told_s:.1f} s could be read")
    if decode_errors > len(parts):  # a missing end is itself one of them
        parts.append(f"{counted(decode_errors, 'place')} {'is' if decode_errors == 1 else 'are'} damaged or left out")
    return "; ".join(parts)


def _headline(result: Result) -> Text:
    video = result.video
    facts = [clock(result.duration_s, digits=1), f"{video.width_px}×{video.height_px} {printable(video.codec)}"]
    facts.append(f"{counted(result.frame_count, 'frame')} at {result.sample_fps:g} fps")
    if result.timings.total_s > 0:
        facts.append(f"{result.timings.total_s:.1f} s, {times(result.duration_s / result.timings.total_s)} real time")
    return Text.assemble((printable(video.path), "bold cyan"), (f"\n  {' · '.join(facts)}", "dim"))


def _score(score: float) -> Text:
    cells = round(max(0.0, min(score, 1.0)) * _BAR_CELLS)
    return Text.assemble(f"{score:.3f} ", ("━" * cells, "green"))


def _remarks(result: Result, shown: int, floor: float) -> list[tuple[str, str]]:
    remarks: list[tuple[str, str]] = []
    found = len(result.actions)
    above = sum(action.score >= floor for action in result.actions)
    if not found:
        remarks.append(("no action found", "dim"))
    elif above < found:
        which = f"{shown} of {counted(found, 'action')}, with scores from {floor:.2f} on"
        lead = which if above else f"none of {counted(found, 'action')} has a score from {floor:.2f} on"
        remarks.append(
            (
                f"{lead}; the model is not calibrated: --threshold 0 shows all, "
                "`tallformer calibrate` finds a threshold",
                "dim",
            )
        )
    elif shown < found:
        lead = f"the best {shown} of {counted(found, 'action')}" if shown else counted(found, "action")
        remarks.append((f"{lead}; --rows {found} shows all, --threshold X only the surer", "dim"))
    if lost := losses(result):
        remarks.append((lost, "yellow"))
    if not result.provenance.model_trained:
        remarks.append((UNTRAINED, "yellow"))
    return remarks
