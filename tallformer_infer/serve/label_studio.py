"""A machine learning backend for Label Studio: predictions for its tasks, and retraining on corrections.

Note [answers in time]
    Label Studio waits 100 s for predictions. A video that takes longer stays in the queue, and its task gets an error
    instead of a prediction, which Label Studio ignores; a later request gets the prediction immediately.

Source: the protocol of label-studio-ml (`api.py`) and of its other side, Label Studio 1.23 (`ml/api_connector.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from tallformer_infer.bundle import Bundle
from tallformer_infer.errors import AnnotationError, ConfigError, MediaError, TallformerError
from tallformer_infer.labels import Segment, Timeline, label_studio_prediction, timeline_of_config
from tallformer_infer.pipeline import at_point, choose_selection
from tallformer_infer.results import Selection, display_floor, select_actions
from tallformer_infer.serve.driver import Driver, DriverOptions
from tallformer_infer.serve.guard import check_address, fetch
from tallformer_infer.serve.jobs import UNFINISHED, Job, JobOptions, JobStore, new_job_id
from tallformer_infer.serve.retraining import Retraining

FOLDER = "label-studio"
"""Folder of this backend in the server's data."""
_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class LabelStudioOptions:
    """Options of the backend."""

    label_map: Mapping[str, str]
    """Class of the model by label of Label Studio, if their names differ."""
    retrain_after: int | None = None
    """Number of corrected tasks after which a project gets its own model; None: never."""
    training_config: Path | None = None
    """Training settings, as for `tallformer train --config`; None: the defaults, with a frozen encoder."""
    wait_s: float = 85.0
    """Timeout for predictions, in seconds; see Note [answers in time]."""


class Server(Protocol):
    """The parts of the server that the backend uses."""

    bundle: Bundle
    jobs: JobStore
    driver: Driver

    def file_below_root(self, path: str) -> Path:
        """A file that a client names."""

    def require_room(self) -> None:
        """Refuse a job if the queue is full."""


class SetupRequest(BaseModel):
    """Request to connect a project."""

    project: str = Field("", description="Its id and when it was created, with a dot between.")
    schema_: str = Field("", alias="schema", description="Its labelling interface.")
    hostname: str | None = None
    access_token: str | None = None
    extra_params: dict[str, Any] | str | None = None


class PredictRequest(BaseModel):
    """Request for predictions of tasks."""

    tasks: list[dict[str, Any]]
    project: str | None = None
    label_config: str = ""


@dataclass(frozen=True)
class _Model:
    """A model with its queue."""

    bundle: Bundle
    jobs: JobStore
    driver: Driver

    @property
    def version(self) -> str:
        """Changes with the weights."""
        return f"{self.bundle.name} {self.bundle.sha256[:8]}"


class LabelStudio:
    """The backend of one server."""

    def __init__(self, server: Server, driver: DriverOptions, options: LabelStudioOptions) -> None:
        """Create a backend without projects.

        Raises:
            ConfigError: Training cannot start from the server's model.
            ExtraError: Training is not installed.
        """
        self._server = server
        self._driver = driver
        self._options = options
        self._folder = driver.data / FOLDER
        self._projects: dict[str, SetupRequest] = {}
        self._own: dict[str, _Model] = {}
        self._lock = threading.Lock()
        self._retraining = None
        if options.retrain_after is not None:
            self._retraining = Retraining(
                self._folder,
                server.bundle,
                after=options.retrain_after,
                training_config=options.training_config,
                locate=self._source,
                swap=self._swap,
            )

    def add_to(self, app: FastAPI) -> None:
        """Add the routes of the protocol."""

        @app.get("/health", tags=["label studio"])
        def label_studio_health() -> dict[str, Any]:
            """Whether the backend responds, and the state of the last training."""
            training = None if self._retraining is None else self._retraining.state
            return {"status": "UP", "model_class": "tallformer", "training": training}

        @app.post("/setup", tags=["label studio"])
        def setup(wanted: SetupRequest) -> dict[str, str]:
            """Connect a project: checks its labelling interface against the classes of the model."""
            project = _project_id(wanted.project)
            timeline, model = _timeline(wanted.schema_), self._model_of(project)
            self._labels_of(timeline, model)
            self._projects[project] = wanted
            self._selection(project, model)
            return {"model_version": model.version}

        @app.post("/predict", tags=["label studio"])
        async def predict(wanted: PredictRequest) -> dict[str, list[dict[str, Any]]]:
            """Predictions for tasks, in their order."""
            return {"results": await self._predict(wanted)}

        @app.post("/webhook", status_code=201, tags=["label studio"])
        def webhook(event: dict[str, Any]) -> dict[str, Any]:
            """Store changed annotations; start training when there are enough."""
            if self._retraining is None:
                return {"status": "ok", "result": "the server was started without --retrain-after"}
            project = event.get("project")
            if not isinstance(project, dict) or "id" not in project:
                raise HTTPException(422, "expected an event with its project: send the payload with the webhook")
            timeline = _timeline(str(project.get("label_config", "")))
            return {"status": "ok", "result": self._retraining.hear(_project_id(str(project["id"])), timeline, event)}

    def stop(self) -> None:
        """Stop training and the queues of retrained models."""
        if self._retraining is not None:
            self._retraining.stop()
        for model in self._own.values():
            _close(model)

    async def _predict(self, wanted: PredictRequest) -> list[dict[str, Any]]:
        project = _project_id(wanted.project or "")
        timeline, model = _timeline(wanted.label_config), await run_in_threadpool(self._model_of, project)
        labels = self._labels_of(timeline, model)
        settings = self._selection(project, model)
        until_s = time.monotonic() + self._options.wait_s
        jobs = [await run_in_threadpool(self._begin, task, timeline, project, model) for task in wanted.tasks]
        predictions: list[dict[str, Any]] = []
        for task, job in zip(wanted.tasks, jobs, strict=True):
            ended = await _wait(model, job, until_s) if isinstance(job, Job) else job
            if isinstance(ended, str):
                predictions.append({"error": ended, "model_version": model.version})
                continue
            fps = timeline.fps_of(task["data"])
            predictions.append(await run_in_threadpool(_prediction, model, ended, settings, labels, timeline, fps))
        return predictions

    def _begin(self, task: dict[str, Any], timeline: Timeline, project: str, model: _Model) -> Job | str:
        """The job for a task's video, or the reason why there is none."""
        try:
            source = self._source(task, timeline, project)
            key = f"label-studio {source}"
            known = model.jobs.with_key(key)
            if known is not None and not _is_useful(model, known):
                model.driver.remove(known)
                known = None
            if known is not None:
                return known
            self._server.require_room()
            job = model.jobs.add(
                job_id=new_job_id(), name=source.name, source=source, options=JobOptions(), idempotency_key=key
            )
            model.driver.add(job)
            return job
        except HTTPException as error:
            return str(error.detail)
        except TallformerError as error:
            return str(error)

    def _source(self, task: dict[str, Any], timeline: Timeline, project: str) -> Path:
        """The file of a task's video: below the server's root, or fetched from an allowed host.

        Raises:
            HTTPException: It is not below the root.
            MediaError: The task names no video, or it cannot be fetched.
        """
        data = task.get("data")
        address = data.get(timeline.data_key) if isinstance(data, dict) else None
        if not isinstance(address, str) or not address:
            raise MediaError(f"task {task.get('id')}: its data has no {timeline.data_key!r}")
        parts = urlsplit(address)
        if parts.path.rstrip("/").endswith("/data/local-files"):
            return self._server.file_below_root(parse_qs(parts.query).get("d", [""])[0])
        if "/data/upload/" in parts.path:
            return self._uploaded(address, unquote(parts.path).partition("/data/upload/")[2], project)
        if parts.scheme in ("http", "https"):
            return self._fetched(address, None)
        if "://" in address:
            raise MediaError(f"url: {parts.scheme}:// is not fetched here; expected http://, https:// or a local file")
        return self._server.file_below_root(address)

    def _uploaded(self, address: str, below: str, project: str) -> Path:
        """A file uploaded to Label Studio: from its media folder, if that is the root, otherwise downloaded from it."""
        for place in (f"upload/{below}", f"media/upload/{below}", below):
            try:
                return self._server.file_below_root(place)
            except HTTPException:
                continue
        setup = self._projects.get(project)
        host = (setup.hostname or "").rstrip("/") if setup is not None else ""
        if not host and "://" not in address:
            raise MediaError("url: Label Studio did not name its own address, where the upload is")
        address = host + address if address.startswith("/") else address
        is_there = setup is not None and bool(host) and address.startswith(f"{host}/")
        return self._fetched(address, setup.access_token if setup is not None and is_there else None)

    def _fetched(self, address: str, token: str | None) -> Path:
        """A file from an allowed host, kept for training."""
        driver = self._driver
        checked = check_address(address, allowed_hosts=driver.allowed_hosts)
        name = hashlib.sha256(address.encode()).hexdigest()[:32]
        target = self._folder / "videos" / f"{name}{_suffix(checked.path)}"
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch(
            address,
            target,
            allowed_hosts=driver.allowed_hosts,
            allow_private=driver.allow_private,
            most_bytes=driver.most_bytes,
            authorization=None if token is None else f"Token {token}",
        )
        return target

    def _labels_of(self, timeline: Timeline, model: _Model) -> dict[str, str]:
        """The label of Label Studio by class of the model.

        Raises:
            HTTPException: No label stands for a class of the model.
        """
        known = {name.casefold(): name for name in model.bundle.recipe.classes}
        found: dict[str, str] = {}
        for label in timeline.labels:
            mapped = self._options.label_map.get(label.name)
            for meaning in label.meanings if mapped is None else (mapped, *label.meanings):
                name = known.get(meaning.casefold())
                if name is not None:
                    found.setdefault(name, label.name)
        if not found:
            labels = ", ".join(label.name for label in timeline.labels[:5])
            raise HTTPException(
                422,
                f"no label of the interface ({labels}) is a class of the model {model.bundle.name}; name classes in "
                'aliases="..." of a <Label>, or with --label-map',
            )
        return found

    def _selection(self, project: str, model: _Model) -> Selection:
        """Filters for actions, from the extra parameters of the project's connection."""
        setup = self._projects.get(project)
        given = {} if setup is None else _parameters(setup.extra_params)
        threshold, top_k, wanted = given.get("threshold"), given.get("top_k"), given.get("operating_point")
        try:
            return choose_selection(
                model.bundle, threshold=threshold, top_k=top_k, operating_point=wanted and str(wanted)
            )
        except (ConfigError, TypeError) as error:
            raise HTTPException(422, f"extra parameters: {error}") from error

    def _model_of(self, project: str) -> _Model:
        """The model of a project: its own after retraining, otherwise that of the server."""
        with self._lock:
            if project in self._own:
                return self._own[project]
            bundle = None if self._retraining is None else self._retraining.bundle_of(project)
            if bundle is None:
                return _Model(self._server.bundle, self._server.jobs, self._server.driver)
            self._own[project] = model = self._open(bundle)
            return model

    def _swap(self, project: str, bundle: Bundle) -> None:
        """Replace the model of a project; the queue of the previous model finishes its current jobs."""
        model = self._open(bundle)
        with self._lock:
            earlier, self._own[project] = self._own.get(project), model
        if earlier is not None:
            _close(earlier, within_s=self._options.wait_s)

    def _open(self, bundle: Bundle) -> _Model:
        folder = self._folder / "queues" / bundle.sha256[:16]
        folder.mkdir(parents=True, exist_ok=True)
        jobs = JobStore(folder / "jobs.db")
        model = _Model(bundle, jobs, Driver(bundle, jobs, dataclasses.replace(self._driver, data=folder)))
        model.driver.start()
        return model


async def _wait(model: _Model, job: Job, until_s: float) -> Job | str:
    """Wait for a job; return it when it has ended, or a message if it has not."""
    while True:
        found = await run_in_threadpool(model.jobs.get, job.id)
        if found is None:
            return f"{job.name}: the job was deleted"
        if found.state not in UNFINISHED:
            return found
        if time.monotonic() > until_s:
            return f"{job.name}: still being processed; try again later"
        await asyncio.sleep(_POLL_S)


def _is_useful(model: _Model, job: Job) -> bool:
    return job.state in UNFINISHED or (job.state == "done" and model.driver.result(job) is not None)


def _prediction(
    model: _Model, job: Job, selection: Selection, labels: Mapping[str, str], timeline: Timeline, fps: float
) -> dict[str, Any]:
    result = model.driver.result(job) if job.state == "done" else None
    if result is None:
        return {"error": job.error or f"{job.name}: the job is {job.state}", "model_version": model.version}
    actions = at_point(result.actions, model.bundle, selection.operating_point)
    kept = select_actions(actions, threshold=selection.threshold, top_k=selection.top_k, classes=tuple(labels))
    floor = display_floor(dataclasses.replace(result, actions=kept, selection=selection))
    segments = [
        Segment(start_s=action.start_s, end_s=action.end_s, label=labels[action.label], score=action.score)
        for action in kept
        if action.score >= floor
    ]
    return label_studio_prediction(segments, timeline, fps=fps, model_version=model.version)


def _timeline(config: str) -> Timeline:
    try:
        return timeline_of_config(config)
    except AnnotationError as error:
        raise HTTPException(422, str(error)) from error


def _project_id(text: str) -> str:
    """The id of a project, which is used in file names."""
    name = text.partition(".")[0]
    return name if name.isalnum() and name.isascii() else hashlib.sha256(name.encode()).hexdigest()[:16]


def _parameters(given: dict[str, Any] | str | None) -> dict[str, Any]:
    if isinstance(given, str):
        with contextlib.suppress(ValueError):
            given = json.loads(given)
    return given if isinstance(given, dict) else {}


def _suffix(path: str) -> str:
    suffix = Path(path).suffix
    return suffix if suffix[1:].isalnum() and suffix.isascii() and len(suffix) <= 8 else ".mp4"


def _close(model: _Model, *, within_s: float = 0.0) -> None:
    model.driver.stop(within_s=within_s)
    model.jobs.close()
