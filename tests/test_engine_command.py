"""`tallformer engine`: engines are built ahead of time with TensorRT-RTX, listed, refused and accepted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from tallformer_infer import cli
from tallformer_infer.bundle import load_bundle
from tallformer_infer.files import user_cache_folder
from tests.engine_graphs import one_node

pytest.importorskip("tensorrt_rtx")

AHEAD = ("--library", "tensorrt_rtx", "--ahead-of-time", "sm86")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return user_cache_folder()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with engines, and beside it the cache of who built them."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(load_bundle().path, folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert cli.run(["engine", "build", str(folder / "model"), *AHEAD, "-q"]) == 0
    return folder


def test_an_int8_bundle_is_refused_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(load_bundle().path, tmp_path / "model")
    description = json.loads((tmp_path / "model/bundle.json").read_text())
    description["graphs"]["encoder"]["precision"] = "int8"
    del description["description_sha256"]
    (tmp_path / "model/bundle.json").write_text(json.dumps(description))

    assert cli.run(["engine", "build", str(tmp_path / "model"), *AHEAD]) == 1
    assert "its encoder is int8 for CPUs" in capsys.readouterr().err


@pytest.fixture
def model(built: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(built / "cache", tmp_path / "cache")
    return Path(shutil.copytree(built / "model", tmp_path / "model"))


def listing(model: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    assert cli.run(["engine", "list", str(model), "--json"]) == 0
    engines: list[dict[str, object]] = json.loads(capsys.readouterr().out)["engines"]
    return engines


def test_build_writes_an_engine_its_record_and_its_log_for_each_graph(model: Path) -> None:
    files = sorted(file.name for file in (model / "engines").iterdir())

    assert [Path(name).suffix for name in files] == [".engine", ".json", ".log"] * 2
    assert [name.partition("_")[0] for name in files] == ["encoder"] * 3 + ["localizer"] * 3
    assert all("_fp32_sm86_" in name for name in files)
    for log in (model / "engines").glob("*.log"):
        assert "Engine generation completed" in log.read_text()
    for file in (model / "engines").glob("*.json"):
        content = file.with_suffix(".engine").read_bytes()
        record = json.loads(file.read_text())
        assert record["engine_sha256"] == hashlib.sha256(content).hexdigest()
        assert record["engine_bytes"] == len(content) > 1_000_000


def test_bundle_with_engines_is_still_the_same_bundle(model: Path) -> None:
    assert load_bundle(model).sha256 == load_bundle().sha256


def test_what_is_there_is_not_built_again_unless_forced(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = {file: file.stat().st_mtime_ns for file in (model / "engines").iterdir()}

    assert cli.run(["engine", "build", str(model), *AHEAD]) == 0

    assert capsys.readouterr().err.count("is there already") == 2
    assert {file: file.stat().st_mtime_ns for file in (model / "engines").iterdir()} == first
    assert cli.run(["engine", "build", str(model), *AHEAD, "--force", "-q"]) == 0
    assert all(file.stat().st_mtime_ns > first[file] for file in first)


def test_damaged_engine_is_built_again(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = next((model / "engines").glob("encoder*.engine"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert [engine["fits"] for engine in listing(model, capsys)] == [False, True]

    assert cli.run(["engine", "build", str(model), *AHEAD]) == 0

    said = capsys.readouterr().err
    assert (said.count("built "), said.count("is there already")) == (1, 1)
    assert [engine["fits"] for engine in listing(model, capsys)] == [True, True]


def test_engines_that_came_with_a_bundle_are_refused_until_they_are_accepted(
    model: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(cache)  # as on the machine of someone else

    problems = [str(engine["problem"]) for engine in listing(model, capsys)]
    assert all(problem.startswith("not built by you on this machine") for problem in problems)
    assert cli.run(["engine", "accept", str(model)]) == 0
    assert capsys.readouterr().err.count("accepted ") == 2
    assert [engine["fits"] for engine in listing(model, capsys)] == [True, True]
    assert cli.run(["engine", "accept", str(model)]) == 0
    assert "nothing to accept: 2 engines, none built elsewhere" in capsys.readouterr().err


def test_engine_of_an_older_graph_is_listed_as_stale(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = json.loads((model / "bundle.json").read_text())
    content = (model / "encoder.onnx").read_bytes()
    newer = onnx.load_from_string(content)
    newer.producer_version = "newer"
    (model / "encoder.onnx").write_bytes(newer.SerializeToString())
    description["graphs"]["encoder"]["sha256"] = hashlib.sha256((model / "encoder.onnx").read_bytes()).hexdigest()
    del description["description_sha256"]
    (model / "bundle.json").write_text(json.dumps(description))

    encoder, localizer = listing(model, capsys)

    assert encoder["problem"] == "stale: made from another encoder graph than the bundle's"
    assert localizer["fits"]


def test_list_shows_people_what_an_engine_is_and_whether_it_fits(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["engine", "list", str(model)]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert lines[0].startswith("encoder  fp32, batch 1 to 8, for sm86, tensorrt_rtx ")
    assert lines[1].strip() == str(next((model / "engines").glob("encoder*.engine")))
    assert lines[2] == "  ✓ fits"
    assert lines[3].startswith("localizer  fp32, batch 1, for sm86, ")


def test_list_without_engines_says_where_they_would_be(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(load_bundle().path, tmp_path / "bare")

    assert cli.run(["engine", "list", str(bundle)]) == 0

    assert capsys.readouterr().out.splitlines()[0] == f"no engines in {bundle / 'engines'} or {cache / 'engines'}"


def test_graph_that_cannot_be_built_is_named_with_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = shutil.copytree(load_bundle().path, tmp_path / "odd")
    content = one_node("Relu", shape=(4, 8, 16))
    (bundle / "encoder.onnx").write_bytes(content)
    description = json.loads((bundle / "bundle.json").read_text())
    description["graphs"]["encoder"]["sha256"] = hashlib.sha256(content).hexdigest()
    del description["description_sha256"]
    (bundle / "bundle.json").write_text(json.dumps(description))

    assert cli.run(["engine", "build", str(bundle), *AHEAD]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tallformer: error: {bundle}: graph encoder: batch 1,8,8 does")
    log = Path(line.partition("(log: ")[2].removesuffix(")"))
    assert log.is_file()
    assert list((bundle / "engines").glob("*.engine")) == []


def test_json_logs_are_one_object_per_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = shutil.copytree(load_bundle().path, tmp_path / "logged")

    assert cli.run(["engine", "build", str(bundle), *AHEAD, "--json-logs"]) == 0

    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    built = [event for event in events if event["event"] == "built"]
    assert [Path(event["path"]).name.partition("_")[0] for event in built] == ["encoder", "localizer"]
    assert all(event["build_s"] > 0 for event in built)
    assert len(events) < 30  # TensorRT reports thousands of steps


def test_batches_are_checked_as_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["engine", "build", "--clips", "3,2"]) == 2

    assert "batch '3,2': expected one number, or three such as 1,8,16" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="needs the signals of POSIX")
def test_ctrl_c_while_building_leaves_nothing_behind(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(load_bundle().path, tmp_path / "stopped"))
    command = [sys.executable, "-m", "tallformer_infer", "engine", "build", str(bundle), *AHEAD, "--json-logs"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    for line in run.stderr:
        if "graph localizer" in line:  # the encoder's engine is done, the localizer's has begun
            break
    time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, rest = run.communicate(timeout=30)

    assert run.returncode == 130
    assert time.monotonic() - started < 5
    assert '"interrupted"' in rest
    names = {(file.name.partition("_")[0], file.suffix) for file in (bundle / "engines").iterdir()}
    assert names == {("encoder", ".engine"), ("encoder", ".json"), ("encoder", ".log")}
