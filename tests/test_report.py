"""The quick start's results are told without being changed."""

import pytest
from PIL import Image

from wemoe import report


def results_of(**averages):
    methods = {name: {"accuracy": {"a": value, "b": value}, "average": value} for name, value in averages.items()}
    return {"tasks": ["a", "b"], "methods": methods}


def test_gap_closed_counts_from_the_better_static_merge():
    methods = results_of(individual=0.8, average=0.6, task_arithmetic=0.7, wemoe=0.78, wemoe_depth0=0.65)["methods"]
    assert report.gap_closed(methods) == pytest.approx({"wemoe": 0.8, "wemoe_depth0": -0.5})


def test_there_is_no_share_of_no_gap():
    methods = results_of(individual=0.7, average=0.6, task_arithmetic=0.7, wemoe=0.78)["methods"]
    assert report.gap_closed(methods) is None


def test_the_table_has_a_line_a_method_and_a_column_a_task():
    lines = report.format_table(results_of(pretrained=0.5, wemoe=0.75)).splitlines()
    assert [line.split() for line in lines] == [
        ["accuracy,", "%", "a", "b", "average"],
        ["pre-trained", "50.0", "50.0", "50.0"],
        ["WEMoE", "75.0", "75.0", "75.0"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_accuracy_is_drawn(tmp_path):
    report.plot_accuracy(results_of(pretrained=0.5), tmp_path / "accuracy.png")
    with Image.open(tmp_path / "accuracy.png") as image:
        image.verify()
