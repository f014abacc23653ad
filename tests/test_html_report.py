"""The page of a folder of results says what the results say, alone, and for everybody."""

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import results_folders
from parsed_page import parse, table, texts
from results_folders import SHIFT_ROWS, TASKS, comparison, corruptions, evaluation, unseen, write, write_whole
from wemoe.cli import app
from wemoe.geometry_tables import joined_cosines
from wemoe.html_report import write_report
from wemoe.html_report.histograms import HEIGHT, histogram

ROWS = ("pretrained", "individual", "regmean", "adamerging_match", "wemoe_match", "wemoe_entropy")
FILES = {"comparison": comparison, "evaluation": evaluation, "unseen": unseen, "corruptions": corruptions}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def source(folder):
    return write_report(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source):
    return parse(source)


def page_of(folder, **files):
    return parse(write_report(write(folder, **files)).read_text(encoding="utf-8"))


def ids(page):
    return [found.attributes["id"] for found in page.everything() if "id" in found.attributes]


def percent(value, digits=1):
    return f"{100 * value:.{digits}f}"


def sentences(page):
    return [item.text for item in page.having(id="summary")[0].every("li")]


def head(row):
    """The head of a row's line where method and objective stand side by side."""
    label, _, objective, *_ = results_folders.ROWS[row]
    return label if objective is None else f"{label} {objective}"


def title(row):
    label, _, objective, *_ = results_folders.ROWS[row]
    return label if objective is None else f"{label} ({objective})"


# One file, well-formed, for everybody


def test_the_page_needs_nothing_but_itself(source, page):
    assert not page.every("script") + page.every("link") + page.every("img") + page.every("iframe")
    assert not [found for found in page.everything() if "src" in found.attributes]
    assert all(link.attributes["href"].startswith("#") for link in page.every("a"))
    assert not re.search(r"https?:|url\(|@import", source)


def test_the_contents_lead_to_every_section_once(page):
    found = ids(page)
    assert len(found) == len(set(found))
    assert [link.attributes["href"].removeprefix("#") for link in page.every("nav")[0].every("a")] == found
    assert [section.every("h2")[0].text != "" for section in page.every("section")] == [True] * len(found)


def test_the_page_can_be_read_aloud(page):
    (document,) = page.every("html")
    assert document.attributes["lang"] == "en"
    assert page.every("title")[0].text == page.every("h1")[0].text == "Merging 8 experts of vision8 into one model"
    assert all(
        drawing.attributes["role"] == "img" and drawing.attributes["aria-label"] for drawing in page.every("svg")
    )
    for each in page.every("table"):
        assert each.every("caption")[0].text
        assert {cell.attributes["scope"] for cell in each.every("thead")[0].every("th")} == {"col"}
        assert {cell.attributes["scope"] for cell in each.every("tbody")[0].every("th")} == {"row"}


def test_every_section_says_what_one_sees(page):
    for section in page.every("section"):
        assert len(" ".join(part.text for part in section.every("p") + section.every("li")).split(". ")) >= 2


def test_names_are_text_whatever_they_hold(tmp_path):
    names = ("<script>alert(1)</script>", 'a"b&amp;', "<b>&")
    results = comparison(names, ROWS)
    results["rows"]["regmean"]["label"] = "<i>Reg</i>"
    results["origin"] = {"base_model": "models/<u>"}
    parsed = page_of(tmp_path, comparison=results, unseen=unseen(names), corruptions=corruptions(names))
    assert not parsed.every("script") + parsed.every("u")
    lines = texts(table(parsed, "Test accuracy by method and task, %"))
    assert list(lines["<i>Reg</i>"]) == [*names, "average", "normalised"]
    assert parsed.every("h1")[0].text == "Merging 3 experts of <u> into one model"


# Numbers


def test_accuracies_are_means_with_their_spreads(page):
    lines = texts(table(page, "Test accuracy by method and task, %"))
    results = evaluation()
    assert list(lines) == [head(row) for row in results["rows"]]
    for name, row in results["rows"].items():
        figures = {**row["accuracy"], "average": {"mean": row["mean"], "spread": row["spread"]}}
        figures["normalised"] = row["normalised"]
        assert lines[head(name)] == {
            column: f"{percent(figure['mean'])} ±{percent(figure['spread'])}" for column, figure in figures.items()
        }


def test_accuracies_of_one_seed_have_no_spread(tmp_path):
    results = comparison(rows=ROWS)
    lines = texts(table(page_of(tmp_path, comparison=results), "Test accuracy by method and task, %"))
    for name, row in results["rows"].items():
        expected = {task: percent(value) for task, value in row["accuracy"].items()}
        expected |= {"average": percent(row["average"]), "normalised": percent(row["normalised"])}
        assert lines[head(name)] == expected


def test_the_best_merge_of_each_column_is_marked_and_no_reference(tmp_path):
    results = comparison(("a", "b"), ("pretrained", "individual", "average", "ties"))
    accuracies = {"pretrained": (0.99, 0.1), "individual": (1.0, 1.0), "average": (0.7, 0.6), "ties": (0.5, 0.6)}
    for name, values in accuracies.items():
        results["rows"][name]["accuracy"] = dict(zip("ab", values, strict=True))
    lines = table(page_of(tmp_path, comparison=results), "Test accuracy by method and task, %")
    marked = {name: [column for column in "ab" if cells[column].every("strong")] for name, cells in lines.items()}
    assert marked == {"pre-trained": [], "individual experts": [], "simple average": ["a", "b"], "TIES": ["b"]}


def test_costs_are_those_of_the_first_run(page):
    lines = texts(table(page, "Size, memory and time of each row"))
    assert lines["WEMoE match"] == {
        "parameters": "17.2M",
        "trained": "24.0k",
        "memory, MB": "91",
        "making, s": "31.2",
        "search, s": "–",
        "scoring, s": "5.0",
        "inference": "1.07",
    }
    assert lines["RegMean"]["search, s"] == "30.0"


def test_options_are_told_but_those_that_are_not_used(tmp_path):
    results = comparison(rows=ROWS)
    results["rows"]["wemoe_match"]["options"] = {"steps": 100, "class_shares": None}
    lines = texts(table(page_of(tmp_path, comparison=results), "Options of every row"))
    assert lines["wemoe_match"] == {"options": "steps 100"}
    assert lines["individual"] == {"options": "none"}


def test_routing_modes_stand_side_by_side(page):
    caption = "Average accuracy by routing and batches, %, and predictions that change"
    lines = texts(table(page, caption))
    rows = {name: row["modes"] for name, row in evaluation()["rows"].items() if row["modes"]}
    assert list(lines) == [head(row) for row in rows]
    found = rows["wemoe_match"]["batch_averaged"]["mixed"]
    cells = lines["WEMoE match"]
    assert cells["batch-averaged, mixed batches"] == f"{percent(found['mean'])} ±{percent(found['spread'])}"
    assert (cells["per sample, changed"], cells["batch-averaged, changed"]) == ("0", "1,234.5")


def test_a_prediction_that_depends_on_the_batch_is_marked(tmp_path):
    results = comparison(rows=ROWS)
    results["rows"]["wemoe_match"]["modes"]["changed"]["per_sample"] = 3
    page = page_of(tmp_path, comparison=results)
    lines = table(page, "Average accuracy by routing and batches, %, and predictions that change")
    assert lines["WEMoE match"]["per sample, changed"].attributes["class"] == "warning"
    assert "class" not in lines["WEMoE entropy"]["per sample, changed"].attributes
    assert any("3 predictions of 4,000 change with what else is in the batch" in text for text in sentences(page))


def test_unseen_tasks_have_means_and_a_table_for_each_pair(page):
    results = unseen()
    lines = texts(table(page, "Average accuracy over seen and unseen tasks, %"))
    assert lines == {
        title(row): {part: percent(mean[part]) for part in ("seen", "unseen")} for row, mean in results["mean"].items()
    }
    for pair in results["pairs"]:
        a, b = pair["unseen"]
        lines = texts(table(page, f"Accuracy where {a} and {b} are unseen, %"))
        for name, row in pair["rows"].items():
            assert lines[title(name)] == {
                **{task: percent(row["unseen"][task]) for task in (a, b)},
                "mean unseen": percent(row["unseen_mean"]),
                "mean seen": percent(row["seen_mean"]),
            }


def test_corruptions_have_averages_collapses_and_histograms(page):
    results = corruptions()
    lines = texts(table(page, "Average accuracy by corruption, %, and tasks that collapsed"))
    assert list(lines) == [title(row) for row in SHIFT_ROWS]
    for row in SHIFT_ROWS:
        averages = [percent(found["rows"][row]["average"]) for found in results["corruptions"].values()]
        collapses = "–" if row in ("pretrained", "individual") else str(results["collapses"][row])
        assert list(lines[title(row)].values()) == [*averages, collapses]
    for name, found in results["corruptions"].items():
        lines = table(page, f"Accuracy (%) and predicted classes: {name.replace('_', ' ')}; best static merge: RegMean")
        assert [cell.every("svg")[0].text for cell in lines["true labels"].values()] == [
            parse(histogram(labels)).text for labels in results["labels"].values()
        ]
        for row in SHIFT_ROWS:
            for task, cell in lines[title(row)].items():
                assert cell.text.startswith(percent(found["rows"][row]["accuracy"][task]))
                assert (" collapsed" in cell.text) == (task in found["rows"][row]["collapsed"])
                predicted = sum(count > 0 for count in found["rows"][row]["predictions"][task])
                assert cell.every("svg")[0].attributes["aria-label"].startswith(f"{predicted} of ")


def test_a_histogram_has_a_bar_for_each_class_that_is_predicted():
    (drawing,) = parse(histogram([50, 0, 25, 25])).every("svg")
    bars = re.findall(r"M(\d+) \d+v-([\d.]+)", drawing.every("path")[0].attributes["d"])
    assert [(int(place), float(height)) for place, height in bars] == [(0, HEIGHT), (2, HEIGHT / 2), (3, HEIGHT / 2)]
    assert drawing.text == "3 of 4 classes predicted, the most frequent for 50 % of the samples"
    assert histogram([0, 0]) == ""


def test_routing_weights_are_bars_and_own_choices_shares(page):
    routing = comparison()["rows"]["wemoe_match"]["routing"]
    section = page.having(id="routing")[0]
    opened = [part for part in section.every("details") if "open" in part.attributes]
    assert [part.every("summary")[0].text for part in opened] == ["WEMoE (match)"]
    weights, choices = opened[0].every("tbody")
    panels = weights.every("svg")
    assert len(panels) == 6 * len(TASKS)
    most = max(max(row.values()) for layers in routing["mean"].values() for row in layers.values())
    for place, panel in enumerate(panels):
        layer, task = f"encoder.layers.{place // len(TASKS)}.mlp", TASKS[place % len(TASKS)]
        means = list(routing["mean"][task][layer].values())
        heights = [float(bar.attributes["height"]) for bar in panel.every("rect")]
        # Heights are written with one digit after the point, of 40.
        assert heights == pytest.approx([40 * mean / most for mean in means], abs=0.051)
        own = [bar.attributes.get("class") == "own" for bar in panel.every("rect")]
        assert own == [expert == task for expert in TASKS]
    for line, task in zip(choices.every("tr"), TASKS, strict=True):
        shares = [percent(row[task], 0) for row in routing["first_choice"][task].values()]
        assert [cell.text for cell in line.every("td")] == shares


def test_geometry_is_told_for_all_modules_and_for_each_kind(page):
    found = comparison()["geometry"]
    lines = texts(table(page, "Cosines between task vectors: encoder.layers.*.mlp"))
    modules = [index for index, name in enumerate(found["modules"]) if name.endswith(".mlp")]
    expected = joined_cosines(found, modules)
    assert [list(cells.values()) for cells in lines.values()] == [
        [f"{value:.2f}".replace("-", "−") for value in row] for row in expected
    ]
    lines = texts(table(page, "Lengths (L2) of task vectors"))
    assert list(lines) == found["modules"]
    assert lines["embeddings"] == {task: f"{lengths[0]:.2f}" for task, lengths in found["l2"].items()}


# Sentences


def test_the_summary_tells_the_results_in_words(page):
    text = " ".join(sentences(page))
    rows = evaluation()["rows"]
    mean = {name: row["mean"] for name, row in rows.items()}
    static, routed = percent(mean["regmean"]), percent(mean["wemoe_match"])
    share = percent(rows["wemoe_match"]["normalised"]["mean"])
    assert f"The best merge into a plain model without learning is RegMean: {static} %" in text
    assert re.search(
        rf"WEMoE \(match\), the recommended way, reaches {routed} % \(± [\d.]+ over seeds\), {share} %", text
    )
    assert f"{100 * (mean['wemoe_match'] - mean['regmean']):.1f} points above RegMean" in text
    assert "no prediction of 4,000 changes with what else is in the batch" in text
    assert "WEMoE (match) never collapsed and WEMoE (entropy) collapsed 13 times" in text
    assert "counted over 8 tasks and 7 corruptions (an accuracy more than 3 points below the best static merge)" in text


def test_a_recommended_row_that_is_not_the_best_is_told(tmp_path):
    results = comparison(rows=ROWS)
    for name, average in {"regmean": 0.8, "wemoe_match": 0.7787, "adamerging_match": 0.7, "wemoe_entropy": 0.7}.items():
        results["rows"][name]["average"] = average
    found = sentences(page_of(tmp_path, comparison=results))
    assert any("2.1 points below RegMean" in text for text in found)
    assert any(text.startswith("The best merge of all is RegMean") for text in found)


def test_only_the_recommended_row_is_called_so(tmp_path):
    names = ("pretrained", "individual", "average", "wemoe_depth0_match", "e_wemoe_match")
    (text,) = [text for text in sentences(page_of(tmp_path, comparison=comparison(rows=names))) if "E-WEMoE" in text]
    assert text.startswith("E-WEMoE (match), the best of the routed models that match experts, reaches")


def test_a_recommended_row_that_is_among_the_best_is_not_set_below_them(tmp_path):
    results = comparison(rows=ROWS)
    for row in results["rows"].values():
        row["average"] = 1.0
    page = page_of(tmp_path, comparison=results)
    assert not any(text.startswith("The best merge of all is") for text in sentences(page))
    assert any("as high as RegMean" in text for text in sentences(page))
    scale = [tick.text for tick in page.every("figure")[0].having(**{"class": "track axis"})[0].every("span")]
    assert scale == ["95", "100"]


# What is missing


@pytest.mark.parametrize(
    ("names", "sections"),
    [
        (
            ["comparison"],
            ["summary", "accuracy", "costs", "modes", "predictions", "routing", "geometry", "settings"],
        ),
        (["evaluation"], ["summary", "accuracy", "modes", "settings"]),  # its runs are gone
        (["unseen"], ["summary", "unseen", "settings"]),
        (["corruptions"], ["summary", "corruptions", "settings"]),
        (["evaluation", "unseen"], ["summary", "accuracy", "modes", "unseen", "settings"]),
    ],
)
def test_what_a_folder_lacks_is_left_out(names, sections, tmp_path):
    page = page_of(tmp_path, **{name: FILES[name]() for name in names})
    assert ids(page) == sections


def test_a_comparison_that_was_interrupted_has_a_page(tmp_path):
    results = comparison(rows=ROWS)
    row = results["rows"]["pretrained"] | {"normalised": None, "peak_memory": None}
    for key in ("predictions", "modes", "routing"):
        del row[key]
    page = page_of(tmp_path, comparison=results | {"rows": {"pretrained": row}, "geometry": {}})
    assert ids(page) == ["accuracy", "costs", "settings"]
    assert texts(table(page, "Test accuracy by method and task, %"))["pre-trained"]["normalised"] == "–"


def test_routers_of_many_layers_are_shown_at_the_quarters(tmp_path):
    results = comparison(("a", "b"), ROWS)
    draw = results_folders.random.Random(0)
    results["rows"]["wemoe_match"]["routing"] = results_folders.routing(("a", "b"), draw, layers=12)
    bars = table(
        page_of(tmp_path, comparison=results),
        "Mean routing weights of WEMoE (match): layers by task of the data, a bar for each expert",
    )
    assert list(bars) == ["layer 1", "layer 4", "layer 7", "layer 10", "layer 12"]


def test_experiments_that_were_interrupted_are_shown_as_far_as_they_came(tmp_path):
    results = corruptions()
    clean = results | {"corruptions": {"clean": results["corruptions"]["clean"]}, "collapses": {}}
    page = page_of(tmp_path / "clean", corruptions=clean)
    assert ids(page) == ["corruptions", "settings"]
    lines = texts(table(page, "Average accuracy by corruption, %, and tasks that collapsed"))
    assert list(lines["wemoe_match"]) == ["clean", "collapses"]
    none = results | {"corruptions": {}, "collapses": {}}
    page = page_of(tmp_path / "none", corruptions=none, unseen=unseen() | {"pairs": [], "mean": {}})
    assert ids(page) == ["settings"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, None, "must hold results: at least one of comparison.json, evaluation.json, unseen.json, corruptions"),
        ("unseen.json", "{", "unseen.json' must be JSON"),
        ("comparison.json", "[]", "comparison.json' must hold tasks, rows, seed; missing: tasks, rows, seed"),
        ("evaluation.json", '{"tasks": [], "rows": {}}', "missing: seeds, runs"),
    ],
)
def test_what_is_no_result_is_told_by_name(name, content, message, tmp_path):
    if name is not None:
        (tmp_path / name).write_text(content)
    ran = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert ran.exit_code == 2
    assert message in ran.output
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_none_is_told(tmp_path):
    ran = CliRunner().invoke(app, ["report", str(tmp_path / "none")])
    assert ran.exit_code == 2
    assert "a report is made of a folder of results; found none at" in ran.output


def test_the_command_writes_the_page_beside_the_results(tmp_path):
    write(tmp_path, unseen=unseen())
    (tmp_path / "report.html").write_text("of before")
    ran = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    assert str(tmp_path / "report.html") in ran.output
    assert {path.name for path in tmp_path.iterdir()} == {"unseen.json", "report.html"}  # nothing temporary is left
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_a_page_is_made_without_loading_torch():
    code = "import sys, wemoe.html_report; assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
