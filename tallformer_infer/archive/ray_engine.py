"""Workers as Ray actors, on one machine or many.

Ray places the actors and reports which are lost; the driver requeues their videos and stores all results. Videos, model
and, to resume from stored features, the store must have the same paths on all machines.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tallformer_infer.archive.processes import LEAST_S, LOADING_S, Doer
from tallformer_infer.archive.tasks import Alive, Event, Failed, LabelSettings, Lost, Outcome, Task
from tallformer_infer.errors import ArchiveError, ExtraError
from tallformer_infer.installing import install_command
from tallformer_infer.text import first_line

LOCAL = "local"
_ASK_EVERY_S = 0.5
_STARTING_S = 60.0
_CONNECT_S = 10.0
_NODE_S = 20.0
"""Ray probes a silent node five times, 3 s apart, before it declares it dead."""


class RayEngine:
    """One actor per slot; an actor whose node is lost is recreated on a node with free resources."""

    def __init__(
        self,
        settings: LabelSettings,
        *,
        address: str,
        count: int | None,
        gpu_fraction: float,
        timeout_factor: float,
    ) -> None:
        """Connect to a cluster, or start one on this machine, and ask for actors.

        Args:
            settings: Settings for all workers.
            address: `host:port` of the cluster, or `local`.
            count: Number of actors; None uses one per CPU, or per share of a GPU.
            gpu_fraction: Fraction of a GPU per actor; 0 if the model runs on CPUs.
            timeout_factor: See `ProcessEngine`.

        Raises:
            ArchiveError: The cluster cannot be reached, or has no resources for one actor.
            ExtraError: Ray is not installed.
        """
        self._ray: Any = _import_ray()
        self._settings = settings
        self._factor = timeout_factor
        self._gpus = gpu_fraction
        with _signals_kept():
            _connect(self._ray, address)
        self._slots = [_Slot() for _ in range(count or self._room())]
        for number in range(len(self._slots)):
            self._start(number)
        self._longest_s = LEAST_S

    @property
    def slots(self) -> int:
        """Maximum number of actors."""
        return len(self._slots)

    def free(self) -> Sequence[int]:
        """Numbers of slots with an idle actor."""
        starting = {slot.ready: number for number, slot in enumerate(self._slots) if slot.node is None}
        for ready in self._ray.wait(list(starting), num_returns=len(starting), timeout=0)[0] if starting else []:
            number = starting[ready]
            try:
                self._slots[number].node, self._slots[number].process = self._ray.get(ready)
            except self._ray.exceptions.RayActorError:
                self._start(number)
        return [number for number, slot in enumerate(self._slots) if slot.node is not None and slot.task is None]

    def give(self, slot: int, task: Task) -> None:
        """Start a task in an idle slot."""
        self._slots[slot].begin(task)

    def next_event(self, timeout_s: float) -> tuple[int, Event] | None:
        """The next event of an actor, or the end of one."""
        until_s = time.monotonic() + timeout_s
        while True:
            refs = {ref: number for number, slot in enumerate(self._slots) for ref in slot.asked()}
            left_s = max(until_s - time.monotonic(), 0)
            if not refs:
                time.sleep(min(left_s, 0.05))
                return None
            ready, _ = self._ray.wait(list(refs), num_returns=1, timeout=min(left_s, 0.1))
            if ready and (event := self._hear(refs[ready[0]], ready[0])) is not None:
                return refs[ready[0]], event
            if (hung := self._give_up_hung()) is not None:
                return hung
            if time.monotonic() >= until_s:
                return None

    def place(self, slot: int) -> str:
        """Node and process of the slot."""
        return f"{str(self._slots[slot].node)[:8]}:{self._slots[slot].process}"

    def close(self) -> None:
        """Kill all actors, and the cluster if this run started it."""
        for slot in self._slots:
            with contextlib.suppress(Exception):
                self._ray.kill(slot.actor)
        self._ray.shutdown()

    def _start(self, number: int) -> None:
        resources = {"num_cpus": self._settings.threads or 1, "num_gpus": self._gpus}
        actor = self._ray.remote(_Actor).options(
            **resources, max_concurrency=2, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self._slots[number] = _Slot(actor.remote(self._settings, number))

    def _room(self) -> int:
        until_s = time.monotonic() + _STARTING_S
        while time.monotonic() < until_s:
            resources = self._ray.cluster_resources()
            by_gpu = resources.get("GPU", 0) / self._gpus if self._gpus else float("inf")
            room = int(min(resources.get("CPU", 0) / (self._settings.threads or 1), by_gpu))
            if room:
                return room
            time.sleep(0.5)
        raise ArchiveError("the Ray cluster has no room for a worker: it needs a CPU, and with --gpu-fraction a GPU")

    def _hear(self, number: int, ref: Any) -> Event | None:
        slot = self._slots[number]
        try:
            event: Event | None = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return self._bury(number, error)
        if ref is slot.outcome:
            silence_s = slot.hear()
            if not slot.is_loading:
                self._longest_s = max(self._longest_s, silence_s)
            slot.end()
            return event
        slot.answered()
        if not isinstance(event, Alive) or event == slot.last:
            return None
        slot.hear()
        slot.last = event
        slot.is_loading = event.what in ("starting", "loading")
        return event

    def _bury(self, number: int, error: Exception) -> Event:
        """Recreate an actor; its video has failed, unless the whole node is lost."""
        node, had_task = self._slots[number].node, self._slots[number].task
        self._start(number)
        assert had_task is not None, "only busy actors are asked"
        is_unsure = isinstance(error, self._ray.exceptions.ActorUnavailableError)  # Ray itself does not know yet
        if not self._is_node_alive(node, wait_s=_NODE_S if is_unsure else 1.0):
            return Lost(f"the node {str(node)[:8]} was lost")
        return Failed("crash", f"the worker died: {first_line(error)}")

    def _is_node_alive(self, node: str | None, *, wait_s: float) -> bool:
        """Whether Ray still counts a node as alive after `wait_s`; it learns of an actor's death much earlier."""
        until_s = time.monotonic() + wait_s
        while time.monotonic() < until_s:
            alive = {known["NodeID"]: known["Alive"] for known in self._ray.nodes()}
            if not alive.get(node, False):
                return False
            time.sleep(0.2)
        return True

    def _give_up_hung(self) -> tuple[int, Failed] | None:
        for number, slot in enumerate(self._slots):
            if slot.task is None:
                continue
            limit_s = LOADING_S * min(self._factor, 1.0) if slot.is_loading else self._factor * self._longest_s
            if slot.silent_s > limit_s + 2 * _ASK_EVERY_S:
                silent_s = slot.silent_s
                self._ray.kill(slot.actor)
                self._start(number)
                return number, Failed("hang", f"hangs: no heartbeat for {silent_s:.0f} s")
        return None


class _Actor:
    """Does tasks and reports progress."""

    def __init__(self, settings: LabelSettings, slot: int) -> None:
        self._do = Doer(settings, slot)
        self._alive = Alive(what="starting")

    def ready(self) -> tuple[str, int]:
        import ray  # noqa: PLC0415

        return ray.get_runtime_context().get_node_id(), os.getpid()

    def do(self, task: Task) -> Outcome:
        self._hear(Alive(what="starting"))
        return self._do(task, self._hear)

    def alive(self) -> Alive:
        return self._alive

    def _hear(self, alive: Alive) -> None:
        self._alive = alive


class _Slot:
    """One actor, from the driver's side."""

    def __init__(self, actor: Any = None) -> None:
        self.actor = actor
        self.ready = None if actor is None else actor.ready.remote()
        self.node: str | None = None
        self.process = 0
        self.task: Task | None = None
        self.outcome: Any = None
        self.last: Alive | None = None
        self.is_loading = True
        self._question: Any = None
        self._ask_s = 0.0
        self._heard_s = 0.0
        self._longest_s = 0.0

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._heard_s

    def begin(self, task: Task) -> None:
        self.task = task
        self.last = None
        self.outcome = self.actor.do.remote(task)
        self._heard_s = time.monotonic()
        self._longest_s = 0.0

    def asked(self) -> Iterator[Any]:
        """The pending calls: the task and, regularly, a request for its progress."""
        if self.task is None:
            return
        if self._question is None and time.monotonic() >= self._ask_s:
            self._question = self.actor.alive.remote()
        yield self.outcome
        if self._question is not None:
            yield self._question

    def answered(self) -> None:
        self._question = None
        self._ask_s = time.monotonic() + _ASK_EVERY_S

    def hear(self) -> float:
        """Record a heartbeat, and return the longest silence of the task so far, in seconds."""
        self._longest_s = max(self._longest_s, self.silent_s)
        self._heard_s = time.monotonic()
        return self._longest_s

    def end(self) -> None:
        self.task = None
        self.outcome = None
        self._question = None
        self.is_loading = False


def _import_ray() -> Any:
    try:
        import ray  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise ExtraError(f"--engine ray needs the extra 'cluster': {install_command('cluster')}") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": False}
    try:
        if address == LOCAL:
            ray.init(address="local", include_dashboard=False, **how)
        else:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()  # Ray would try for minutes
            ray.init(address=address, **how)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ArchiveError(f"--address {address}: no Ray cluster answers: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore our signal handlers, which Ray replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
