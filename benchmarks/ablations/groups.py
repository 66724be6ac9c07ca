"""Questions of the ablations, and the answers of TALLFormer's paper. Needs no torch.

# Note [what is known of the paper's order]
`order` contains the explicit claims of the paper: end-to-end is better than a frozen encoder, a high resolution than a
low one, a powerful encoder than a small one, a long temporal support than a short one, and the TCM compensates for old
remembered features. The sizes of these effects are not repeated here, as the data differ. The rows of r contain the
paper's memory in GB (Swin-B, 224 px, 480 frames, batch 4).

Comparisons that are not in the paper are in `compared`.

Source: TALLFormer (arXiv 2204.01680), abstract, introduction and section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

BASE = "base"
"""The variant from which all others differ in one setting."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting of a table."""

    label: str
    """Label in the table."""
    variant: str
    """Name in the plan."""
    paper: str = ""
    """Value in the paper."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One ablation."""

    name: str
    """Name on the command line."""
    rows: tuple[Row, ...]
    """Settings, in the order of the table."""
    order: tuple[tuple[str, str], ...]
    """Pairs of variants (higher, lower) by the paper's mAP; see Note [what is known of the paper's order]."""
    compared: tuple[tuple[str, str], ...] = ()
    """Pairs of variants that the paper does not compare; the difference is first minus second."""


GROUPS = (
    Group(
        name="ratio",
        rows=(
            Row(label="r = 0 (frozen)", variant="r-0", paper="lower than end-to-end"),
            Row(label="r = 0.15", variant="r-0.15", paper="12 GB"),
            Row(label="r = 0.3", variant=BASE, paper="22 GB"),
            Row(label="r = 0.4", variant="r-0.4", paper="29 GB"),
            Row(label="r = 0.6", variant="r-0.6", paper="45 GB"),
            Row(label="r = 1 (no memory)", variant="r-1", paper="does not fit on the GPU"),
        ),
        order=(("r-0.15", "r-0"), (BASE, "r-0"), ("r-0.4", "r-0"), ("r-0.6", "r-0")),
    ),
    Group(
        name="tcm",
        rows=(
            Row(label="without TCM", variant="no-tcm", paper="lower"),
            Row(label="with TCM", variant=BASE, paper="higher"),
        ),
        order=((BASE, "no-tcm"),),
    ),
    Group(
        name="support",
        rows=(
            Row(label="8.5 s", variant="support-8", paper="lowest"),
            Row(label="17 s", variant="support-16"),
            Row(label="32 s", variant=BASE),
            Row(label="40.5 s", variant="support-40", paper="higher than the shortest"),
        ),
        order=((BASE, "support-8"), ("support-40", "support-8")),
    ),
    Group(
        name="equal_memory",
        rows=(
            Row(label="short-term end-to-end: 8.5 s, r = 1", variant="short-term", paper="lower"),
            Row(label="long-term frozen: 32 s, r = 0", variant="r-0", paper="lower"),
            Row(label="long-term end-to-end: 32 s, r = 0.3", variant=BASE, paper="highest"),
        ),
        order=((BASE, "short-term"), (BASE, "r-0")),
    ),
    Group(
        name="encoder",
        rows=(
            Row(label="half the channels", variant="encoder-small", paper="lower"),
            Row(label="as the demo model", variant=BASE),
            Row(label="twice the blocks in the last stage", variant="encoder-large", paper="higher"),
        ),
        order=((BASE, "encoder-small"), ("encoder-large", BASE)),
    ),
    Group(
        name="resolution",
        rows=(
            Row(label="32 px", variant="px-32", paper="lower"),
            Row(label="48 px", variant="px-48"),
            Row(label="64 px", variant=BASE, paper="higher"),
        ),
        order=((BASE, "px-32"), (BASE, "px-48")),
    ),
    Group(
        name="sampling",
        rows=(
            Row(label="`random`", variant=BASE, paper="the official code"),
            Row(label="`stratified`", variant="stratified", paper="not in the paper: our own"),
        ),
        order=(),
    ),
    Group(
        name="head",
        rows=(
            Row(label="anchors, with TCM", variant=BASE, paper="as in the paper"),
            Row(label="anchors, without TCM", variant="no-tcm"),
            Row(label="points (ActionFormer)", variant="points", paper="not in the paper"),
        ),
        order=(),
        compared=(("points", BASE), ("points", "no-tcm")),
    ),
)


def group_named(name: str) -> Group | None:
    """The group of that name; None if there is none."""
    return next((group for group in GROUPS if group.name == name), None)
