"""Running what is checked, one stage after the other: a stage that fails stops no other."""

import subprocess
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_check.files import ROOT

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"


@dataclass
class Outcome:
    """What came of a stage: one line, and whatever the report shows or keeps of it."""

    status: str
    summary: str
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class NotRunError(Exception):
    """A stage has nothing to run; says why."""


def run_stage(function: Callable[[], Outcome]) -> Outcome:
    """The outcome of a stage; an error that it raises is one too."""
    start = time.perf_counter()
    try:
        outcome = function()
    except NotRunError as reason:
        outcome = Outcome(NOT_RUN, str(reason))
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        outcome = Outcome(FAILED, lines[0], {"error": traceback.format_exc()})
    outcome.seconds = time.perf_counter() - start
    return outcome


def run_command(
    command: list[str], log: Path, environment: Mapping[str, str], limit: float
) -> subprocess.CompletedProcess[str]:
    """Runs a command in the project's root, keeps what it says in a file, and ends it after a limit of seconds.

    Raises:
        RuntimeError: It took too long.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        try:
            finished = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{command[0]} took more than {limit:.0f} s; see {log}") from None
    finished.stdout = log.read_text(errors="replace")
    return finished


def last_lines(text: str, count: int = 15) -> str:
    """The end of what a command said."""
    return "\n".join(text.strip().splitlines()[-count:])
