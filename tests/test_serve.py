"""The HTTP API: jobs, results, and what is refused. The workers are real."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from tallformer_infer import Detector
from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.bundle.writing import write_calibration
from tallformer_infer.config import NAMED_CLASSES, Cut
from tallformer_infer.config.class_groups import CLASS_GROUPS
from tallformer_infer.labels import FORMATS, READABLE, Problems, read_annotations, read_labels
from tallformer_infer.report import RESULT_FORMATS
from tallformer_infer.serve import JobOptions, JobStore, ServerOptions, create_app
from tallformer_infer.serve.driver import DriverOptions
from tests.browser import Browser
from tests.calibration_samples import calibration
from tests.pages import blocks, run
from tests.small_bundle import write_bundle

VIDEO = Path("docs/example/example.mp4")
TOKEN = "a-token-of-length"


@pytest.fixture(scope="module")
def video(root: Path) -> bytes:
    return (root / VIDEO).read_bytes()


@contextlib.contextmanager
def serving(folder: Path, *, bundle: Bundle | None = None, **changes: Any) -> Iterator[TestClient]:
    driver = {"device": "cpu", "workers": 1, "threads": 1, "store_bytes": 1 << 30}
    own = {key: changes.pop(key) for key in tuple(changes) if key in ("allowed_hosts", "allow_private", "most_bytes")}
    options = ServerOptions(driver=DriverOptions(data=folder, **{**driver, **own}), grace_s=0.0, **changes)
    with TestClient(create_app(bundle or load_bundle("demo"), options), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[TestClient]:
    with serving(tmp_path_factory.mktemp("server"), root=root / "docs" / "example") as client:
        yield client


def wait_for(client: TestClient | httpx.Client, job_id: str, *states: str, within_s: float = 120.0) -> dict[str, Any]:
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        if job["state"] in states:
            return job
        time.sleep(0.05)
    raise AssertionError(f"still {job['state']}: {job}")


def upload(client: TestClient | httpx.Client, content: bytes, **query: Any) -> dict[str, Any]:
    answer = client.post("/v1/uploads", params=query, content=content)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


@pytest.fixture(scope="module")
def done(server: TestClient, video: bytes) -> dict[str, Any]:
    return wait_for(server, upload(server, video, name="match.mp4", threshold=0.5)["id"], "done", "failed")


def test_a_job_gives_what_detect_gives(server: TestClient, done: dict[str, Any], root: Path) -> None:
    expected = Detector.load("demo", device="cpu").detect(root / VIDEO, threshold=0.5)

    document = server.get(f"{done['url']}/result").json()

    found = [(each["label"], *each["segment"]) for each in document["videos"][0]["actions"]]
    assert len(found) > 3
    assert [label for label, _, _ in found] == [action.label for action in expected.actions]
    for (_, start_s, end_s), action in zip(found, expected.actions, strict=True):
        # The archive keeps features in float16.
        assert (start_s, end_s) == pytest.approx((action.start_s, action.end_s), abs=0.01)


@pytest.mark.parametrize("form", RESULT_FORMATS)
def test_results_come_in_every_format_and_name_no_path(
    server: TestClient, done: dict[str, Any], form: str, tmp_path: Path
) -> None:
    if form in ("otio", "edl", "fcp7"):
        pytest.importorskip("opentimelineio")

    answer = server.get(f"{done['url']}/result", params={"format": form})

    assert answer.status_code == 200, answer.text
    assert b"orbit" in answer.content
    assert str(Path.cwd()).encode() not in answer.content
    if form in READABLE:
        file = tmp_path / f"match{FORMATS[form].suffix}"
        file.write_bytes(answer.content)
        (found,) = read_labels(file, form=form)
        assert found.bare_name == "match"


def test_an_unknown_format_is_refused_with_a_list(server: TestClient, done: dict[str, Any]) -> None:
    answer = server.get(f"{done['url']}/result", params={"format": "docx"})

    assert answer.status_code == 422
    assert "there are json, html, activitynet, csv" in answer.text
    listed = server.get("/openapi.json").json()["paths"]["/v1/jobs/{job_id}/result"]["get"]["parameters"][1]["schema"]
    assert listed["enum"] == list(RESULT_FORMATS)


def calibrated(path: Path) -> Bundle:
    """The small bundle with scores of its own, whose default point finds only `wave`, and whose other finds `jump`."""
    points = calibration({"wave": 0.5, "jump": 0.5, "sit, then stand": 0.5})
    points = dataclasses.replace(
        points,
        points=dict.fromkeys(("max-f1", NAMED_CLASSES), points.points["max-f1"]),
        classes={
            label: dataclasses.replace(
                found,
                cuts={"max-f1": found.cuts["max-f1"], NAMED_CLASSES: Cut(threshold=0.3, precision=0.5, recall=1.0)},
            )
            for label, found in points.classes.items()
        },
    )
    return write_calibration(load_bundle(write_bundle(path / "small")), points, out=path / "calibrated")


def test_a_job_of_named_classes_gets_the_point_for_that(tmp_path: Path, video: bytes) -> None:
    with serving(tmp_path / "data", bundle=calibrated(tmp_path)) as client:
        every = wait_for(client, upload(client, video)["id"], "done", "failed")
        named = wait_for(client, upload(client, video, classes=["wave", "jump"])["id"], "done", "failed")
        all_of, some_of = (client.get(f"{job['url']}/result").json() for job in (every, named))

    assert (all_of["settings"]["operating_point"], some_of["settings"]["operating_point"]) == ("max-f1", NAMED_CLASSES)
    assert {action["label"] for action in all_of["videos"][0]["actions"]} == {"wave"}
    assert {action["label"] for action in some_of["videos"][0]["actions"]} == {"wave", "jump"}


def test_a_result_of_another_model_is_refused_and_there_again_with_its_own(tmp_path: Path, video: bytes) -> None:
    with serving(tmp_path / "data") as client:
        url = wait_for(client, upload(client, video)["id"], "done", "failed")["url"]
        result = client.get(f"{url}/result").json()

    with serving(tmp_path / "data", bundle=calibrated(tmp_path)) as client:
        for place in ("result", "review", "truth"):
            answer = client.get(f"{url}/{place}")
            assert answer.status_code == 409
            assert "its result is of another model (demo, " in answer.text

    with serving(tmp_path / "data") as client:
        assert client.get(f"{url}/result").json() == result


def test_a_group_of_classes_can_be_named(tmp_path: Path, video: bytes) -> None:
    with serving(tmp_path, bundle=load_bundle("kinetics400")) as client:
        known = client.get("/v1/models").json()[0]["classes"]
        job = client.post("/v1/uploads", params={"classes": ["@sports"]}, content=video)
        unknown = client.post("/v1/uploads", params={"classes": ["@nonsense"]}, content=video)
        options = JobStore(tmp_path / "jobs.db").get(job.json()["id"])

    assert options is not None
    assert set(options.options.classes or ()) == set(CLASS_GROUPS["sports"]) & set(known)
    assert unknown.status_code == 422
    assert "no such group" in unknown.text


def test_other_options_on_the_same_file_cost_no_second_run(
    server: TestClient, done: dict[str, Any], video: bytes
) -> None:
    job = wait_for(server, upload(server, video, classes=["orbit"], top_k=1)["id"], "done")

    actions = server.get(f"{job['url']}/result").json()["videos"][0]["actions"]
    assert [action["label"] for action in actions] == ["orbit"]
    times = [server.get(f"{each['url']}/result").json()["videos"][0]["timings_s"] for each in (done, job)]
    assert times[0] == times[1]  # to the microsecond: those of the one run


def test_events_end_with_the_job(server: TestClient, done: dict[str, Any]) -> None:
    lines = [line for line in server.get(f"{done['url']}/events").text.splitlines() if line]

    assert json.loads(lines[-1].removeprefix("data: "))["state"] == "done"


def test_the_video_comes_in_ranges(server: TestClient, done: dict[str, Any], video: bytes) -> None:
    answer = server.get(f"{done['url']}/video", headers={"Range": "bytes=10-19"})

    assert (answer.status_code, answer.content) == (206, video[10:20])


def test_a_file_below_the_root_can_be_named(server: TestClient) -> None:
    job = server.post("/v1/jobs", json={"path": "example.mp4", "threshold": 0.9}).json()

    assert wait_for(server, job["id"], "done", "failed")["state"] == "done"


@pytest.mark.parametrize(
    "path", ["../../README.md", "/etc/passwd", "..%2f..%2fREADME.md", "missing.mp4", "", ".", "\0", "a/../../x"]
)
def test_files_elsewhere_cannot_be_named(server: TestClient, root: Path, path: str) -> None:
    answer = server.post("/v1/jobs", json={"path": path})

    assert answer.status_code == 422
    assert str(root) not in answer.text


def test_a_link_does_not_lead_out_of_the_root(tmp_path: Path, root: Path) -> None:
    inside = tmp_path / "root"
    inside.mkdir()
    (inside / "link.mp4").symlink_to(root / VIDEO)

    with serving(tmp_path / "data", root=inside) as client:
        answer = client.post("/v1/jobs", json={"path": "link.mp4"})

    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"threshold": 2}, "less than or equal"),
        ({"classes": ["orbits"]}, "did you mean 'orbit'"),
        ({"operating_point": "max-f2"}, "did you mean 'max-f1'"),
        ({"top_k": 0}, "greater than or equal"),
    ],
)
def test_options_that_do_not_fit_are_refused(server: TestClient, query: dict[str, Any], message: str) -> None:
    answer = server.post("/v1/uploads", params=query, content=b"x")

    assert answer.status_code == 422
    assert message in answer.text


def test_what_is_no_video_fails_with_one_line_that_names_no_path(server: TestClient) -> None:
    job = wait_for(server, upload(server, b"not a video", name="notes.mp4")["id"], "done", "failed")

    assert job["state"] == "failed"
    assert job["error"].startswith("notes.mp4: ")
    assert "/" not in job["error"]


def test_unknown_jobs_are_not_found(server: TestClient) -> None:
    assert server.get("/v1/jobs/none").status_code == 404
    assert server.get("/v1/jobs/none/result").status_code == 404
    assert server.delete("/v1/jobs/none").status_code == 404


def test_a_deleted_job_leaves_nothing(tmp_path: Path, video: bytes) -> None:
    with serving(tmp_path) as client:
        job = wait_for(client, upload(client, video)["id"], "done")

        assert client.delete(job["url"]).status_code == 204

        assert client.get(job["url"]).status_code == 404
        assert list((tmp_path / "uploads").glob("*")) == []


def test_a_running_job_can_be_cancelled(tmp_path: Path, video: bytes) -> None:
    with serving(tmp_path) as client:
        first, second = upload(client, video), upload(client, video + b"\0")

        answer = client.post(f"{first['url']}/cancel")

        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        assert wait_for(client, second["id"], "done", "failed")["state"] == "done"
        assert client.get(first["url"]).json()["state"] == "cancelled"
        assert client.post(f"{first['url']}/cancel").status_code == 409


def test_a_full_queue_says_when_to_come_again(tmp_path: Path, video: bytes) -> None:
    with serving(tmp_path, most_waiting=1) as client:
        upload(client, video)
        answer = client.post("/v1/uploads", content=video)

    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("is_chunked", [False, True])
def test_too_large_an_upload_is_refused_and_removed(tmp_path: Path, video: bytes, is_chunked: bool) -> None:
    with serving(tmp_path, most_bytes=1000) as client:
        answer = client.post("/v1/uploads", content=iter([video]) if is_chunked else video)

        assert answer.status_code == 413
        assert list((tmp_path / "uploads").glob("*")) == []


def test_the_same_key_gives_the_same_job(server: TestClient, video: bytes) -> None:
    headers = {"Idempotency-Key": "once"}

    first = server.post("/v1/uploads", content=video, headers=headers).json()
    second = server.post("/v1/uploads", content=video, headers=headers).json()

    assert first["id"] == second["id"]


def test_nothing_is_told_without_the_token(tmp_path: Path) -> None:
    with serving(tmp_path, token=TOKEN) as client:
        for path in ("/", "/assets/serve.js", "/openapi.json", "/v1/jobs", "/metrics"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
            assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
            assert client.get(path, auth=("anybody", TOKEN)).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_pages_of_other_sites_change_nothing(server: TestClient, video: bytes) -> None:
    answer = server.post("/v1/uploads", content=video, headers={"Origin": "https://elsewhere.example"})

    assert answer.status_code == 403


def test_a_foreign_name_for_this_machine_is_refused(server: TestClient) -> None:
    assert server.get("/v1/jobs", headers={"Host": "rebound.example"}).status_code == 403
    assert server.get("/v1/jobs", headers={"Host": "127.0.0.1:8080"}).status_code == 200


class _Site(http.server.BaseHTTPRequestHandler):
    """A site that gives a video, leads elsewhere, or gives too much."""

    content = b""

    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(video: bytes) -> Iterator[str]:
    _Site.content = video
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def test_a_video_is_fetched_from_an_allowed_host(tmp_path: Path, site: str) -> None:
    with serving(tmp_path, allowed_hosts=("127.0.0.1",), allow_private=True) as client:
        job = client.post("/v1/jobs", json={"url": f"{site}/match.mp4"}).json()

        assert wait_for(client, job["id"], "done", "failed")["state"] == "done"


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("/match.mp4", {"allowed_hosts": ("127.0.0.1",)}, "not public"),
        ("/away", {"allowed_hosts": ("127.0.0.1",), "allow_private": True}, "not allowed"),
        ("/match.mp4", {"allowed_hosts": ("127.0.0.1",), "allow_private": True, "most_bytes": 1000}, "larger"),
    ],
)
def test_addresses_that_lead_astray_fail(
    tmp_path: Path, site: str, path: str, settings: dict[str, Any], message: str
) -> None:
    with serving(tmp_path, **settings) as client:
        job = client.post("/v1/jobs", json={"url": site + path}).json()

        assert message in wait_for(client, job["id"], "failed")["error"]


@pytest.mark.parametrize(
    "url", ["http://elsewhere.example/x.mp4", "file:///etc/passwd", "http://user@allowed.example/x", "http://[", "x"]
)
def test_other_addresses_are_refused_at_once(tmp_path: Path, url: str) -> None:
    with serving(tmp_path, allowed_hosts=("allowed.example",)) as client:
        assert client.post("/v1/jobs", json={"url": url}).status_code == 422


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], httpx.Client]]]:
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> tuple[subprocess.Popen[bytes], httpx.Client]:
        port = _free_port()
        command = [sys.executable, "-m", "tallformer_infer", "serve", "--data", str(tmp_path / "data")]
        process = subprocess.Popen(
            [*command, "--port", str(port), "--model", "demo", "--device", "cpu", "--workers", "1", "--quiet"]
        )
        started.append(process)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s:
            with contextlib.suppress(httpx.HTTPError):
                if client.get("/readyz").status_code == 200:
                    return process, client
            time.sleep(0.1)
        raise AssertionError("the server did not start")

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_jobs_survive_a_kill(
    start: Callable[[], tuple[subprocess.Popen[bytes], httpx.Client]], video: bytes, tmp_path: Path
) -> None:
    process, client = start()
    jobs = [upload(client, video + bytes([number]), name=f"{number}.mp4") for number in range(3)]
    client.close()
    (tmp_path / "data" / "uploads" / "half").mkdir()  # an upload that was cut off
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    _, client = start()

    with contextlib.closing(client):
        assert [wait_for(client, job["id"], "done", "failed")["state"] for job in jobs] == ["done"] * 3
        assert len(client.get("/v1/jobs").json()) == 3
    assert not (tmp_path / "data" / "uploads" / "half").exists()


def test_an_aborted_upload_leaves_nothing(
    start: Callable[[], tuple[subprocess.Popen[bytes], httpx.Client]], tmp_path: Path
) -> None:
    _, client = start()
    with (
        contextlib.closing(client),
        socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection,
    ):
        connection.sendall(
            b"POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 99
        )
        time.sleep(0.3)
        connection.close()
        until_s = time.monotonic() + 20
        while list((tmp_path / "data" / "uploads").glob("*")) and time.monotonic() < until_s:
            time.sleep(0.05)

        assert list((tmp_path / "data" / "uploads").glob("*")) == []
        assert client.get("/v1/jobs").json() == []


def test_a_terminated_server_ends_in_peace(
    start: Callable[[], tuple[subprocess.Popen[bytes], httpx.Client]],
) -> None:
    process, client = start()
    client.close()

    process.send_signal(signal.SIGTERM)

    assert process.wait(30) in (0, -signal.SIGTERM, 143)


def test_other_machines_need_a_token() -> None:
    command = [sys.executable, "-m", "tallformer_infer", "serve", "--host", "0.0.0.0"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "--token" in done.stderr


def test_a_job_that_was_cancelled_stays_so(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path / "jobs.db")
    jobs.add(job_id="one", name="a.mp4", source=tmp_path / "a.mp4", options=JobOptions(classes=("orbit",)))

    assert jobs.move("one", "cancelled")
    jobs.finish("one", duration_s=1.0)

    job = jobs.get("one")
    assert job is not None
    assert (job.state, job.options.classes) == ("cancelled", ("orbit",))
    jobs.close()


def test_the_page_takes_a_file_and_links_its_result(
    start: Callable[[], tuple[subprocess.Popen[bytes], httpx.Client]], root: Path, browser: Browser
) -> None:
    _, client = start()
    browser.driver.get(str(client.base_url))
    browser.wait("return document.getElementById('model').textContent.includes('demo')")

    browser.driver.find_element("id", "files").send_keys(str(root / VIDEO))

    browser.wait("return document.querySelector('#jobs .state')?.textContent === 'done'")
    assert browser.text("#jobs .name") == "example.mp4"
    browser.driver.find_element("link text", "Open").click()
    browser.wait("return document.title.includes('example.mp4')")
    client.close()


# reviews


def decision(found: int | None, start_s: float, end_s: float, label: str, verdict: str) -> dict[str, Any]:
    return {"found": found, "segment": [start_s, end_s], "label": label, "score": None, "verdict": verdict}


@pytest.fixture
def reviewed(server: TestClient, video: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The address of a job's review, and a review of it that the server takes."""
    job = wait_for(server, upload(server, video, name="match.mp4", threshold=0.5)["id"], "done")
    url = f"{job['url']}/review"
    decided = [
        decision(0, 1.0, 2.5, "orbit", "accepted"),
        decision(1, 3.0, 4.0, "orbit", "rejected"),
        decision(None, 0.5, 0.75, "<b>new</b>", "accepted"),
    ]
    result = server.get(url).json()["result"]
    yield url, {"version": 1, "result": result, "videos": [{"name": "match", "actions": decided}]}
    server.delete(job["url"])


def test_a_review_comes_back_and_gives_truth(
    server: TestClient, reviewed: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    url, review = reviewed
    truth_url = url.replace("/review", "/truth")
    assert server.get(url).json()["videos"] == []
    assert (server.get(truth_url).status_code, server.get(truth_url).json()["detail"]) == (
        409,
        "the job has no review yet",
    )

    saved = server.put(url, json=review)

    assert saved.status_code == 204
    found = server.get(url)
    assert (found.json(), found.headers["ETag"]) == (review, saved.headers["ETag"])
    truth = server.get(truth_url)
    assert truth.headers["Content-Disposition"] == "attachment; filename*=UTF-8''match.truth.json"
    (tmp_path / "truth.json").write_bytes(truth.content)
    problems = Problems("truth.json")
    (read,) = read_annotations(
        tmp_path / "truth.json", subset=None, defaults=(), problems=problems, check_durations=True
    ).videos
    problems.raise_if_any()
    assert (read.name, read.duration_s) == ("match", 45.0)
    assert [(each.start_s, each.end_s, each.label) for each in read.segments] == [
        (0.5, 0.75, "<b>new</b>"),
        (1.0, 2.5, "orbit"),
    ]


def test_a_review_does_not_replace_one_that_its_client_has_not_seen(
    server: TestClient, reviewed: tuple[str, dict[str, Any]]
) -> None:
    url, review = reviewed
    first = server.get(url).headers["ETag"]
    second = server.put(url, json=review, headers={"If-Match": first}).headers["ETag"]

    late = server.put(url, json={**review, "videos": []}, headers={"If-Match": first})

    assert (late.status_code, late.json()["detail"]) == (
        412,
        "somebody else has changed the review; load the page again",
    )
    assert server.get(url).json() == review
    assert server.put(url, json={**review, "videos": []}, headers={"If-Match": second}).status_code == 204


def _with_action(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda review: {
        **review,
        "videos": [{"name": "match", "actions": [{**decision(0, 1.0, 2.0, "orbit", "accepted"), **changes}]}],
    }


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (lambda review: {**review, "result": "0" * 32}, 409, "another result"),
        (lambda review: {**review, "result": "../../jobs"}, 422, "pattern"),
        (lambda review: {**review, "videos": review["videos"] * 2}, 422, "at most 1"),
        (_with_action(found=10_000), 422, "expected different rows"),
        (_with_action(segment=[2.0, 1.0]), 422, "before it starts"),
        (_with_action(verdict="maybe"), 422, "accepted"),
        (_with_action(label=""), 422, "at least 1"),
    ],
)
def test_reviews_that_do_not_fit_are_refused(
    server: TestClient,
    reviewed: tuple[str, dict[str, Any]],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    status: int,
    message: str,
) -> None:
    url, review = reviewed

    answer = server.put(url, json=change(review))

    assert answer.status_code == status
    assert message in answer.text
    assert server.get(url).json()["videos"] == []


@pytest.mark.parametrize("value", ['"\\ud83d"', "NaN", "Infinity", "[", '{"a": 1e999}'])
def test_values_that_no_answer_can_hold_are_refused(
    server: TestClient, reviewed: tuple[str, dict[str, Any]], value: str
) -> None:
    url, review = reviewed
    action = json.dumps(decision(0, 1.0, 2.0, "orbit", "accepted")).replace("1.0", value)
    body = json.dumps({**review, "videos": "?"}).replace('"?"', f'[{{"name": "match", "actions": [{action}]}}]')

    for method, place, content in (("PUT", url, body), ("POST", "/v1/jobs", f'{{"path": {value}}}')):
        answer = server.request(method, place, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("is_chunked", [False, True])
def test_bodies_that_are_no_uploads_have_a_limit(
    server: TestClient, reviewed: tuple[str, dict[str, Any]], is_chunked: bool
) -> None:
    url, _ = reviewed
    block = b" " * 1_000_000

    for method, place in (("PUT", url), ("POST", "/v1/jobs")):
        answer = server.request(
            method,
            place,
            content=iter([block] * 17) if is_chunked else block * 17,
            headers={"Content-Type": "application/json"},
        )
        assert (answer.status_code, answer.json()["detail"]) == (413, "larger than the 16 MB allowed here")


def test_reviews_are_guarded_like_the_rest(tmp_path: Path, server: TestClient, reviewed: tuple[str, Any]) -> None:
    url, review = reviewed
    assert server.put(url, json=review, headers={"Origin": "https://elsewhere.example"}).status_code == 403
    assert server.put("/v1/jobs/none/review", json=review).status_code == 404
    with serving(tmp_path, token=TOKEN) as client:
        for method, place in (("GET", "review"), ("PUT", "review"), ("GET", "truth")):
            assert client.request(method, f"/v1/jobs/none/{place}", json=review).status_code == 401


def test_a_deleted_job_leaves_no_review(tmp_path: Path, video: bytes) -> None:
    with serving(tmp_path) as client:
        job = wait_for(client, upload(client, video)["id"], "done")
        url = f"{job['url']}/review"
        client.put(url, json={"result": client.get(url).json()["result"], "videos": []})
        assert len(list((tmp_path / "reviews").glob("*"))) == 1

        client.delete(job["url"])

        assert list((tmp_path / "reviews").glob("*")) == []


def test_a_review_on_the_page_is_saved_at_once_and_survives_a_kill(
    start: Callable[[], tuple[subprocess.Popen[bytes], httpx.Client]],
    video: bytes,
    browser: Browser,
    tmp_path: Path,
) -> None:
    process, client = start()
    job = wait_for(client, upload(client, video, name="match.mp4")["id"], "done", "failed")
    page = f"{job['url']}/result?format=html"
    browser.driver.get(str(client.base_url) + page)
    browser.wait("return isDrawn && player.readyState > 1")

    browser.press("j", "a", "x", "w", "l", "<img src=x onerror=alert(1)>", "\ue007")

    browser.wait("return document.getElementById('kept').textContent === 'Saved.'")
    assert browser.complaints() == []
    before = browser.run("return reviewDocument()")
    exported = browser.run("return truthDocument()")
    assert client.get(f"{job['url']}/truth").json() == exported
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    browser.press("j", "a")
    browser.wait("return document.getElementById('kept').textContent.startsWith('Not saved')")
    client.close()

    _, client = start()
    browser.run("saving.isWanted = false")  # else the browser asks whether to leave what is not saved
    browser.driver.get(str(client.base_url) + page)
    browser.wait("return isDrawn")

    assert browser.run("return reviewDocument()") == before
    assert browser.text("#kept") == "Loaded what was saved."
    assert browser.text("#review-counts").startswith("2 accepted, 1 rejected")
    client.close()


def test_the_documented_commands_fetch_the_truth_of_a_review(
    start: Callable[[], tuple[subprocess.Popen[bytes], httpx.Client]], video: bytes, root: Path, tmp_path: Path
) -> None:
    _, client = start()
    job = wait_for(client, upload(client, video, name="example.mp4")["id"], "done", "failed")
    result = client.get(f"{job['url']}/result")
    (tmp_path / "actions.json").write_bytes(result.content)
    found = result.json()["videos"][0]["actions"]
    review = client.get(f"{job['url']}/review").json()
    decided = [
        {**decision(row, *action["segment"], action["label"], "accepted"), "score": action["score"]}
        for row, action in enumerate(found)
    ]
    client.put(f"{job['url']}/review", json={**review, "videos": [{"name": "example", "actions": decided}]})

    for command in blocks(root, "bash", "docs/serve.md")[0].splitlines():
        done = run(command.replace("http://127.0.0.1:8080", str(client.base_url)).replace("ID", job["id"]), tmp_path)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert re.search(r"mAP %( +100\.00){6}", done.stdout), done.stdout
    client.close()


def test_two_pages_of_one_review_do_not_overwrite_each_other(
    start: Callable[[], tuple[subprocess.Popen[bytes], httpx.Client]], video: bytes, browser: Browser
) -> None:
    _, client = start()
    job = wait_for(client, upload(client, video, name="match.mp4")["id"], "done", "failed")
    browser.driver.get(f"{client.base_url}{job['url']}/result?format=html")
    browser.wait("return isDrawn")
    review = client.get(f"{job['url']}/review").json()
    client.put(f"{job['url']}/review", json={**review, "videos": [{"name": "match", "actions": []}]})

    browser.press("j", "a")

    told = "Not saved: somebody else has changed the review; load the page again"
    browser.wait(f"return document.getElementById('kept').textContent === '{told}'")
    assert client.get(f"{job['url']}/review").json()["videos"][0]["actions"] == []
    browser.run("saving.isWanted = false")
    client.close()
