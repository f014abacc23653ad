"""Corruptions and unseen tasks as tables and charts."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from wemoe.off_distribution import charts, collapse_table, corruption_table, unseen_table


def row(a, b, collapsed=()):
    """A row's record on two tasks of 20 samples; what it has wrong in `b` goes to the last of three classes."""
    right = round(20 * b)
    return {
        "accuracy": {"a": a, "b": b},
        "average": (a + b) / 2,
        "predictions": {"a": [10, 10], "b": [right, 0, 20 - right]},
        "collapsed": list(collapsed),
    }


def rows(**changes):
    return {
        "reference": "ties",
        "rows": {"pretrained": row(0.5, 0.5), "ties": row(0.8, 0.7), "wemoe_entropy": row(0.9, 0.9)} | changes,
    }


CORRUPTIONS = {
    "severity": 2,
    "tasks": ["a", "b"],
    "settings": {"pretrained": {}, "ties": {}, "wemoe_entropy": {}},
    "labels": {"a": [10, 10], "b": [8, 6, 6]},
    "threshold": 0.03,
    "collapses": {"pretrained": 0, "ties": 0, "wemoe_entropy": 2},
    "corruptions": {
        "clean": rows(),
        "contrast": rows(wemoe_entropy=row(0.9, 0.1, ["b"])),
        "impulse_noise": rows(wemoe_entropy=row(0.9, 0.2, ["b"])),
    },
}


def seen(**means):
    return {"seen_mean": means["seen"], "unseen_mean": means["unseen"]}


UNSEEN = {
    "pairs": [
        {"unseen": ["a", "b"], "rows": {"pretrained": seen(seen=0.5, unseen=0.4), "ties": seen(seen=0.8, unseen=0.3)}},
        {"unseen": ["c", "d"], "rows": {"pretrained": seen(seen=0.6, unseen=0.2), "ties": seen(seen=0.9, unseen=0.1)}},
    ],
    "mean": {"pretrained": {"seen": 0.55, "unseen": 0.3}, "ties": {"seen": 0.85, "unseen": 0.2}},
}


def cells(table):
    return [line.split() for line in table.splitlines()]


def test_the_table_of_corruptions_has_a_line_a_row_and_a_column_a_corruption():
    assert cells(corruption_table(CORRUPTIONS)) == [
        ["accuracy,", "%", "clean", "contrast", "impulse_noise", "collapses"],
        ["pretrained", "50.0", "50.0", "50.0", "0"],
        ["ties", "75.0", "75.0", "75.0", "0"],
        ["wemoe_entropy", "90.0", "50.0", "55.0", "2"],
    ]


def test_the_table_of_collapses_tells_where_the_predictions_went():
    assert cells(collapse_table(CORRUPTIONS)) == [
        ["corruption", "row", "task", "static", "accuracy", "most", "predicted", "share", "real"],
        ["contrast", "wemoe_entropy", "b", "70.0", "10.0", "2", "of", "3", "90.0", "40.0"],
        ["impulse_noise", "wemoe_entropy", "b", "70.0", "20.0", "2", "of", "3", "80.0", "40.0"],
    ]
    assert collapse_table(CORRUPTIONS | {"corruptions": {"clean": rows()}}) == "no task collapsed"


def test_the_table_of_unseen_tasks_has_means_and_a_column_a_pair():
    assert cells(unseen_table(UNSEEN)) == [
        ["accuracy,", "%", "seen", "unseen", "a+b", "c+d"],
        ["pretrained", "55.0", "30.0", "40.0", "20.0"],
        ["ties", "85.0", "20.0", "30.0", "10.0"],
    ]


@pytest.fixture
def drawn(monkeypatch):
    figure = Figure(layout="constrained")
    monkeypatch.setattr(charts, "Figure", lambda **options: figure)
    return figure


def test_the_chart_of_corruptions_has_a_line_a_row(drawn, tmp_path):
    charts.plot_corruptions(CORRUPTIONS, tmp_path / "chart.png")
    (axes,) = drawn.axes
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {
        "pre-trained (0)": [50, 50, 50],
        "TIES (0)": [75, 75, 75],
        "WEMoE, entropy (2)": [90, 50, pytest.approx(55)],
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["clean", "contrast", "impulse\nnoise"]
    assert "severity 2" in axes.get_title()
    assert "3 points below the best static merge" in axes.get_title()
    with Image.open(tmp_path / "chart.png") as image:
        image.verify()


def test_the_worst_corruption_has_most_collapses_then_the_lowest_accuracy():
    assert charts.worst_corruption(CORRUPTIONS) == "contrast"
    more = {"impulse_noise": rows(ties=row(0.8, 0.7, ["a", "b"]))}
    assert charts.worst_corruption({"corruptions": CORRUPTIONS["corruptions"] | more}) == "impulse_noise"
    assert charts.worst_corruption({"corruptions": {"clean": rows()}}) == "clean"


def test_the_grid_of_predictions_has_a_panel_a_task_and_row_and_marks_collapses(drawn, tmp_path):
    charts.plot_predictions(CORRUPTIONS, tmp_path / "grid.png")
    panels = drawn.axes
    assert len(panels) == 2 * 3
    collapsed, reference = panels[5], panels[4]
    assert [bar.get_height() for bar in collapsed.containers[0]] == [2, 0, 18]
    assert [bar.get_height() for bar in reference.containers[0]] == [14, 0, 6]
    colors = [panel.containers[0][0].get_facecolor() for panel in panels]
    assert colors.count(colors[0]) == 5
    assert colors[5] != colors[0]
    (real,) = [artist for artist in collapsed.patches if not hasattr(artist, "get_height")]
    assert list(real.get_data().values) == [8, 6, 6]
    assert [panel.get_title() for panel in panels] == ["50 %", "80 %", "90 %", "50 %", "70 %", "10 %"]
    assert drawn.get_suptitle().startswith("contrast:")


def test_the_chart_of_unseen_tasks_has_two_panels_with_every_pair_and_the_mean(drawn, tmp_path):
    charts.plot_unseen(UNSEEN, tmp_path / "unseen.png")
    merged, others = drawn.axes
    assert [text.get_text() for text in merged.texts] == ["55.0", "85.0"]
    assert [text.get_text() for text in others.texts] == ["30.0", "20.0"]
    pairs, mean = others.lines[2:4]
    assert list(pairs.get_xdata()) == [30, 10]
    assert list(mean.get_xdata()) == [20]
    assert [label.get_text() for label in merged.get_yticklabels()] == ["pre-trained", "TIES"]
    with Image.open(tmp_path / "unseen.png") as image:
        image.verify()
