"""The results of a comparison as a table and as a chart."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from wemoe.comparison import charts, tables


def row(label, average, kind="static", objective=None, **changes):
    return {
        "label": label,
        "kind": kind,
        "objective": objective,
        "settings": {},
        "options": {},
        "accuracy": {"a": average, "b": average},
        "average": average,
        "normalised": average / 0.8,
        "parameters": 22_713_216,
        "trained_parameters": 0,
        "peak_memory": 91_200_000,
        "seconds": {"making": 1.25, "search": 30.0, "scoring": 5.0},
        "inference_cost": 1.004,
    } | changes


def results_of(**rows):
    environment = {
        "wemoe": "1.0",
        "packages": {"torch": "2.13"},
        "cpu": {"model": "A processor", "cores": 4, "threads": 2},
    }
    return {"tasks": ["a", "b"], "seed": 7, "environment": environment, "rows": rows}


RESULTS = results_of(
    pretrained=row("pre-trained", 0.5, kind="reference"),
    individual=row("individual experts", 0.8, kind="reference", parameters=136_279_296),
    ties=row("TIES", 0.6, settings={"scaling": [0.7, 1.0], "density": 0.2}, options={"scaling": 0.7, "density": 0.2}),
    wemoe_match=row(
        "WEMoE",
        0.78,
        kind="learned",
        objective="match",
        options={"steps": 50},
        trained_parameters=900_000,
        peak_memory=None,
        normalised=None,
    ),
    wemoe_entropy=row("WEMoE", 0.64, kind="learned", objective="entropy", options={"steps": 50}, trained_parameters=6),
)


def test_the_markdown_table_has_a_line_a_row_and_a_column_a_number():
    lines = tables.markdown(RESULTS).splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert table[0] == [
        "method",
        *("a", "b", "average", "normalised"),
        *("parameters", "trained", "memory, MB", "time, s", "inference"),
    ]
    assert table[1] == ["---"] + ["---:"] * 9
    assert table[4] == ["ties (scaling 0.7)", "60.0", "60.0", "60.0", "75.0", "22.7M", "0", "91", "1.2", "1.00"]
    assert table[5] == ["wemoe_match", "78.0", "78.0", "78.0", "-", "22.7M", "900.0k", "-", "1.2", "1.00"]
    assert {len(cells) for cells in table} == {10}


def test_steps_seed_and_machine_are_told():
    markdown, terminal = tables.markdown(RESULTS), tables.terminal(RESULTS)
    heading = "3 merges of 2 experts: 50 steps of adaptation, seed 7"
    assert markdown.splitlines()[0] == f"# {heading}"
    assert terminal.splitlines()[0] == heading
    assert "wemoe 1.0, torch 2.13, A processor, 2 of 4 cores." in markdown


def test_differing_steps_are_all_told():
    rows = results_of(a=row("A", 0.5, options={"steps": 50}), b=row("B", 0.5, options={"steps": 100}))
    assert "50 or 100 steps of adaptation" in tables.heading(rows)
    assert "no adaptation" in tables.heading(results_of(a=row("A", 0.5)))


def test_the_terminal_table_is_aligned_and_narrow():
    lines = tables.terminal(RESULTS).splitlines()[2:]
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["a", "b", "avg", "norm.", "params", "trained", "MB", "s", "infer."]
    assert [line.split()[0] for line in lines[1:]] == list(RESULTS["rows"])
    assert len(lines[0]) <= 80


@pytest.fixture
def drawn(monkeypatch):
    figure = Figure(layout="constrained")
    monkeypatch.setattr(charts, "Figure", lambda **options: figure)
    return figure


def test_the_chart_has_a_line_a_method_and_a_mark_an_objective(drawn, tmp_path):
    charts.plot_comparison(RESULTS, tmp_path / "comparison.png")
    (axes,) = drawn.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["TIES", "WEMoE"]
    marks = {line.get_label(): (list(line.get_xdata()), line.get_ydata()) for line in axes.lines}
    assert marks["learned, match"] == ([78.0], [1])
    assert marks["learned, entropy"] == ([64.0], [1])
    assert marks["static"] == ([60.0], [0])
    assert marks["individual experts"][0] == [80.0, 80.0]
    assert marks["pre-trained"][0] == [50.0, 50.0]
    assert [text.get_text() for text in axes.texts] == ["60.0", "78.0"]
    with Image.open(tmp_path / "comparison.png") as image:
        image.verify()


def test_references_alone_can_be_drawn(tmp_path):
    rows = {name: RESULTS["rows"][name] for name in ("pretrained", "individual")}
    charts.plot_comparison(RESULTS | {"rows": rows}, tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").exists()
