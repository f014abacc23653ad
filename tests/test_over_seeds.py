"""`wemoe evaluate` without a model: all methods over seeds, their means and spreads, and the experiments beside."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from tiny_images import tiny_image_suite, two_image_tasks
from tiny_suite import tiny_suite
from wemoe.cli import app
from wemoe.comparison import CompareSettings, charts
from wemoe.comparison import running as comparing
from wemoe.merge_config import parse_config
from wemoe.off_distribution import robustness
from wemoe.over_seeds import evaluate_suite, experiments, running, summarise, tables
from wemoe.over_seeds.chart import plot_summary
from wemoe.over_seeds.experiments import chosen_experiments
from wemoe.over_seeds.summary import mean_and_spread

ROWS = ["average", "dare_linear", "wemoe_depth0_match"]


@pytest.fixture(scope="module", autouse=True)
def uncollected():
    """Collecting garbage before each row, for the sake of its memory, takes longer than a tiny row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "gc", SimpleNamespace(collect=lambda: None))
        yield


@pytest.fixture
def loaded(monkeypatch):
    """The configurations that a suite was loaded for; the suite is that of two tiny image tasks."""
    configurations = []

    def load(config, device, watch):
        configurations.append(config)
        return two_image_tasks()

    monkeypatch.setattr(running, "load_suite", load)
    return configurations


def config(**changes):
    return parse_config({"suite": "vision8", "steps": 1, "methods": ROWS} | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "load_suite", lambda config, device, watch: two_image_tasks())
        results = evaluate_suite(config(), folder, experiments=[])
    return folder, results


# --- means and spreads ----------------------------------------------------------------------------------------------


def test_the_spread_is_the_sample_standard_deviation():
    assert mean_and_spread([0.5, 0.7, 0.9]) == {"mean": pytest.approx(0.7), "spread": pytest.approx(0.2)}
    assert mean_and_spread([0.5, 0.7]) == {"mean": pytest.approx(0.6), "spread": pytest.approx(0.02**0.5)}
    assert mean_and_spread([0.5]) == {"mean": 0.5, "spread": None}
    assert mean_and_spread([0.5, None]) == {"mean": None, "spread": None}


def modes(per_sample, averaged, changed):
    return {
        "per_sample": {"single": {"a": per_sample, "b": 0.5}, "mixed": {"a": per_sample, "b": 0.5}},
        "batch_averaged": {"single": {"a": 0.9, "b": 0.7}, "mixed": {"a": averaged, "b": 0.1}},
        "changed": {"per_sample": 0, "batch_averaged": changed},
        "samples": 40,
    }


def comparison(accuracy, normalised, **routed):
    row = {"label": "WEMoE", "kind": "learned", "objective": "match", "normalised": normalised}
    row |= {"accuracy": {"a": accuracy, "b": 0.4}, "average": (accuracy + 0.4) / 2, "modes": routed.get("modes")}
    return {"rows": {"wemoe_match": row}}


def test_every_number_is_summarised_over_seeds():
    (row,) = summarise([comparison(0.5, 0.8), comparison(0.7, 0.9), comparison(0.9, 1.0)]).values()
    assert row == {
        "label": "WEMoE",
        "kind": "learned",
        "objective": "match",
        "mean": pytest.approx(0.55),
        "spread": pytest.approx(0.1),
        "normalised": {"mean": pytest.approx(0.9), "spread": pytest.approx(0.1)},
        "accuracy": {
            "a": {"mean": pytest.approx(0.7), "spread": pytest.approx(0.2)},
            "b": {"mean": pytest.approx(0.4), "spread": pytest.approx(0.0)},
        },
        "modes": None,
    }


def test_modes_are_averaged_over_tasks_and_then_over_seeds():
    found = [comparison(0.5, 0.8, modes=modes(*seed)) for seed in ((0.5, 0.1, 3), (0.7, 0.3, 4), (0.9, 0.5, 8))]
    assert summarise(found)["wemoe_match"]["modes"] == {
        "per_sample": {key: {"mean": pytest.approx(0.6), "spread": pytest.approx(0.1)} for key in ("single", "mixed")},
        "batch_averaged": {
            "single": {"mean": pytest.approx(0.8), "spread": pytest.approx(0.0)},
            "mixed": {"mean": pytest.approx(0.2), "spread": pytest.approx(0.1)},
        },
        "changed": {"per_sample": 0, "batch_averaged": 5},
        "samples": 40,
    }


# --- the run --------------------------------------------------------------------------------------------------------


def test_each_seed_is_a_comparison_and_their_means_are_written(finished):
    folder, results = finished
    assert json.loads((folder / "evaluation.json").read_text()) == results
    assert results["seeds"] == [0, 1, 2]
    assert (results["suite"], results["tasks"], results["steps"]) == ("vision8", ["hues", "bars"], 1)
    assert results["environment"]["wemoe"]
    assert results["runs"] == {str(seed): f"seed-{seed}/comparison.json" for seed in range(3)}
    runs = [json.loads((folder / path).read_text()) for path in results["runs"].values()]
    assert [run["seed"] for run in runs] == [0, 1, 2]
    assert results["rows"] == summarise(runs)
    assert list(results["rows"]) == ["pretrained", "individual", *ROWS]
    assert results["rows"]["wemoe_depth0_match"]["modes"]["samples"] == 2 * len(
        two_image_tasks().tasks["hues"].test.labels
    )
    assert results["rows"]["average"]["modes"] is None


def test_what_is_written_can_be_opened(finished):
    folder, results = finished
    assert {path.name for path in folder.iterdir()} == {
        *("evaluation.json", "evaluation.md", "evaluation.png", "report.html"),
        *("seed-0", "seed-1", "seed-2"),
    }
    with Image.open(folder / "evaluation.png") as image:
        image.verify()
    assert (folder / "evaluation.md").read_text() == tables.markdown(results)


def test_a_built_in_suite_is_loaded_for_each_seed_and_models_of_ones_own_once(loaded, tmp_path):
    evaluate_suite(config(methods=["average"]), tmp_path / "a", seeds=[4, 2], experiments=[])
    assert [(each.suite.name, each.seed) for each in loaded] == [("vision8", 4), ("vision8", 2)]
    loaded.clear()
    own = {"suite": None, "base_model": "base", "models": [{"model": "hues"}, {"model": "bars"}]}
    results = evaluate_suite(config(methods=["average"], **own), tmp_path / "b", seeds=[4, 2], experiments=[])
    assert [each.seed for each in loaded] == [4]
    assert (results["suite"], results["seeds"]) == ("base", [4, 2])
    assert json.loads((tmp_path / "b" / "seed-2" / "comparison.json").read_text())["seed"] == 2


def test_a_later_run_goes_on(loaded, tmp_path, monkeypatch):
    def record(row, shop):
        recorded.append(shop.seed)
        if len(recorded) > limit:
            raise KeyboardInterrupt
        return genuine(row, shop)

    genuine, recorded, limit = comparing._record, [], 4
    monkeypatch.setattr(comparing, "_record", record)
    once = {"seeds": [0, 1], "experiments": []}
    with pytest.raises(KeyboardInterrupt):
        evaluate_suite(config(methods=["average"]), tmp_path, **once)
    assert recorded == [0, 0, 0, 1, 1]
    assert json.loads((tmp_path / "evaluation.json").read_text())["seeds"] == [0]
    recorded.clear()
    results = evaluate_suite(config(methods=["average"]), tmp_path, **once, resume=True)
    assert recorded == [1, 1]
    assert results["seeds"] == [0, 1]
    recorded.clear()
    limit = 9
    evaluate_suite(config(methods=["average"]), tmp_path, **once)
    assert recorded == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("seeds", [[], [0, 1, 0], [-1]])
def test_seeds_are_distinct_numbers(loaded, tmp_path, seeds):
    with pytest.raises(ValueError, match="seeds must be distinct numbers from 0, at least one; found"):
        evaluate_suite(config(), tmp_path, seeds=seeds)
    assert not loaded


# --- experiments ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch):
    """Calls of the experiments, which do nothing here."""
    calls = []

    def stub(name):
        return lambda suite, settings, output, **shared: calls.append((name, settings.seed, output, shared["resume"]))

    monkeypatch.setattr(experiments, "EXPERIMENTS", {name: stub(name) for name in ("unseen", "corruptions")})
    monkeypatch.setattr(robustness, "library", lambda: "a library 1.0")
    return calls


def test_experiments_are_run_once_with_the_first_seed(loaded, ran, tmp_path):
    evaluate_suite(config(methods=["average"]), tmp_path, seeds=[3, 1], experiments=["corruptions"], resume=True)
    assert ran == [("corruptions", 3, tmp_path, True)]


def settings(*rows):
    return CompareSettings(methods={name: {} for name in rows})


def four_tasks(suite):
    names = {f"{task}{copy}": task for task in suite.tasks for copy in "12"}
    experts, tasks = ({name: part[task] for name, task in names.items()} for part in (suite.experts, suite.tasks))
    return replace(suite, experts=experts, tasks=tasks)


def test_by_default_they_are_those_that_the_suite_allows(ran):
    told = []

    def chosen(suite, row, names=None):
        return list(chosen_experiments(suite, settings(row), names, told.append))

    images, texts = tiny_image_suite(), tiny_suite()
    assert chosen(four_tasks(images), "average") == ["unseen", "corruptions"]
    assert not told
    assert chosen(four_tasks(texts), "average") == ["unseen"]
    assert chosen(images, "wemoe_match") == []
    assert [line.partition(":")[0] for line in told] == ["without corruptions", "without unseen", "without corruptions"]
    assert chosen(four_tasks(images), "average", names=[]) == []


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        (["average"], ["unsen"], r"experiments must be among \['unseen', 'corruptions'\]; found \['unsen'\]"),
        (["average"], ["unseen"], "unseen tasks are two, and two more must be left to merge; found"),
        (["wemoe_match"], ["corruptions"], "methods must name a static merge, which collapses are told by; found"),
    ],
)
def test_one_that_is_named_and_not_possible_is_refused(ran, rows, names, message):
    with pytest.raises(ValueError, match=message):
        chosen_experiments(tiny_image_suite(), settings(*rows), names, pytest.fail)


# --- tables and chart -----------------------------------------------------------------------------------------------


def row(label, mean, spread, kind="static", objective=None, modes=None):
    both = {"mean": mean, "spread": spread}
    summary = {"label": label, "kind": kind, "objective": objective, **both, "modes": modes}
    return summary | {"normalised": {"mean": mean / 0.8, "spread": spread}, "accuracy": {"a": both, "b": both}}


RESULTS = {
    "seeds": [0, 1, 2],
    "tasks": ["a", "b"],
    "steps": 50,
    "environment": {
        "wemoe": "1.0",
        "packages": {"torch": "2.13"},
        "cpu": {"model": "A processor", "cores": 4, "threads": 2},
    },
    "runs": {"0": "seed-0/comparison.json"},
    "rows": {
        "pretrained": row("pre-trained", 0.5, 0.0, kind="reference"),
        "individual": row("individual experts", 0.8, 0.01, kind="reference"),
        "average": row("simple average", 0.6, None),
        "wemoe_match": row(
            "WEMoE",
            0.78,
            0.012,
            kind="learned",
            objective="match",
            modes={
                "per_sample": {key: {"mean": 0.78, "spread": 0.012} for key in ("single", "mixed")},
                "batch_averaged": {"single": {"mean": 0.8, "spread": None}, "mixed": {"mean": 0.6, "spread": 0.02}},
                "changed": {"per_sample": 0.0, "batch_averaged": 1382.4},
                "samples": 3442,
            },
        ),
    },
}
HEADING = "2 merges of 2 experts: 50 steps of adaptation, seeds 0, 1, 2"


def cells(text, row):
    (line, *others) = [each for each in text.splitlines() if each.strip("| ").startswith(f"{row} ")]
    return [[cell.strip() for cell in each.strip("|").split("|")][1:] for each in (line, *others)]


def test_the_markdown_has_means_with_spreads_and_the_modes():
    text = tables.markdown(RESULTS)
    assert text.splitlines()[0] == f"# {HEADING}"
    assert cells(text, "method")[0] == ["a", "b", "average", "normalised"]
    assert cells(text, "average") == [["60.0", "60.0", "60.0", "75.0"]]
    accuracies, found = cells(text, "wemoe_match")
    assert accuracies == ["78.0 ± 1.2", "78.0 ± 1.2", "78.0 ± 1.2", "97.5 ± 1.2"]
    assert found == ["78.0 ± 1.2", "78.0 ± 1.2", "0", "80.0", "60.0 ± 2.0", "1,382"]
    assert "samples, of 3,442, whose" in text
    assert "[0](seed-0/comparison.json)" in text


def test_without_routed_rows_there_are_no_modes():
    rows = {name: RESULTS["rows"][name] for name in ("pretrained", "individual", "average")}
    results = RESULTS | {"rows": rows, "seeds": [5]}
    assert tables.heading(results) == "1 merges of 2 experts: no adaptation, seed 5"
    assert "mixed" not in tables.markdown(results) + tables.terminal(results)


def test_the_terminal_has_averages_and_modes():
    lines = tables.terminal(RESULTS).splitlines()
    assert lines[0] == HEADING
    assert lines[2].split() == ["average,", "%", "normalised"]
    averages, found = [line.replace(" ± ", "±").split()[1:] for line in lines if line.startswith("wemoe_match")]
    assert averages == ["78.0±1.2", "97.5±1.2"]
    assert found == ["78.0±1.2", "78.0±1.2", "0", "80.0", "60.0±2.0", "1,382"]


def test_the_chart_has_a_bar_as_long_as_the_spread(tmp_path, monkeypatch):
    figure = Figure(layout="constrained")
    monkeypatch.setattr(charts, "Figure", lambda **options: figure)
    plot_summary(RESULTS, tmp_path / "evaluation.png")
    (axes,) = figure.axes
    marks = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert (marks["static"], marks["learned, match"]) == ([60.0], [78.0])
    (bar,) = axes.collections  # a single seed has none
    ((start, end),) = bar.get_segments()
    assert [*start, *end] == pytest.approx([76.8, 1, 79.2, 1])
    assert axes.get_title() == f"{HEADING}, mean ± standard deviation"
    with Image.open(tmp_path / "evaluation.png") as image:
        image.verify()


# --- the command ----------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"WEMOE_DEBUG": None})


def test_the_command_evaluates_a_suite_over_seeds(loaded, ran, tmp_path):
    found = run(
        "--suite", "vision8", "--output", tmp_path, "--seeds", "1-2", "--methods", "average, wemoe_match", "--steps", 1
    )
    assert found.exit_code == 0, found.output
    assert [each.seed for each in loaded] == [1, 2]
    results = json.loads((tmp_path / "evaluation.json").read_text())
    assert (results["seeds"], results["steps"]) == ([1, 2], 1)
    assert list(results["rows"]) == ["pretrained", "individual", "average", "wemoe_match"]
    assert tables.terminal(results) in found.output
    assert str(tmp_path / "report.html") in found.output
    assert ran == [("corruptions", 1, tmp_path, False)]
    assert "without unseen: " in found.output


def test_the_command_prints_json_and_reads_a_file(loaded, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("suite: text6\nsteps: 1\nmethods: {ties: {scaling: 0.5}}\n")
    found = run("--config", file, "--output", tmp_path / "out", "--seeds", "7", "--experiments", "none", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout) == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    one = json.loads((tmp_path / "out" / "seed-7" / "comparison.json").read_text())
    assert one["rows"]["ties"]["options"]["scaling"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "evaluate needs either --config or --suite, to know the tasks"),
        (["--suite", "text6"], "evaluate needs MODEL, a model to score, or --output, a folder for the results of all"),
        (["--suite", "text6", "--output", "x", "--part", "test"], "--part needs MODEL; found none"),
        (["--suite", "text6", "--output", "x", "--task", "movies"], "--task needs MODEL; found none"),
        (["m", "--suite", "text6", "--seeds", "1"], "--seeds is for all methods, without MODEL; found 'm'"),
        (["m", "--suite", "text6", "--resume"], "--resume is for all methods, without MODEL; found 'm'"),
        (
            ["--suite", "text6", "--output", "x", "--seeds", "a"],
            "--seeds must be a number (8), a range (1-8) or a list",
        ),
        (["--suite", "text6", "--output", "x", "--seeds", "1,1"], "seeds must be distinct numbers from 0"),
        (["--suite", "text6", "--output", "x", "--methods", "tise"], "no row is called 'tise'; did you mean 'ties'?"),
        (["--suite", "text6", "--output", "x", "--experiments", "seen"], "experiments must be among ['unseen', 'corr"),
        (["--suite", "texts", "--output", "x"], "suite"),
    ],
)
def test_what_is_missing_or_wrong_is_told_before_anything_is_loaded(loaded, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run(*arguments)
    assert (found.exit_code, found.stdout) == (2, "")
    assert message in found.stderr
    assert not loaded
    assert not list(tmp_path.iterdir())
