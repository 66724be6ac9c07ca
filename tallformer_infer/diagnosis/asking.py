"""Questions asked in a process of their own.

Note [a crash takes only its answer]
    A driver that does not fit its kernel module, or TensorRT without a driver, ends the process that touches it, and
    no `except` helps. So whatever loads native code is asked in a child: its death is one more answer. The child also
    finds the modules on the path that it is given, and leaves what libraries print out of the answer.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tallformer_infer.errors import TallformerError

_CHILD = (
    "import json, sys; question = json.loads(sys.argv[1]); sys.path[:] = question['path']; "
    "from tallformer_infer.diagnosis.asking import reply; reply(question)"
)
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back; exactly one of `facts` and `problem` is there."""

    facts: dict[str, Any] | None = None
    """What the function returned."""
    problem: str | None = None
    """Why there are no facts, in one line."""
    error: str | None = None
    """Name of the exception that the function raised, if it lived to."""
    missing_module: str | None = None
    """Module that is not installed, where that is the problem."""
    log: str = ""
    """What was printed meanwhile, by libraries too."""


def ask(
    module: str, function: str, *arguments: str, path: Sequence[str] | None = None, timeout_s: float = 60.0
) -> Answer:
    """Call a function in a fresh process, see Note [a crash takes only its answer].

    Args:
        module: Where the function is; imported only there.
        function: Its name. Returns a dict that JSON can hold.
        arguments: Passed to it.
        path: Where modules are looked for; None: where this process does.
        timeout_s: After which the process is killed.
    """
    question = {"module": module, "function": function, "arguments": arguments, "path": list(path or sys.path)}
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD, json.dumps(question)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(problem=f"gave no answer within {timeout_s:g} s")
    except OSError as error:
        return Answer(problem=f"{sys.executable}: cannot be started: {error.strerror}")
    log = child.stderr.decode(errors="replace")
    try:
        return Answer(**json.loads(child.stdout), log=log)
    except (ValueError, TypeError):
        return Answer(problem=f"{_death(child.returncode)}{_last_words(log)}", log=log)


def reply(question: dict[str, Any]) -> None:
    """In the child: answer on what was stdout, and end at once."""
    channel = os.dup(1)
    os.dup2(2, 1)  # what libraries print goes to the log
    try:
        function = getattr(importlib.import_module(question["module"]), question["function"])
        answer = {"facts": function(*question["arguments"])}
    except Exception as error:
        answer = _describe(error)
    with os.fdopen(channel, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    sys.stderr.flush()
    os._exit(0)  # libraries that crash when they are taken down have answered by now


def _describe(error: Exception) -> dict[str, Any]:
    first = next(iter(str(error).splitlines()), "")
    name = type(error).__name__
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    problem = first if isinstance(error, TallformerError) and first else f"{name}: {first}".removesuffix(": ")
    return {"problem": problem, "error": name, "missing_module": missing}


def _death(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} and no answer"
    try:
        return f"crashed ({signal.Signals(-code).name})"
    except ValueError:
        return f"crashed (signal {-code})"


def _last_words(log: str) -> str:
    lines = [line.strip() for line in _COLOURS.sub("", log).splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ""
