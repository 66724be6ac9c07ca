"""The HTTP API: routes, options and error responses."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.resources
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from tallformer_infer import __version__
from tallformer_infer.bundle import Bundle
from tallformer_infer.errors import ArchiveError, ConfigError, ExtraError, MediaError, OutputError
from tallformer_infer.pipeline import choose_selection
from tallformer_infer.report import page_policy
from tallformer_infer.results import Selection
from tallformer_infer.serve.driver import Driver, DriverOptions
from tallformer_infer.serve.guard import BodyLimit, check_address, file_below, file_name, receive, refusal, shown_name
from tallformer_infer.serve.jobs import UNFINISHED, Job, JobOptions, JobState, JobStore, new_job_id
from tallformer_infer.serve.label_studio import LabelStudio, LabelStudioOptions
from tallformer_infer.serve.results import (
    ChangedMeanwhileError,
    ResultFormat,
    Review,
    ReviewStore,
    encode_result,
    encode_truth,
    picked_result,
    review_key,
)
from tallformer_infer.structures import Result

_RETRY_AFTER_S = 10
_EVENT_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of the server."""

    driver: DriverOptions
    """Options for processing jobs."""
    root: Path | None = None
    """Folder whose files clients may name; None: no files."""
    token: str | None = field(default=None, repr=False)
    """Token that clients must send; None: no authentication."""
    most_waiting: int = 1000
    """Maximum number of unfinished jobs; further ones are refused."""
    upload_timeout_s: float = 60.0
    """Timeout of an upload without data, in seconds."""
    label_studio: LabelStudioOptions | None = None
    """Options of the machine learning backend for Label Studio; None: disabled."""
    grace_s: float = 30.0
    """Time given to running jobs at shutdown, in seconds."""


class JobRequest(BaseModel):
    """A video that the server can reach itself."""

    path: str | None = Field(None, description="File below the server's --root.", max_length=4096)
    url: str | None = Field(None, description="http(s) address on a host of --allow-host.", max_length=4096)
    threshold: float | None = Field(None, ge=0, le=1, description="Minimum score.")
    top_k: int | None = Field(None, ge=1, le=1_000_000, description="Maximum number of actions, best first.")
    classes: list[str] | None = Field(None, description="Class names or @groups to keep.")
    operating_point: str | None = Field(None, description="Operating point of a calibrated model, `all` or `none`.")


class JobView(BaseModel):
    """A job, as shown to clients."""

    id: str
    state: JobState
    name: str
    position_s: float = Field(description="Video time processed, in seconds.")
    duration_s: float | None = Field(description="Duration of the video in seconds, if known.")
    error: str | None
    remarks: list[str]
    created_at: str
    finished_at: str | None
    url: str = Field(description="Address of this job.")


class ModelView(BaseModel):
    """A model of the server."""

    name: str
    classes: list[str]
    operating_points: list[str]
    intended_use: str | None


class Problem(BaseModel):
    """An error response."""

    detail: Any


_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text}
    for code, text in {
        400: "The request cannot be read.",
        401: "The token is missing or wrong.",
        404: "There is no such job.",
        409: "The job is not in a state for this.",
        413: "The body is too large.",
        422: "An option is out of range.",
        429: "Too many unfinished jobs; see Retry-After.",
        503: "Jobs cannot be processed now.",
    }.items()
}

_REVIEW_ERRORS: dict[int | str, dict[str, Any]] = {
    **_ERRORS,
    409: {"model": Problem, "description": "The job is not done, or the review is of another result."},
    412: {"model": Problem, "description": "The review was changed by someone else."},
}

_BYTES = {"type": "string", "format": "binary", "minLength": 1}
_NEXT = {
    operation: {"operationId": operation, "parameters": {"job_id": "$response.body#/id"}}
    for operation in ("job", "cancel", "result", "video", "events", "delete")
}
_ACCEPTED: dict[int | str, dict[str, Any]] = {**_ERRORS, 202: {"description": "Accepted.", "links": _NEXT}}


def create_app(bundle: Bundle, options: ServerOptions) -> FastAPI:
    """Create the application: one model and one job folder.

    Args:
        bundle: The model.
        options: Options of the server.

    Raises:
        ArchiveError: The job folder cannot be opened.
    """
    options.driver.data.mkdir(parents=True, exist_ok=True)
    jobs = JobStore(options.driver.data / "jobs.db")
    server = _Server(bundle, jobs, Driver(bundle, jobs, options.driver), options)
    studio = None if options.label_studio is None else LabelStudio(server, options.driver, options.label_studio)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(server.clean_uploads)
        server.driver.start()
        yield
        if studio is not None:
            await run_in_threadpool(studio.stop)
        await run_in_threadpool(server.driver.stop, within_s=options.grace_s)
        jobs.close()

    app = FastAPI(
        title="tallformer",
        version=__version__,
        summary="Detects actions in videos: submit a video, follow the job, get the result.",
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from a public host
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_middleware(BodyLimit)
    app.middleware("http")(server.guard)
    app.exception_handler(ArchiveError)(_unavailable)
    app.exception_handler(RequestValidationError)(_refuse_request)
    _add_submission(app, server)
    _add_jobs(app, server)
    _add_results(app, server)
    _add_reviews(app, server)
    _add_server(app, server)
    if studio is not None:
        studio.add_to(app)
    return app


class _Server:
    """State shared by the routes."""

    def __init__(self, bundle: Bundle, jobs: JobStore, driver: Driver, options: ServerOptions) -> None:
        self.bundle = bundle
        self.jobs = jobs
        self.driver = driver
        self.options = options
        self.uploads = options.driver.data / "uploads"
        self.reviews = ReviewStore(options.driver.data / "reviews")
        self.registry = CollectorRegistry()
        self.accepted = Counter("tallformer_jobs_accepted", "Jobs accepted.", registry=self.registry)
        self.refused = Counter("tallformer_jobs_refused", "Jobs refused.", ["reason"], registry=self.registry)
        self.received = Counter("tallformer_upload_bytes", "Bytes of uploads.", registry=self.registry)
        states = Gauge("tallformer_jobs", "Jobs by state.", ["state"], registry=self.registry)
        for state in ("fetching", "queued", "running", "done", "failed", "cancelled"):
            states.labels(state).set_function(lambda state=state: jobs.counts().get(state, 0))  # type: ignore[misc]
        seconds = Gauge("tallformer_video_seconds", "Seconds of video done since the start.", registry=self.registry)
        seconds.set_function(lambda: driver.totals.video_s)

    async def guard(self, request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        """Reject unauthorised requests; health checks need no token."""
        refused = None if request.url.path in ("/healthz", "/readyz") else refusal(request, self.options.token)
        response = refused or await call(request)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        return response

    async def receive(self, request: Request, target: Path) -> None:
        """Stream an upload to disk, and count its bytes."""
        try:
            await receive(
                request,
                target,
                most_bytes=self.options.driver.most_bytes,
                timeout_s=self.options.upload_timeout_s,
                on_bytes=self.received.inc,
            )
        except HTTPException as error:
            if error.status_code == 413:
                self.refused.labels("size").inc()
            raise

    def file_below_root(self, path: str) -> Path:
        """Resolve a path from a client: it must be below the root after links are followed."""
        return file_below(self.options.root, path)

    def clean_uploads(self) -> None:
        """Remove uploads of jobs that were never accepted."""
        for folder in self.uploads.glob("*"):
            if self.jobs.get(folder.name) is None:
                shutil.rmtree(folder, ignore_errors=True)

    def require_room(self) -> None:
        """Refuse a job if the queue is full, or no jobs can be processed."""
        if not self.driver.is_alive:
            raise HTTPException(503, self.driver.problem or "the server is starting or stopping")
        counts = self.jobs.counts()
        if sum(counts.get(state, 0) for state in UNFINISHED) >= self.options.most_waiting:
            self.refused.labels("queue").inc()
            raise HTTPException(429, "too many unfinished jobs", headers={"Retry-After": str(_RETRY_AFTER_S)})

    def checked(self, options: JobOptions) -> JobOptions:
        """Options, checked against the model."""
        try:
            selection = choose_selection(self.bundle, **dataclasses.asdict(options), see="GET /v1/models")
        except ConfigError as error:
            raise HTTPException(422, str(error)) from error
        return dataclasses.replace(options, classes=selection.classes)

    def job(self, job_id: str) -> Job:
        """Look up a job by its id from a client."""
        job = self.jobs.get(job_id)
        if job is None:
            raise HTTPException(404, "no such job")
        return job

    def result(self, job: Job) -> tuple[Result, Selection]:
        """Result of a finished job, filtered by its options."""
        found = self.driver.result(job) if job.state == "done" else None
        if found is None:
            raise HTTPException(409, f"the job is {job.state}" if job.state != "done" else "its result is gone")
        made = found.provenance
        if made.bundle_sha256 != self.bundle.sha256:  # scores and operating points of this model do not apply
            name = f"{made.model_name}, {made.bundle_sha256[:8]}"
            raise HTTPException(409, f"its result is of another model ({name}): serve that one, or submit it again")
        return picked_result(found, job, self.bundle)

    def view(self, job: Job) -> JobView:
        """A job for a response."""
        progress = self.driver.progress(job)
        is_over = job.state not in UNFINISHED
        return JobView(
            id=job.id,
            state=job.state,
            name=job.name,
            position_s=(job.duration_s or 0.0) if is_over else progress.position_s,
            duration_s=job.duration_s if is_over else progress.duration_s,
            error=job.error,
            remarks=list(job.remarks),
            created_at=job.created_at,
            finished_at=job.finished_at,
            url=f"/v1/jobs/{job.id}",
        )

    def accept(self, job_id: str, *, name: str, idempotency_key: str | None, **job: Any) -> JSONResponse:
        """Queue a job, or return the one that was already submitted with the same key."""
        accepted = self.jobs.add(job_id=job_id, name=shown_name(name), idempotency_key=idempotency_key or None, **job)
        if accepted.id == job_id:
            self.accepted.inc()
            self.driver.add(accepted)
        return self._answer(accepted)

    def with_key(self, idempotency_key: str | None) -> JSONResponse | None:
        """The earlier response to a request with the same key, if any."""
        known = self.jobs.with_key(idempotency_key) if idempotency_key else None
        return None if known is None else self._answer(known)

    def _answer(self, job: Job) -> JSONResponse:
        view = self.view(job)
        return JSONResponse(view.model_dump(), status_code=202, headers={"Location": view.url})


def _picked(
    threshold: Annotated[float | None, Query(ge=0, le=1, description="Minimum score.")] = None,
    top_k: Annotated[
        int | None, Query(ge=1, le=1_000_000, description="Maximum number of actions, best first.")
    ] = None,
    classes: Annotated[list[str] | None, Query(description="Class names or @groups to keep.")] = None,
    operating_point: Annotated[
        str | None, Query(description="Operating point of a calibrated model, `all` or `none`.")
    ] = None,
) -> JobOptions:
    """Options of a job, from the query."""
    picked = tuple(classes) if classes else None
    return JobOptions(threshold=threshold, top_k=top_k, classes=picked, operating_point=operating_point)


def _add_submission(app: FastAPI, server: _Server) -> None:
    @app.post(
        "/v1/uploads",
        status_code=202,
        response_model=JobView,
        responses=_ACCEPTED,
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": _BYTES}}}},
        tags=["jobs"],
    )
    async def upload(
        request: Request,
        picked: Annotated[JobOptions, Depends(_picked)],
        name: Annotated[str, Query(description="Name of the file.", max_length=1000)] = "video",
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    ) -> Response:
        """Submit a video: its bytes are the body. The same `Idempotency-Key` gives the same job."""
        if (known := server.with_key(idempotency_key)) is not None:
            return known
        options = server.checked(picked)
        server.require_room()
        job_id = new_job_id()
        source = server.uploads / job_id / file_name(name)
        try:
            await server.receive(request, source)
            return server.accept(
                job_id, name=name, source=source, options=options, is_upload=True, idempotency_key=idempotency_key
            )
        except ClientDisconnect:
            return Response(status_code=499)
        finally:
            if server.jobs.get(job_id) is None:
                await run_in_threadpool(shutil.rmtree, source.parent, ignore_errors=True)

    @app.post("/v1/jobs", status_code=202, response_model=JobView, responses=_ACCEPTED, tags=["jobs"])
    def submit(wanted: JobRequest, idempotency_key: Annotated[str | None, Header(max_length=200)] = None) -> Response:
        """Submit a video by its path below the server's root, or by its address."""
        if (known := server.with_key(idempotency_key)) is not None:
            return known
        if (wanted.path is None) == (wanted.url is None):
            raise HTTPException(422, "expected either path or url")
        options = server.checked(_picked(wanted.threshold, wanted.top_k, wanted.classes, wanted.operating_point))
        server.require_room()
        job_id = new_job_id()
        if wanted.path is not None:
            source = server.file_below_root(wanted.path)
            return server.accept(
                job_id, name=wanted.path, source=source, options=options, idempotency_key=idempotency_key
            )
        try:
            address = check_address(wanted.url or "", allowed_hosts=server.options.driver.allowed_hosts)
        except MediaError as error:
            raise HTTPException(422, str(error)) from error
        return server.accept(
            job_id,
            name=address.path,
            source=server.uploads / job_id / file_name(address.path),
            options=options,
            url=str(address),
            is_upload=True,
            idempotency_key=idempotency_key,
        )


def _add_jobs(app: FastAPI, server: _Server) -> None:
    @app.get("/v1/jobs", response_model=list[JobView], responses=_ERRORS, tags=["jobs"])
    def list_jobs(
        state: JobState | None = None,
        before: Annotated[str | None, Query(description="Id of a job: older ones only.", max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> list[JobView]:
        """Jobs, the newest first."""
        return [server.view(job) for job in server.jobs.newest(state=state, before=before, limit=limit)]

    @app.get("/v1/jobs/{job_id}", response_model=JobView, responses=_ERRORS, tags=["jobs"])
    def job(job_id: str) -> JobView:
        """One job: state and progress."""
        return server.view(server.job(job_id))

    @app.post("/v1/jobs/{job_id}/cancel", response_model=JobView, responses=_ERRORS, tags=["jobs"])
    def cancel(job_id: str) -> JobView:
        """Stop a job that has not ended."""
        found = server.job(job_id)
        if not server.driver.cancel(job_id):
            raise HTTPException(409, f"the job is {found.state}")
        return server.view(server.job(job_id))

    @app.delete("/v1/jobs/{job_id}", status_code=204, response_class=Response, responses=_ERRORS, tags=["jobs"])
    def delete(job_id: str) -> Response:
        """Cancel a job if it is unfinished, and delete it with its upload and result."""
        server.job(job_id)
        server.driver.cancel(job_id)
        server.driver.remove(server.job(job_id))
        server.reviews.remove(job_id)
        return Response(status_code=204)

    @app.get("/v1/jobs/{job_id}/events", response_class=StreamingResponse, responses=_ERRORS, tags=["jobs"])
    async def events(job_id: str, request: Request) -> StreamingResponse:
        """State and progress as server-sent events, each a job as JSON, until it has ended."""
        server.job(job_id)

        async def follow() -> AsyncIterator[str]:
            said = ""
            while not await request.is_disconnected():
                found = server.jobs.get(job_id)
                if found is None:
                    return
                view = server.view(found).model_dump_json()
                if view != said:
                    said = view
                    yield f"data: {view}\n\n"
                if found.state not in UNFINISHED:
                    return
                await asyncio.sleep(_EVENT_EVERY_S)

        return StreamingResponse(follow(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _add_results(app: FastAPI, server: _Server) -> None:
    @app.get("/v1/jobs/{job_id}/result", response_class=Response, responses=_ERRORS, tags=["results"])
    def result(
        job_id: str,
        form: Annotated[ResultFormat, Query(alias="format", description="As for `tallformer detect`.")] = "json",
    ) -> Response:
        """The actions of a finished job."""
        job = server.job(job_id)
        picked, selection = server.result(job)
        try:
            content, media_type = encode_result(picked, selection, job, server.bundle, form)
        except (ExtraError, OutputError) as error:
            raise HTTPException(422, str(error)) from error
        policy = {"Content-Security-Policy": page_policy(asks_server=True)} if form == "html" else {}
        return Response(content, media_type=media_type, headers=policy)

    @app.get("/v1/jobs/{job_id}/video", response_class=FileResponse, responses=_ERRORS, tags=["results"])
    def video(job_id: str) -> FileResponse:
        """The video of a job, whole or in ranges."""
        job = server.job(job_id)
        if not Path(job.source).is_file():
            raise HTTPException(404, "the video is no longer available")
        return FileResponse(job.source, headers={"Content-Security-Policy": "sandbox"})


def _add_reviews(app: FastAPI, server: _Server) -> None:
    @app.get("/v1/jobs/{job_id}/review", response_model=Review, responses=_ERRORS, tags=["review"])
    def review(job_id: str, response: Response) -> Review:
        """The review of a job's actions; the `ETag` identifies its current state."""
        picked, _ = server.result(server.job(job_id))
        found, response.headers["ETag"] = server.reviews.load(job_id, review_key(picked))
        response.headers["Cache-Control"] = "no-store"
        return found

    @app.put(
        "/v1/jobs/{job_id}/review", status_code=204, response_class=Response, responses=_REVIEW_ERRORS, tags=["review"]
    )
    def save_review(
        job_id: str,
        decided: Review,
        if_match: Annotated[str | None, Header(max_length=200, description="`ETag` of the state you know.")] = None,
    ) -> Response:
        """Replace the review; it is on disk before the response."""
        picked, _ = server.result(server.job(job_id))
        if decided.result != review_key(picked):
            raise HTTPException(409, "the review is of another result; load the page again")
        rows = [action.found for video in decided.videos for action in video.actions if action.found is not None]
        if len(set(rows)) < len(rows) or max(rows, default=-1) >= len(picked.actions):
            raise HTTPException(422, f"found: expected different rows of the {len(picked.actions)} actions")
        try:
            tag = server.reviews.save(job_id, decided, seen=if_match)
        except ChangedMeanwhileError as error:
            raise HTTPException(412, "somebody else has changed the review; load the page again") from error
        return Response(status_code=204, headers={"ETag": tag})

    @app.get("/v1/jobs/{job_id}/truth", response_class=Response, responses=_ERRORS, tags=["review"])
    def truth(job_id: str) -> Response:
        """Accepted, corrected and added actions, in the ActivityNet form that `eval`, `calibrate` and `train` read."""
        job = server.job(job_id)
        picked, _ = server.result(job)
        decided, _ = server.reviews.load(job_id, review_key(picked))
        if not decided.videos:
            raise HTTPException(409, "the job has no review yet")
        name = quote(f"{PurePath(job.name).stem}.truth.json")
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        return Response(encode_truth(decided, picked), media_type="application/json", headers=headers)


def _add_server(app: FastAPI, server: _Server) -> None:
    @app.get("/v1/models", response_model=list[ModelView], tags=["server"])
    def models() -> list[ModelView]:
        """The model of this server, with its classes and operating points."""
        bundle = server.bundle
        points = list(bundle.calibration.names) if bundle.calibration is not None else []
        return [
            ModelView(
                name=bundle.name,
                classes=list(bundle.recipe.classes),
                operating_points=points,
                intended_use=bundle.intended_use,
            )
        ]

    @app.get("/healthz", response_model=dict[Literal["status"], str], tags=["server"])
    def health() -> dict[str, str]:
        """Whether the process responds."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=dict[Literal["status"], str], responses=_ERRORS, tags=["server"])
    def ready() -> dict[str, str]:
        """Whether jobs are being processed."""
        if not server.driver.is_alive:
            raise HTTPException(503, server.driver.problem or "the server is starting or stopping")
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, tags=["server"])
    def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(server.registry), media_type="text/plain; version=0.0.4")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(_asset("index.html"), headers={"Content-Security-Policy": _PAGE_POLICY})

    @app.get("/assets/{name}", include_in_schema=False)
    def asset(name: Literal["serve.js", "serve.css"]) -> Response:
        kind = "text/javascript" if name.endswith(".js") else "text/css"
        return Response(_asset(name), media_type=kind, headers={"Cache-Control": "no-cache"})


_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


async def _refuse_request(_: Request, error: Exception) -> JSONResponse:
    """Validation errors of a request, without its values, which UTF-8 or JSON may not be able to encode."""
    assert isinstance(error, RequestValidationError), "it is registered for these"
    problems = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()]
    return JSONResponse({"detail": problems}, status_code=422)


async def _unavailable(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "the server's disk or database does not work"}, status_code=503)
