"""Times methods in turn, round by round, so that what disturbs one of them disturbs them all."""

from collections.abc import Callable, Collection, Mapping
from time import perf_counter

SECONDS = 10.0  # for the judged methods together
OTHER_SECONDS = 2.0  # for each of the others, which are there to be seen, not judged
LEAST_ROUNDS, MOST_ROUNDS = 5, 50
LEAST_OTHER_ROUNDS = 3


def seconds_of(function: Callable[[], object]) -> float:
    """The time of one call, by the processor's clock."""
    start = perf_counter()
    function()
    return perf_counter() - start


def time_in_turn(
    methods: Mapping[str, Callable[[], object]],
    judged: Collection[str],
    clock: Callable[[Callable[[], object]], float] = seconds_of,
) -> dict[str, list[float]]:
    """Returns the seconds of every round by method; the methods that are not judged may have fewer rounds."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and sum(sum(times[name]) for name in judged) >= SECONDS:
            break
        for name, function in methods.items():
            if name in judged or done < LEAST_OTHER_ROUNDS or sum(times[name]) < OTHER_SECONDS:
                times[name].append(clock(function))
    return times
