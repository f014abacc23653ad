"""Routing weights as tables and pictures: what is drawn is what was recorded."""

import json

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import wemoe
from wemoe import routing_plots
from wemoe.routing_tables import RoutingTables, layer_titles


def summary_of(layers, tasks, experts=3):
    routing = {f"task{t}": {f"blocks.{i}.mlp": [torch.randn(4, experts)] for i in range(layers)} for t in range(tasks)}
    return wemoe.summarise_routing(routing, [f"task{e}" for e in range(experts)])


@pytest.mark.parametrize(
    "plot", [wemoe.plot_routing, wemoe.plot_first_choices, wemoe.plot_routing_bars, wemoe.plot_own_choices]
)
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


def test_own_choices_are_the_shares_of_the_experts_of_the_tasks(drawn, tmp_path):
    summary = summary_of(layers=2, tasks=3)
    wemoe.plot_own_choices(summary, tmp_path / "routing.png")
    shares = [[summary.first_choice()[task, layer, task].item() for layer in range(2)] for task in range(3)]
    axes = drawn.axes[0]
    assert axes.images[0].get_array().tolist() == shares
    assert [text.get_text() for text in axes.texts] == [f"{100 * share:.0f}" for row in shares for share in row]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(summary.tasks)


def test_tasks_without_an_expert_of_their_own_have_no_share(tmp_path):
    routing = {name: {"mlp": [torch.tensor([[0.2, 0.8]])]} for name in ("known", "unknown")}
    summary = wemoe.summarise_routing(routing, ["other", "known"])
    (share,), (missing,) = summary.tables().own_choice
    assert share == 1
    assert missing != missing  # NaN
    wemoe.plot_own_choices(summary, tmp_path / "routing.png")


def test_tables_come_back_from_json():
    summary = summary_of(layers=2, tasks=3, experts=4)
    tables = RoutingTables.from_dict(json.loads(json.dumps(summary.as_dict())))
    assert (tables.tasks, tables.layers, tables.experts) == (summary.tasks, summary.layers, summary.experts)
    assert tables.samples == dict.fromkeys(summary.tasks, 4)
    assert tables.mean.tolist() == summary.mean().tolist()
    assert tables.first_choice.tolist() == summary.first_choice().tolist()


@pytest.mark.parametrize(("layers", "kept"), [(6, range(6)), (12, [0, 3, 6, 9, 11]), (24, [0, 6, 12, 18, 23])])
def test_of_many_layers_the_first_the_quarters_and_the_last_are_drawn(layers, kept):
    tables = summary_of(layers, tasks=2).tables()
    some = tables.some_layers()
    assert some.layers == tuple(f"blocks.{layer}.mlp" for layer in kept)
    assert some.mean.tolist() == tables.mean[:, list(kept)].tolist()
    assert some.own_choice.tolist() == tables.own_choice[:, list(kept)].tolist()


@pytest.mark.parametrize("table", ["mean", "first_choice"])
def test_tables_with_a_gap_are_refused(table):
    tables = summary_of(layers=2, tasks=3).as_dict()
    del tables[table]["task1"]["blocks.1.mlp"]
    with pytest.raises(ValueError, match=f"same layers and experts for every task; found others in '{table}'"):
        RoutingTables.from_dict(tables)


@pytest.mark.parametrize("plot", [wemoe.plot_routing_bars, wemoe.plot_own_choices])
def test_tables_are_drawn_as_summaries_are(plot, tmp_path):
    summary = summary_of(layers=2, tasks=3)
    plot(summary, tmp_path / "summary.png")
    plot(RoutingTables.from_dict(summary.as_dict()), tmp_path / "tables.png")
    assert (tmp_path / "summary.png").read_bytes() == (tmp_path / "tables.png").read_bytes()


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
    assert layer_titles(paths) == titles


def is_picture(path):
    with Image.open(path) as image:
        image.verify()
        return image.format == "PNG"


@pytest.fixture
def drawn(monkeypatch):
    """The figure that a plot draws."""
    figure = Figure()
    monkeypatch.setattr(routing_plots, "Figure", lambda **options: figure)
    return figure
