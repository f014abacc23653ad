"""Charts of fronts: what is drawn of two tasks and of more."""

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from wemoe.pareto import charts
from wemoe.pareto.fronts import Front, Point

PAIR = ("movies", "icd")


def front(label, *points, tasks=PAIR):
    """Points are (preference, losses, accuracies)."""
    return Front(
        label,
        tasks,
        tuple(
            Point(preference, dict(zip(tasks, losses, strict=True)), dict(zip(tasks, accuracies, strict=True)))
            for preference, losses, accuracies in points
        ),
    )


STEERED = front(
    "PWEMoE",
    ((0.0, 1.0), (0.9, 0.4), (0.6, 0.8)),
    ((0.5, 0.5), (0.5, 0.5), (0.7, 0.75)),
    ((1.0, 0.0), (0.3, 0.8), (0.75, 0.5)),
)
STATIC = front("task arithmetic", ((0.0, 1.0), (1.0, 0.6), (0.5, 0.7)), ((1.0, 0.0), (0.6, 0.9), (0.7, 0.4)))
INDIVIDUAL = front("individual models", (None, (0.3, 4.0), (0.8, 0.2)), (None, (3.0, 0.4), (0.5, 0.85)))
THREE = front(
    "PWEMoE",
    ((0.0, 0.0, 1.0), (0.9, 0.9, 0.4), (0.5, 0.6, 0.8)),
    ((0.2, 0.8, 0.0), (0.7, 0.5, 0.9), (0.6, 0.7, 0.5)),
    tasks=("a", "b", "c"),
)


@pytest.fixture
def drawn(monkeypatch):
    figure = Figure(layout="constrained")
    monkeypatch.setattr(charts, "Figure", lambda **options: figure)
    return figure


def places(line):
    return [pytest.approx(pair) for pair in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_two_tasks_are_drawn_as_losses_and_accuracies(drawn, tmp_path):
    charts.plot_front([STEERED, STATIC, INDIVIDUAL], tmp_path / "front.png")
    losses, accuracies, bar = drawn.axes
    assert [(axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) for axes in (losses, accuracies)] == [
        ("validation loss", *PAIR),
        ("test accuracy, %", *PAIR),
    ]
    assert [line.get_label() for line in losses.lines] == ["PWEMoE", "task arithmetic", "individual models"]
    assert places(losses.lines[0]) == [(0.9, 0.4), (0.5, 0.5), (0.3, 0.8)]
    assert places(accuracies.lines[0]) == [(60, 80), (70, 75), (75, 50)]
    assert places(accuracies.lines[2]) == [(80, 20), (50, 85)]
    assert [line.get_linestyle() for line in losses.lines] == ["-", "-", "None"]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [line.get_label() for line in losses.lines]
    assert bar.get_ylabel() == "preference for movies"
    with Image.open(tmp_path / "front.png") as image:
        image.verify()


def test_a_mark_has_the_colour_of_its_preference(drawn, tmp_path):
    charts.plot_front([STEERED, STATIC], tmp_path / "front.png")
    for axes in drawn.axes[:2]:
        steered, static = ([to_hex(color) for color in marks.get_facecolors()] for marks in axes.collections)
        assert len(set(steered)) == 3
        assert static == [steered[0], steered[2]]  # the same preferences, one colour bar for all
        assert [marks.get_array().tolist() for marks in axes.collections] == [[0.0, 0.5, 1.0], [0.0, 1.0]]
        lines = {to_hex(line.get_color()) for line in axes.lines}
        assert len(lines) == 2


@pytest.mark.parametrize(("loss", "scale"), [(0.2, "log"), (0.0, "linear")])
def test_losses_are_logarithmic_where_they_can_be(loss, scale, drawn, tmp_path):
    charts.plot_front([STEERED, front("best", (None, (loss, 0.3), (0.9, 0.9)))], tmp_path / "front.png")
    assert [axes.get_xscale() for axes in drawn.axes[:2]] == [scale, "linear"]
    assert [axes.get_yscale() for axes in drawn.axes[:2]] == [scale, "linear"]


def test_models_without_preferences_need_no_colour_bar(drawn, tmp_path):
    charts.plot_front([INDIVIDUAL], tmp_path / "front.png")
    assert len(drawn.axes) == 2
    assert not any(axes.collections for axes in drawn.axes)


def test_more_than_two_tasks_are_a_heat_map_of_the_first_front(drawn, tmp_path):
    charts.plot_front(
        [THREE, front("base", (None, (1, 1, 1), (0.1, 0.1, 0.1)), tasks=THREE.tasks)], tmp_path / "front.png"
    )
    preference, accuracy = drawn.axes[:2]
    assert [axes.get_title() for axes in (preference, accuracy)] == ["preference", "test accuracy, %"]
    for axes, table, texts in (
        (preference, [[0, 0, 1], [0.2, 0.8, 0]], ["0.00", "0.00", "1.00", "0.20", "0.80", "0.00"]),
        (accuracy, [[50, 60, 80], [60, 70, 50]], ["50", "60", "80", "60", "70", "50"]),
    ):
        assert axes.images[0].get_array().tolist() == [pytest.approx(row) for row in table]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
        assert [text.get_text() for text in axes.texts] == texts
    with Image.open(tmp_path / "front.png") as image:
        image.verify()


def test_a_long_heat_map_is_without_figures(drawn, tmp_path):
    charts.plot_accuracies(Front("PWEMoE", THREE.tasks, 20 * THREE.points), tmp_path / "front.png")
    assert [len(axes.texts) for axes in drawn.axes[:2]] == [0, 0]
    assert drawn.axes[1].images[0].get_array().shape == (40, 3)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: charts.plot_front([], path), r"fronts must be of the same tasks; found \[\]"),
        (lambda path: charts.plot_front([STEERED, THREE], path), "fronts must be of the same tasks; found .*'a', 'b'"),
        (lambda path: charts.plot_front([STEERED, Front("none", PAIR, ())], path), "front 'none' must have points"),
        (lambda path: charts.plot_two_tasks([THREE], path), r"fronts must be of two tasks; found \['a', 'b', 'c'\]"),
        (lambda path: charts.plot_accuracies(INDIVIDUAL, path), "every point of front .* must have a preference"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "front.png")
    assert not (tmp_path / "front.png").exists()
