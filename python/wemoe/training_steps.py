"""The steps of a training run: computed, taken, logged and saved, until they are done or someone interrupts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from contextlib import ExitStack

from tqdm.auto import tqdm

from wemoe.training_state import Computed, RunSettings, TrainingState


def check_numbers(settings: RunSettings, checkpoint_every: int) -> None:
    """Check the numbers that all runs have.

    Raises:
        ValueError: one is out of its range.
    """
    if settings.steps < 1:
        raise ValueError(f"steps must be at least 1; found {settings.steps}")
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be at least 1; found {checkpoint_every}")
    if not (math.isfinite(settings.learning_rate) and settings.learning_rate > 0):
        raise ValueError(f"learning_rate must be positive and finite; found {settings.learning_rate}")


def take_steps(
    state: TrainingState[Computed],
    compute: Callable[[], Computed],
    *,
    title: str,
    progress: bool,
    log: str | os.PathLike[str] | None,
    checkpoint: str | os.PathLike[str] | None,
    checkpoint_every: int,
) -> None:
    """Take the steps that are left, from the random state that was noted last.

    Args:
        state: of the run.
        compute: what a step needs; an interrupt in it leaves the state as it was before the step, and saves it.
        title: of the progress bar.
        progress: whether to show one.
        log: file that gains one JSON line per step.
        checkpoint: file to save to.
        checkpoint_every: steps between two saves; the last step saves as well.
    """
    start, steps = len(state.history), state.settings.steps
    state.restore_random_state()
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=steps, initial=start, desc=title, disable=not progress))
        sink = stack.enter_context(open(log, "a", encoding="utf-8")) if log is not None else None
        for step in range(start, steps):
            state.remember_random_state()
            try:
                computed = compute()
            except KeyboardInterrupt:
                state.save(checkpoint)
                raise
            record = state.advance(computed)
            if sink is not None:
                print(json.dumps(record), file=sink, flush=True)
            if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
                state.remember_random_state()
                state.save(checkpoint)
            bar.set_postfix(loss=f"{record['loss']:.4f}", refresh=False)
            bar.update()
