"""benchmarks/pareto_summary.py: hypervolumes by hand, differences paired by pair and seed, intervals over pairs."""

import json
import runpy
from pathlib import Path

import pytest

from wemoe.pareto.fronts import Front, Point

SUMMARY = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "pareto_summary.py"))
TASKS = ("a", "b")
BASE = (2.0, 4.0)  # losses of the pre-trained model


def front(label, rows, preferences=None):
    """Rows of (losses, accuracies)."""
    points = [
        Point(preference, dict(zip(TASKS, losses, strict=True)), dict(zip(TASKS, accuracies, strict=True)))
        for (losses, accuracies), preference in zip(rows, preferences or [None] * len(rows), strict=True)
    ]
    return Front(label, TASKS, tuple(points))


GRID = [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]


def curve(label, best):
    """Three points from the base's loss of one task to that of the other; `best` is the middle, in shares."""
    shares = [(1.0, 0.25), (best, best), (0.25, 1.0)]
    return front(label, [((2 * a, 4 * b), (1 - a / 2, 1 - b / 2)) for a, b in shares], GRID)


def result(pair=TASKS, seed=0, gain=0.25, seconds=10.0):
    fronts = [
        front("pre-trained", [(BASE, (0.5, 0.5))]),
        front("individual models", [((0.5, 5.0), (0.9, 0.4)), ((3.0, 1.0), (0.3, 0.8))], GRID[::2][::-1]),
        curve("task arithmetic", 0.75),
        front(
            "coefficient grid",
            [((2.0, 4.0), (0.5, 0.5)), ((1.0, 4.0), (0.7, 0.7)), ((1.0, 2.0), (0.8, 0.6)), ((9.0, 9.0), (0.6, 0.65))],
        ),
        curve("pwemoe-ls", 0.75 - gain),
        curve("pwemoe-epo", 0.75),
    ]
    return {
        "pair": list(pair),
        "seed": seed,
        "recipe": {"steps": 3, "coefficients": [0.25, 0.5]},
        "environment": {},
        "scaling": 1.25,
        "training": {"ls": {"seconds": seconds, "fallbacks": {}}, "epo": {"seconds": 2.0, "fallbacks": {"x": 1}}},
        "fronts": [found.as_dict() for found in fronts],
    }


def test_hypervolumes_of_losses_are_in_shares_of_the_pretrained_models():
    volumes = SUMMARY["row"](result())["hypervolumes"]
    # only the middle is better than the base in both: (1 - share)^2
    assert volumes["losses from the base"]["pwemoe-ls"] == pytest.approx(0.5**2)
    assert volumes["losses from the base"]["task arithmetic"] == pytest.approx(0.25**2)
    assert volumes["losses from the base"]["coefficient grid"] == pytest.approx(0.5**2)
    # the worst: losses 3 and 5, shares 1.5 and 1.25; the boxes of the three points overlap
    expected = 0.5 * 1.0 + (1.0 - 0.5) * 0.75 + (1.25 - 1.0) * 0.25
    assert volumes["losses"]["pwemoe-ls"] == pytest.approx(expected)


def test_hypervolumes_of_accuracies_count_from_0_and_from_the_pretrained_model():
    volumes = SUMMARY["row"](result())["hypervolumes"]
    # of the two points, 0.7 twice and 0.8 with 0.6, the second adds a strip of 0.1
    assert volumes["accuracies"]["coefficient grid"] == pytest.approx(0.7 * 0.7 + 0.1 * 0.6)
    assert volumes["accuracies from the base"]["coefficient grid"] == pytest.approx(0.2 * 0.2 + 0.1 * 0.1)


def test_a_row_tells_the_gap_the_control_and_the_middle():
    row = SUMMARY["row"](result())
    # experts 0.9 and 0.8; the average (0.5 and 0.5, last of the grid) 0.6 and 0.65; task arithmetic at equal weights
    # 0.625; of the grid, the third has least losses, and 0.8 and 0.6
    assert row["gaps"] == {"average": pytest.approx(22.5), "best": pytest.approx(15.0)}
    assert row["equal weights"]["pwemoe-ls"] == pytest.approx(75.0)
    assert row["control"]["pwemoe-ls"] == {"losses": pytest.approx(1.0), "accuracies": pytest.approx(1.0)}
    assert row["fallbacks"] == {"x": 1}


def test_differences_are_paired_and_their_mean_is_over_all_pairs_and_seeds():
    results = [result(("a", "b"), seed, gain) for seed, gain in ((0, 0.25), (1, 0.0))]
    summary = SUMMARY["summarise"](results)
    found = summary["differences"]["losses from the base: pwemoe-ls - task arithmetic"]
    assert found["mean"] == pytest.approx((0.5**2 - 0.25**2) / 2)
    assert (found["above 0"], found["of"]) == (1, 2)
    assert summary["differences"]["losses: pwemoe-epo - task arithmetic"]["mean"] == pytest.approx(0.0)
    assert summary["longest training"] == {"pwemoe-ls": 10.0, "pwemoe-epo": 2.0}


def test_an_interval_of_equal_differences_is_that_difference():
    low, high = SUMMARY["interval"]({"x": [0.5, 0.5], "y": [0.5, 0.5]}, draws=50)
    assert (low, high) == (0.5, 0.5)


def test_pairs_are_drawn_whole():
    # ten seeds of each of two pairs that disagree: seeds alone would give a narrow interval about 0
    low, high = SUMMARY["interval"]({"x": [1.0] * 10, "y": [-1.0] * 10}, draws=400)
    assert (low, high) == (-1.0, 1.0)


def test_an_interval_is_the_same_every_time_and_narrows_with_agreement():
    spread = {f"pair {index}": [0.1 * index, 0.1 * index + 0.05] for index in range(6)}
    assert SUMMARY["interval"](spread, draws=200) == SUMMARY["interval"](spread, draws=200)
    low, high = SUMMARY["interval"](spread, draws=2000)
    # the mean is 0.275; pairs have a standard deviation of 0.17, their mean of six 0.07, and 1.96 times that is 0.14
    assert low == pytest.approx(0.275 - 0.14, abs=0.03)
    assert high == pytest.approx(0.275 + 0.14, abs=0.03)


def test_the_summary_is_written_as_json_and_as_tables(tmp_path):
    SUMMARY["write_summary"](tmp_path, [result(seed=0), result(seed=1)])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [row["seed"] for row in summary["rows"]] == [0, 1]
    lines = (tmp_path / "summary.md").read_text().splitlines()
    (line,) = [
        line for line in lines if line.startswith("| validation losses, up to the pre-trained") and "ls - task" in line
    ]
    assert line.endswith("| pwemoe-ls - task arithmetic | +0.1875 | +0.1875 to +0.1875 | 2 of 2 |")
    widths = {line.count("|") for line in lines if line.startswith("| a+b")}
    assert widths == {14}
