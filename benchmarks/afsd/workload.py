"""Work for one video, in units (frames, pairs, windows, snippets, clips), and its expected time.

Source of sizes: ActivityNet-1.3's mean video is 116.7 s and about 30 frames per second; THUMOS14's test videos take
216.6 s on average, 16.4 windows of AFSD (212 videos). On paper: MAC counts and seconds per pair of frames of OpenCV's
TV-L1 measured beforehand, for two cores of an AMD EPYC at about 85 GFLOP/s in all; written down before anything was
measured here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

AFSD, AFSD_BF16 = "AFSD", "AFSD bf16"
SYSTEMS = ("Swin-B fp32", "Swin-B int8", "Swin-T fp32", "Swin-T int8", "Swin-B bf16", "Swin-T bf16")
"""Ours. bf16: our encoder, and all of AFSD's networks, in OpenVINO on CPUs that compute in bfloat16."""
ACTIVITYNET, THUMOS14 = "ActivityNet", "THUMOS14"

_ACTIVITYNET_S, _THUMOS14_S = 116.7, 216.6
_FRAMES = 768
_SNIPPETS = 117
ACTIVITYNET_FPS = _FRAMES / _ACTIVITYNET_S
AFSD_THUMOS14_FPS = 10.0


@dataclass(frozen=True)
class Stage:
    """One cell of the table."""

    system: str
    row: str
    task: str
    """Name of the measured task."""
    units: float
    """Units per video."""
    unit: str
    on_paper_s: float | None = None


DECODE, FLOW, RGB, FLOW_NET, LOCALIZE, NMS = (
    "decode + resize",
    "flow",
    "RGB net",
    "flow net",
    "localization",
    "NMS",
)
CLS_DECODE, CLS_RGB, CLS_FLOW_NET, CLS_FLOW = (
    "classifier: decode + resize",
    "classifier: ResNet-200",
    "classifier: BN-Inception",
    "classifier: flow",
)
MATRIX = "matrix product"
ROWS = (DECODE, FLOW, RGB, FLOW_NET, LOCALIZE, NMS, CLS_DECODE, CLS_RGB, CLS_FLOW_NET, CLS_FLOW)
_NETWORK_ROWS = (RGB, FLOW_NET, LOCALIZE, CLS_RGB, CLS_FLOW_NET)
SCOPES: dict[str, tuple[str, ...]] = {
    "networks and NMS alone": (RGB, FLOW_NET, LOCALIZE, NMS),
    "file to actions, without classifier": (DECODE, FLOW, RGB, FLOW_NET, LOCALIZE, NMS),
    "… with the classifier's networks": (*ROWS[:9],),
    "… and with the classifier's flow": ROWS,
}
"""Rows of each total."""
PAPER_SCOPE = "… with the classifier's networks"
"""The total that agrees best with the paper's 11.74 s."""
TARGETS = {
    ("… and with the classifier's flow", "Swin-B int8"): 7.4,
    ("… and with the classifier's flow", "Swin-T int8"): 20.0,
    ("… with the classifier's networks", "Swin-B int8"): 3.0,
    ("… with the classifier's networks", "Swin-T int8"): 9.0,
}
"""Target ratios on ActivityNet."""

_PAPER_TMAC_S = 16 / 0.477
"""Seconds per 10^12 MAC of AFSD's networks, on paper."""
_PAPER_CLIP_S = {"Swin-B fp32": 141 / 24, "Swin-B int8": 80 / 24, "Swin-T fp32": 47 / 24, "Swin-T int8": 27 / 24}
GMAC = {
    "afsd ActivityNet RGB": 245.0,
    "afsd ActivityNet flow": 225.6,
    "afsd THUMOS14 RGB": 81.7,
    "afsd THUMOS14 flow": 75.2,
    "ResNet-200": 26.7,
    "BN-Inception": 23.1,
    "encode Swin-B fp32": 281.3,
    "encode Swin-B int8": 281.3,
    "encode Swin-T fp32": 87.9,
    "encode Swin-T int8": 87.9,
}
"""MAC of one unit, in 10^9."""


def stages(workload: str) -> list[Stage]:
    """All stages of all systems for one video."""
    afsd = _afsd_activitynet() if workload == ACTIVITYNET else _afsd_thumos14()
    ours = (stage for name in SYSTEMS for stage in _tallformer(workload, name))
    return [*afsd, *(_in_bf16(stage) for stage in afsd), *ours]


def rival(system: str) -> str:
    """The form of AFSD that a system of ours is compared with: the same runtime for both."""
    return AFSD_BF16 if system.endswith("bf16") else AFSD


def bf16_task(task: str) -> str:
    """Name of AFSD's task with its network in bfloat16."""
    return f"{task} bf16"


def _in_bf16(stage: Stage) -> Stage:
    task = bf16_task(stage.task) if stage.row in _NETWORK_ROWS else stage.task
    return replace(stage, system=AFSD_BF16, task=task, on_paper_s=None)


def _afsd_activitynet() -> list[Stage]:
    flows = _SNIPPETS * 5
    return [
        Stage(AFSD, DECODE, "decode afsd ActivityNet", _ACTIVITYNET_S, "s of video"),
        Stage(AFSD, FLOW, "flow ActivityNet", _FRAMES - 1, "pairs", 105),
        Stage(AFSD, RGB, "afsd ActivityNet RGB", 1, "videos", 16 * 0.248 / 0.477),
        Stage(AFSD, FLOW_NET, "afsd ActivityNet flow", 1, "videos", 16 * 0.229 / 0.477),
        Stage(AFSD, LOCALIZE, "afsd ActivityNet localization", 1, "videos"),
        Stage(AFSD, NMS, "afsd ActivityNet NMS", 1, "videos"),
        Stage(AFSD, CLS_DECODE, "decode classifier", _ACTIVITYNET_S, "s of video"),
        Stage(AFSD, CLS_RGB, "ResNet-200", _SNIPPETS, "snippets", 150 * 3.12 / 5.82),
        Stage(AFSD, CLS_FLOW_NET, "BN-Inception", _SNIPPETS, "snippets", 150 * 2.7 / 5.82),
        Stage(AFSD, CLS_FLOW, "flow classifier", flows, "pairs", 500),
    ]


def _afsd_thumos14() -> list[Stage]:
    windows, pairs = 16.4, 2165
    return [
        Stage(AFSD, DECODE, "decode afsd THUMOS14", _THUMOS14_S, "s of video"),
        Stage(AFSD, FLOW, "flow THUMOS14", pairs, "pairs", pairs * 0.275 / 2),
        Stage(AFSD, RGB, "afsd THUMOS14 RGB", windows, "windows", windows * 0.0842 * _PAPER_TMAC_S),
        Stage(AFSD, FLOW_NET, "afsd THUMOS14 flow", windows, "windows", windows * 0.0777 * _PAPER_TMAC_S),
        Stage(AFSD, LOCALIZE, "afsd THUMOS14 localization", windows, "windows"),
        Stage(AFSD, NMS, "afsd THUMOS14 NMS", 1, "videos"),
    ]


def _on_paper_s(name: str, clips: int) -> float | None:
    return clips * _PAPER_CLIP_S[name] if name in _PAPER_CLIP_S else None


def _tallformer(workload: str, name: str) -> list[Stage]:
    is_whole = workload == ACTIVITYNET
    seconds = _ACTIVITYNET_S if is_whole else _THUMOS14_S
    clips, windows = (24, 1) if is_whole else (102, 9)  # at 15 frames per second, windows of 480 every 352
    backbone = name.partition(" ")[0]
    return [
        Stage(name, DECODE, f"decode tallformer {workload}", seconds, "s of video"),
        Stage(name, RGB, f"encode {name}", clips, "clips", _on_paper_s(name, clips)),
        Stage(name, LOCALIZE, f"localize {backbone} {workload}", windows, "windows"),
        Stage(name, NMS, f"suppress {workload}", 1, "videos"),
    ]
