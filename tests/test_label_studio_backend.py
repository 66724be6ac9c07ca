"""The machine learning backend for Label Studio: what it answers, which videos it finds, and retraining."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from starlette.testclient import TestClient

from tallformer_infer import cli
from tallformer_infer.bundle import load_bundle
from tallformer_infer.config import to_json
from tallformer_infer.errors import AnnotationError, ConfigError
from tallformer_infer.labels.files import Problems
from tallformer_infer.labels.label_studio import label_studio_prediction, timeline_of_config, videos_of_tasks
from tallformer_infer.labels.segments import Segment
from tallformer_infer.serve import LabelStudioOptions, ServerOptions, create_app
from tallformer_infer.serve.driver import DriverOptions
from tests.small_bundle import write_bundle
from tests.videos import noise_pictures, write_video

CONFIG = """<View>
  <Header value="What happens?"/>
  <TimelineLabels name="acts" toName="film">
    <Label value="WAVE" background="#f00"/>
    <Label value="hop" aliases="jump, leap"/>
    <Label value="rest"/>
  </TimelineLabels>
  <Video name="film" value="$clip" frameRate="$rate" timelineHeight="120"/>
</View>"""
"""`wave` and `jump` of the model have labels, `sit, then stand` has none."""
RATE = 25


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "small")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The media folder of a Label Studio, with a video that was uploaded."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "upload" / "7").mkdir(parents=True)
    write_video(folder / "upload/7/1a2b3c4d-a b.mp4", noise_pictures(40, height_px=48, width_px=64), fps=2)
    shutil.copy(folder / "upload/7/1a2b3c4d-a b.mp4", folder / "local.mp4")
    return folder


@contextlib.contextmanager
def serving(
    bundle: Path, data: Path, *, root: Path | None = None, hosts: tuple[str, ...] = (), **options: Any
) -> Iterator[TestClient]:
    driver = DriverOptions(
        data=data, device="cpu", workers=1, threads=1, store_bytes=1 << 30, allowed_hosts=hosts, allow_private=True
    )
    studio = LabelStudioOptions(**{"label_map": {}, "wait_s": 300.0, **options})
    wanted = ServerOptions(driver=driver, root=root, label_studio=studio, grace_s=0.0)
    with TestClient(create_app(load_bundle(str(bundle)), wanted), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def server(bundle: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving(bundle, tmp_path_factory.mktemp("data"), root=root) as client:
        yield client


def setup(client: TestClient, config: str = CONFIG, **more: Any) -> Any:
    """What Label Studio 1.23 sends when a backend is connected."""
    return client.post(
        "/setup",
        json={
            "project": "7.1764000000",
            "schema": config,
            "hostname": "http://localhost:8080",
            "access_token": "abc",
            "extra_params": None,
            **more,
        },
    )


def predict(client: TestClient, *addresses: str, config: str = CONFIG) -> list[dict[str, Any]]:
    """What Label Studio 1.23 sends for tasks without predictions."""
    tasks = [
        {"id": number, "data": {"clip": address, "rate": RATE}, "project": 7}
        for number, address in enumerate(addresses, start=1)
    ]
    params = {"login": None, "password": None, "context": None}
    request = {"tasks": tasks, "project": "7.1764000000", "label_config": config, "params": params}
    answer = client.post("/predict", json=request)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def labels_of(prediction: dict[str, Any]) -> list[tuple[str, int, int]]:
    return [
        (region["value"]["timelinelabels"][0], *(region["value"]["ranges"][0][end] for end in ("start", "end")))
        for region in prediction["result"]
    ]


EXPECTED = [("WAVE", 26, 75), ("hop", 251, 375)]
"""1 to 3 s and 10 to 15 s at 25 frames per second, counted from 1, both ends included."""


def test_health_and_setup_answer_as_the_protocol_has_it(server: TestClient, bundle: Path) -> None:
    assert server.get("/health").json()["status"] == "UP"
    assert setup(server).json() == {"model_version": f"small {load_bundle(bundle).sha256[:8]}"}


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/7/1a2b3c4d-a%20b.mp4",
        "http://localhost:8080/data/upload/7/1a2b3c4d-a%20b.mp4?x=1",
        "/data/local-files/?d=upload%2F7%2F1a2b3c4d-a%20b.mp4",
        "local.mp4",
    ],
)
def test_predictions_have_the_labels_and_the_frames_of_the_interface(server: TestClient, address: str) -> None:
    (prediction,) = predict(server, address)

    assert labels_of(prediction) == EXPECTED
    assert [(region["from_name"], region["to_name"], region["type"]) for region in prediction["result"]] == [
        ("acts", "film", "timelinelabels")
    ] * 2
    assert prediction["score"] == pytest.approx(0.65, abs=1e-3)
    assert prediction["model_version"].startswith("small ")


def test_the_sdk_accepts_predictions(server: TestClient) -> None:
    sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="needs label-studio-sdk")
    interface = sdk.LabelInterface(CONFIG)
    (prediction,) = predict(server, "local.mp4")

    assert interface.validate_prediction(prediction, return_errors=True) == []
    prediction["result"][0]["value"]["timelinelabels"] = ["wave"]
    assert interface.validate_prediction(prediction, return_errors=True) != []


def test_predictions_are_read_back_by_our_reader(server: TestClient) -> None:
    (prediction,) = predict(server, "local.mp4")
    task = {"id": 1, "data": {"clip": "local.mp4", "rate": RATE}, "predictions": [prediction]}

    (video,) = videos_of_tasks([task], Problems("tasks"), fps=RATE)

    assert [(each.label, each.start_s, each.end_s) for each in video.segments] == [("WAVE", 1, 3), ("hop", 10, 15)]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("../secret.mp4", "no such file below the root"),
        ("/data/local-files/?d=/etc/passwd", "no such file below the root"),
        ("/data/upload/7/missing.mp4", "host 'localhost' is not allowed here"),
        ("http://elsewhere.example/a.mp4", "host 'elsewhere.example' is not allowed here"),
        ("s3://bucket/a.mp4", "s3:// is not fetched here"),
        ("", "its data has no 'clip'"),
    ],
)
def test_a_task_without_a_video_that_may_be_read_does_not_spoil_the_others(
    server: TestClient, address: str, message: str
) -> None:
    setup(server)

    bad, good = predict(server, address, "local.mp4")

    assert message in bad["error"]
    assert "result" not in bad  # Label Studio leaves such tasks out
    assert labels_of(good) == EXPECTED


def test_a_video_that_takes_too_long_is_ready_when_it_is_asked_for_again(
    bundle: Path, root: Path, tmp_path: Path
) -> None:
    with serving(bundle, tmp_path, root=root, wait_s=0.0) as client:
        (early,) = predict(client, "local.mp4")
        until_s = time.monotonic() + 60
        while "error" in (late := predict(client, "local.mp4")[0]) and time.monotonic() < until_s:
            time.sleep(0.1)

    assert "still being processed" in early["error"]
    assert labels_of(late) == EXPECTED


def test_labels_that_no_class_has_are_refused_at_setup(server: TestClient) -> None:
    answer = setup(server, CONFIG.replace("WAVE", "greet").replace("jump, leap", "bounce"))

    assert answer.status_code == 422
    assert "no label of the interface (greet, hop, rest) is a class of the model small" in answer.text


def test_labels_are_mapped_by_option(bundle: Path, root: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, root=root, label_map={"rest": "sit, then stand"}) as client:
        (prediction,) = predict(client, "local.mp4")

    assert labels_of(prediction) == [("WAVE", 26, 75), ("rest", 101, 150), ("hop", 251, 375)]


def test_extra_parameters_of_the_connection_choose_actions(server: TestClient) -> None:
    setup(server, extra_params={"threshold": 0.5})
    (few,) = predict(server, "local.mp4")
    refused = setup(server, extra_params={"threshold": 7})
    setup(server)

    assert labels_of(few) == EXPECTED[:1]
    assert refused.status_code == 422
    assert "extra parameters: threshold=7" in refused.text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", "not XML"),
        ("<View/>", "expected one <TimelineLabels> on a <Video>, got 0"),
        ("<!DOCTYPE x><View/>", "document type"),
        ('<View><TimelineLabels name="a" toName="v"/><Video name="v" value="$v"/></View>', "no <Label>"),
    ],
)
def test_interfaces_without_a_timeline_are_refused(config: str, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        timeline_of_config(config)


def test_the_editor_counts_24_frames_per_second_where_nothing_is_stated() -> None:
    timeline = timeline_of_config(CONFIG.replace(' frameRate="$rate"', ""))

    prediction = label_studio_prediction(
        [Segment(start_s=1, end_s=2, label="hop")], timeline, fps=timeline.fps_of({}), model_version="x"
    )

    assert prediction["result"][0]["value"]["ranges"] == [{"start": 25, "end": 48}]
    assert timeline_of_config(CONFIG).fps_of({"rate": "30"}) == 30
    assert timeline_of_config(CONFIG).fps_of({"rate": "fast"}) == 24


class _Studio(http.server.BaseHTTPRequestHandler):
    """A Label Studio that gives uploads to those who know the token."""

    content = b""
    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization"))
        self.send_response(200 if self.headers.get("Authorization") == "Token abc" else 401)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def studio(root: Path) -> Iterator[str]:
    _Studio.content = (root / "local.mp4").read_bytes()
    _Studio.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Studio) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def test_uploads_are_fetched_from_label_studio_with_its_token(bundle: Path, tmp_path: Path, studio: str) -> None:
    with serving(bundle, tmp_path, hosts=("127.0.0.1",)) as client:
        setup(client, hostname=studio)
        (prediction,) = predict(client, "/data/upload/7/1a2b3c4d-a.mp4")
        (other,) = predict(client, f"{studio.replace('127.0.0.1', 'localhost')}/x.mp4")

    assert labels_of(prediction) == EXPECTED
    assert _Studio.asked == ["Token abc"]
    assert "host 'localhost' is not allowed" in other["error"]


def test_the_token_is_sent_to_no_other_address(bundle: Path, tmp_path: Path, studio: str) -> None:
    with serving(bundle, tmp_path, hosts=("127.0.0.1",)) as client:
        setup(client, hostname="http://127.0.0.1:1")
        (prediction,) = predict(client, f"{studio}/data/upload/7/a.mp4")

    assert _Studio.asked == [None]
    assert "answered 401" in prediction["error"]


def test_retraining_is_refused_where_it_cannot_work(bundle: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="--retrain-after: training starts only from models with I3D in fp32"),
        serving(bundle, tmp_path, retrain_after=1),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--retrain-after", "3"], "go with --label-studio"),
        (["--label-studio", "--label-map", "orbit"], "expected LABEL=CLASS"),
        (["--label-studio", "--label-map", "a=b"], "the model knows no class 'b'"),
        (["--label-studio", "--retrain-config", "none.json"], "no such file"),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["serve", "--data", str(tmp_path), "--model", "demo", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def trainable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle with I3D, whose classes are a to g."""
    pytest.importorskip("torch")
    from tallformer_export.exporting import ExportOptions, export_checkpoint  # noqa: PLC0415
    from tallformer_training.checkpoint import save_checkpoint  # noqa: PLC0415
    from tests.i3d_recipe import I3D  # noqa: PLC0415
    from tests.small_detector import build  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("trainable")
    recipe = replace(I3D, classes=("hop", "greet"))
    state = build(recipe).eval().state_dict()
    save_checkpoint(folder / "model.safetensors", state, recipe, provenance={"trained": True})
    export_checkpoint(folder / "model.safetensors", folder / "bundle", options=ExportOptions(), on_step=lambda _: None)
    return folder / "bundle"


def annotated(task: int, *, action: str = "ANNOTATION_CREATED", **changes: Any) -> dict[str, Any]:
    """An event as Label Studio 1.23 sends it to webhooks."""
    region = {
        "id": "r1",
        "from_name": "acts",
        "to_name": "film",
        "type": "timelinelabels",
        "origin": "manual",
        "value": {"ranges": [{"start": 26, "end": 75}], "timelinelabels": ["WAVE" if task % 2 else "hop"]},
    }
    annotation = {
        "id": 100 + task,
        "task": task,
        "project": 7,
        "was_cancelled": False,
        "ground_truth": False,
        "updated_at": "2026-11-28T18:00:00Z",
        "result": [region],
        **changes,
    }
    return {
        "action": action,
        "annotation": annotation,
        "task": {"id": task, "data": {"clip": "local.mp4", "rate": RATE}},
        "project": {"id": 7, "title": "films", "label_config": CONFIG},
    }


def hear(client: TestClient, event: dict[str, Any]) -> str:
    answer = client.post("/webhook", json=event)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["result"])


def trained(client: TestClient) -> dict[str, Any]:
    """What became of the training."""
    until_s = time.monotonic() + 1200
    while (state := client.get("/health").json()["training"])["state"] == "running" and time.monotonic() < until_s:
        time.sleep(0.2)
    return dict(state)


def settings(folder: Path) -> Path:
    from tests.training_set import CONFIG as TRAINING  # noqa: PLC0415

    path = folder / "training.json"
    path.write_text(json.dumps(to_json(replace(TRAINING, epochs=1, ratio=0.0))))
    return path


@pytest.mark.slow
def test_corrected_tasks_make_a_new_model(trainable: Path, root: Path, tmp_path: Path) -> None:
    options = {"root": root, "retrain_after": 2, "training_config": settings(tmp_path)}
    with serving(trainable, tmp_path / "data", **options) as client:
        before = setup(client).json()["model_version"]
        assert hear(client, annotated(1)) == "1 of 2 corrected tasks"
        assert hear(client, annotated(1, action="ANNOTATION_UPDATED")) == "1 of 2 corrected tasks"
        assert hear(client, annotated(3, was_cancelled=True)) == "1 of 2 corrected tasks"
        assert hear(client, annotated(2)) == "training started with 2 tasks"
        assert hear(client, annotated(4)) in ("a training is in progress", "1 of 2 corrected tasks")
        assert trained(client)["state"] == "done", (tmp_path / "data/label-studio/7/models/1/log.txt").read_text()
        after = setup(client).json()["model_version"]
        (prediction,) = predict(client, "local.mp4")

    assert after != before
    assert prediction["model_version"] == after
    made = load_bundle(tmp_path / "data/label-studio/7/models/1/bundle")
    assert made.recipe.classes == ("WAVE", "hop")
    with serving(trainable, tmp_path / "data", **options) as client:  # after a restart
        assert setup(client).json()["model_version"] == after


def test_a_training_that_fails_leaves_the_model(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    (tmp_path / "bad.json").write_text('{"epochs": "many"}')
    options = {"retrain_after": 1, "training_config": tmp_path / "bad.json", "label_map": {"WAVE": "juggling balls"}}
    with serving(Path("kinetics400-fast"), tmp_path / "data", root=root, **options) as client:
        before = setup(client).json()["model_version"]
        hear(client, annotated(1))
        state = trained(client)

        assert state["state"] == "failed"
        assert "`tallformer train` ended with 1: error: " in state["error"]
        assert setup(client).json()["model_version"] == before
        assert hear(client, {**annotated(1), "action": "PROJECT_UPDATED"}) == "PROJECT_UPDATED: ignored"
        for broken in ({"task": None}, {"task": {"id": "../x", "data": {}}}, {"annotation": {"id": "../x"}}):
            assert client.post("/webhook", json={**annotated(1), **broken}).status_code == 422
        deleted = {**annotated(1), "action": "ANNOTATIONS_DELETED", "annotations": [{"id": 101}]}
        assert hear(client, deleted) == "0 of 1 corrected tasks"
