"""Retrain a model for a Label Studio project on the corrections made there.

Note [how a model is exchanged]
    Training and export run in child processes and write to a new folder. Only when the exported bundle can be loaded,
    `current.json` is replaced atomically, and the project's requests use the new model. If anything fails before that,
    the old one stays in use. One training runs at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.config import I3dConfig, to_json
from tallformer_infer.errors import AnnotationError, ConfigError, ExtraError, OutputError, TallformerError
from tallformer_infer.files import write_whole
from tallformer_infer.installing import install_command
from tallformer_infer.labels import LabelledVideo, Problems, Timeline, truth_document, videos_of_tasks

Locate = Callable[[dict[str, Any], Timeline, str], Path]
_CREATED = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED")
_log = logging.getLogger("uvicorn.error")


class Retraining:
    """Stores the annotations of all projects, and runs at most one training at a time."""

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        *,
        after: int,
        training_config: Path | None,
        locate: Locate,
        swap: Callable[[str, Bundle], None],
    ) -> None:
        """Check that training is possible; nothing is trained yet.

        Args:
            folder: Folder with a subfolder per project.
            bundle: Model from which the first training of a project starts.
            after: Number of corrected tasks that starts a training.
            training_config: Settings, as for `tallformer train --config`.
            locate: Returns the file of a task's video.
            swap: Called with a project and its new model.

        Raises:
            ConfigError: Training cannot start from the bundle.
            ExtraError: Training is not installed.
        """
        _require_trainable(bundle)
        self._folder = folder
        self._bundle = bundle
        self._after = after
        self._config = training_config
        self._locate = locate
        self._swap = swap
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopping = False
        self.state: dict[str, Any] | None = None
        """State of the last training: project, state, and the reason for a failure."""

    def bundle_of(self, project: str) -> Bundle | None:
        """The retrained model of a project, if it was trained from the server's model; otherwise None."""
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, TallformerError):
            current = json.loads((self._folder / project / "current.json").read_text(encoding="utf-8"))
            if current["from"] == self._bundle.sha256:
                return load_bundle(self._folder / project / current["bundle"])
        return None

    def hear(self, project: str, timeline: Timeline, event: dict[str, Any]) -> str:
        """Handle an event: store changed annotations, and start a training when there are enough.

        Args:
            project: Id of the project.
            timeline: Timeline of its labelling interface.
            event: Payload of a Label Studio webhook.

        Returns:
            Description of the action taken, for display.
        """
        action = event.get("action")
        annotations = self._folder / project / "annotations"
        if action in _CREATED:
            _keep(annotations, event)
        elif action == "ANNOTATIONS_DELETED":
            for each in event.get("annotations") or ():
                _file(annotations, each).unlink(missing_ok=True)
        elif action != "START_TRAINING":
            return f"{action}: ignored"
        records = _newest_of_each_task(annotations)
        attempted = self._attempted(project)
        new = sum(attempted.get(str(record["id"])) != record.get("updated_at") for record in records)
        if not records or (action != "START_TRAINING" and new < self._after):
            return f"{new} of {self._after} corrected tasks"
        return self._begin(project, timeline, records)

    def stop(self) -> None:
        """Stop the training in progress."""
        self._is_stopping = True
        if self._child is not None:
            self._child.terminate()
        if self._thread is not None:
            self._thread.join(30)

    def _begin(self, project: str, timeline: Timeline, records: list[dict[str, Any]]) -> str:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return "a training is in progress"
            self.state = {"project": project, "state": "running", "tasks": len(records)}
            self._thread = threading.Thread(
                target=self._train, args=(project, timeline, records), name="tallformer-retraining", daemon=True
            )
            self._thread.start()
        return f"training started with {len(records)} tasks"

    def _train(self, project: str, timeline: Timeline, records: list[dict[str, Any]]) -> None:
        """Run one training, from annotations to a new model; runs in a separate thread."""
        try:
            folder = _next_folder(self._folder / project / "models")
            start = self.bundle_of(project) or self._bundle
            self._write_material(folder, project, timeline, records)
            self._run_children(folder, start, name=f"{self._bundle.name}-{project}-{folder.name}")
            bundle = load_bundle(folder / "bundle")
            current = {"bundle": f"models/{folder.name}/bundle", "from": self._bundle.sha256, "tasks": len(records)}
            write_whole(self._folder / project / "current.json", json.dumps(current).encode())
            self._swap(project, bundle)
            shutil.rmtree(folder / "videos", ignore_errors=True)
            self.state = {"project": project, "state": "done", "model": bundle.name, "tasks": len(records)}
            _log.info("label studio: project %s has the model %s", project, bundle.name)
        except (TallformerError, HTTPException, OSError) as error:
            reason = str(error.detail) if isinstance(error, HTTPException) else str(error)
            self.state = {"project": project, "state": "failed", "error": reason}
            _log.error("label studio: training for project %s failed: %s", project, reason)
        finally:
            if not self._is_stopping:  # otherwise the next process starts again
                attempt = {str(record["id"]): record.get("updated_at") for record in records}
                with contextlib.suppress(OSError):
                    write_whole(self._folder / project / "attempted.json", json.dumps(attempt).encode())

    def _write_material(
        self, folder: Path, project: str, timeline: Timeline, records: Iterable[dict[str, Any]]
    ) -> None:
        """Write annotations and videos in the form that `tallformer train` reads."""
        videos = folder / "videos"
        videos.mkdir()
        labelled: list[LabelledVideo] = []
        for record in records:
            task = record["task"]
            video = _labelled(record, timeline)
            if not video.segments:
                continue
            source = self._locate(task, timeline, project)
            name = f"task-{task['id']}{source.suffix}"
            try:
                (videos / name).symlink_to(source.resolve())
            except OSError:  # on Windows only administrators may create links
                shutil.copyfile(source, videos / name)
            labelled.append(dataclasses.replace(video, name=name, subset="training"))
        if not labelled:
            raise OutputError("no corrected task has an action; training needs at least one")
        write_whole(folder / "annotations.json", json.dumps(truth_document(labelled)).encode())

    def _run_children(self, folder: Path, start: Bundle, *, name: str) -> None:
        """Run recipe, training and export, each in a separate process."""
        write_whole(folder / "base.json", json.dumps(to_json(start.recipe)).encode())
        annotated = ["--annotations", "annotations.json"]
        self._run(folder, "train", "--suggest", *annotated, "--recipe", "base.json", "--quiet", out="recipe.json")
        settings = ["--ratio", "0"] if self._config is None else ["--config", str(self._config.resolve())]
        chosen = ["--recipe", "recipe.json", "--init", str(start.path.resolve()), *settings]
        self._run(folder, "train", *annotated, "--videos", "videos", *chosen, "--out", "run", "--quiet")
        exported = ["--out", "bundle", "--name", name, "--quiet"]
        if start.description.intended_use:
            exported += ["--intended-use", start.description.intended_use]
        self._run(folder, "export", "run/model.safetensors", *exported)

    def _run(self, folder: Path, *arguments: str, out: str | None = None) -> None:
        """Run a tallformer command; its output goes to `log.txt`.

        Raises:
            OutputError: The command failed.
        """
        command = [sys.executable, "-m", "tallformer_infer", *arguments]
        with (folder / "log.txt").open("ab") as log, (folder / (out or "log.txt")).open("ab") as output:
            self._child = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=log)
            if self._is_stopping:
                self._child.terminate()
            code = self._child.wait()
        if code:
            lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "")
            raise OutputError(f"`tallformer {arguments[0]}` ended with {code}: {last.removeprefix('tallformer: ')}")

    def _attempted(self, project: str) -> dict[str, Any]:
        """Modification times of the annotations of the last training, by id."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self._folder / project / "attempted.json").read_text(encoding="utf-8")))
        return {}


def _require_trainable(bundle: Bundle) -> None:
    backbone = bundle.recipe.model.backbone
    if not isinstance(backbone, I3dConfig) or bundle.graphs["encoder"].precision != "fp32":
        raise ConfigError(
            f"--retrain-after: training starts only from models with I3D in fp32, such as kinetics400; {bundle.name} "
            f"has {backbone.text} in {bundle.graphs['encoder'].precision}"
        )
    for module, extra in (("torch", "train"), ("onnxscript", "export")):
        if importlib.util.find_spec(module) is None:
            raise ExtraError(
                f"--retrain-after needs the extra {extra!r} ({module} is not installed): {install_command(extra)}"
            )


def _keep(folder: Path, event: dict[str, Any]) -> None:
    """Store an annotation with its task, in the format of Label Studio's storages."""
    annotation, task = event.get("annotation"), event.get("task")
    if not isinstance(annotation, dict) or not isinstance(task, dict) or not isinstance(task.get("id"), int):
        raise HTTPException(422, "expected an annotation and its task: send the payload with the webhook")
    file = _file(folder, annotation)
    if annotation.get("was_cancelled"):
        file.unlink(missing_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({**annotation, "task": task}).encode())


def _file(folder: Path, annotation: dict[str, Any]) -> Path:
    try:
        return folder / f"{int(annotation['id'])}.json"
    except (LookupError, TypeError, ValueError) as error:
        raise HTTPException(422, "expected an annotation with a number as its id") from error


def _newest_of_each_task(folder: Path) -> list[dict[str, Any]]:
    """One annotation per task: the one marked as ground truth, otherwise the last one changed."""
    newest: dict[Any, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        known = newest.get(record["task"]["id"])
        if known is None or _rank(record) >= _rank(known):
            newest[record["task"]["id"]] = record
    return list(newest.values())


def _rank(record: dict[str, Any]) -> tuple[bool, str]:
    return bool(record.get("ground_truth")), str(record.get("updated_at"))


def _labelled(record: dict[str, Any], timeline: Timeline) -> LabelledVideo:
    """The video of an annotation.

    Raises:
        AnnotationError: The annotation is malformed.
    """
    task = record["task"]
    problems = Problems(f"task {task['id']}")
    read = videos_of_tasks([record], problems, fps=timeline.fps_of(task.get("data") or {}))
    problems.raise_if_any()
    if len(read) != 1:
        raise AnnotationError(f"task {task['id']}: expected one video, got {len(read)}")
    return read[0]


def _next_folder(models: Path) -> Path:
    """A new, numbered folder for a training."""
    models.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(each.name) for each in models.iterdir() if each.name.isdecimal()), default=0)
    folder = models / str(number)
    folder.mkdir()
    return folder
