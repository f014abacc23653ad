"""Results are told without being changed."""

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import wemoe
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


def summary_of(layers, tasks, experts=3):
    routing = {f"task{t}": {f"blocks.{i}.mlp": [torch.randn(4, experts)] for i in range(layers)} for t in range(tasks)}
    return wemoe.summarise_routing(routing, [f"task{e}" for e in range(experts)])


@pytest.mark.parametrize("plot", [wemoe.plot_routing, wemoe.plot_first_choices, wemoe.plot_routing_bars])
@pytest.mark.parametrize(("layers", "tasks", "experts"), [(1, 1, 1), (4, 3, 3), (5, 1, 3), (2, 3, 12)])
def test_routing_is_drawn_for_any_number_of_layers_tasks_and_experts(plot, layers, tasks, experts, tmp_path):
    plot(summary_of(layers, tasks, experts), tmp_path / "routing.png")
    assert is_picture(tmp_path / "routing.png")
    assert [path.name for path in tmp_path.iterdir()] == ["routing.png"]  # nothing temporary is left


def test_the_heat_maps_show_the_means_a_panel_for_each_layer(drawn, tmp_path):
    summary = summary_of(layers=2, tasks=3)
    wemoe.plot_routing(summary, tmp_path / "routing.png", data="image")
    panels = drawn.axes[:2]
    assert [axes.get_title() for axes in panels] == ["layer 1", "layer 2"]
    for axes, means in zip(panels, summary.mean().swapaxes(0, 1), strict=True):
        assert axes.images[0].get_array().tolist() == means.tolist()
    assert drawn.get_supylabel() == "task of the image"


def test_first_choices_are_shares_between_none_and_all(drawn, tmp_path):
    summary = summary_of(layers=2, tasks=3)
    wemoe.plot_first_choices(summary, tmp_path / "routing.png")
    image = drawn.axes[1].images[0]
    assert image.get_array().tolist() == summary.first_choice()[:, 1].tolist()
    assert image.get_clim() == (0, 1)


def test_bars_have_a_row_of_panels_a_layer_and_one_scale(drawn, tmp_path):
    summary = summary_of(layers=2, tasks=3)
    wemoe.plot_routing_bars(summary, tmp_path / "routing.png")
    assert len(drawn.axes) == 6
    for axes, means in zip(drawn.axes, summary.mean().swapaxes(0, 1).flatten(0, 1), strict=True):
        assert [bar.get_height() for bar in axes.patches] == pytest.approx(means.tolist())
    assert len({axes.get_ylim() for axes in drawn.axes}) == 1


@pytest.mark.parametrize(
    ("paths", "titles"),
    [
        (["encoder.0.mlp", "encoder.1.mlp"], ["layer 1", "layer 2"]),
        (["encoder.block.0.layer.1", "decoder.block.0.layer.2"], ["encoder.1", "decoder.2"]),
        (["first.mlp", "mlp"], ["first.mlp", "mlp"]),
        (["mlp"], ["mlp"]),
    ],
)
def test_layers_are_called_by_what_tells_them_apart(paths, titles):
    assert report.layer_titles(paths) == titles


def test_accuracy_is_drawn(tmp_path):
    report.plot_accuracy(results_of(pretrained=0.5), tmp_path / "accuracy.png")
    assert is_picture(tmp_path / "accuracy.png")


def is_picture(path):
    with Image.open(path) as image:
        image.verify()
        return image.format == "PNG"


@pytest.fixture
def drawn(monkeypatch):
    """The figure that a plot draws."""
    figure = Figure()
    monkeypatch.setattr(report, "Figure", lambda **options: figure)
    return figure
