"""`wemoe compare`: a configuration file to a table on the terminal."""

import json

import pytest
from typer.testing import CliRunner

from tiny_suite import tiny_suite
from wemoe.cli import app
from wemoe.comparison import configured


@pytest.fixture
def loaded(monkeypatch):
    """The configurations that a suite was loaded for; the suite is the tiny one."""
    configurations = []

    def load(config, device, watch):
        if device not in ("cpu", "cpu:0"):
            raise ValueError(f"asked for {device}")
        configurations.append(config)
        return tiny_suite()

    monkeypatch.setattr(configured, "load_suite", load)
    return configurations


@pytest.fixture
def compare(tmp_path):
    def invoke(content, *arguments):
        file = tmp_path / "compare.yaml"
        file.write_text(content)
        return CliRunner().invoke(app, ["compare", str(file), "--output", str(tmp_path / "out"), *arguments])

    return invoke


def results(tmp_path):
    return json.loads((tmp_path / "out" / "comparison.json").read_text())


def test_a_file_decides_suite_rows_steps_and_seed(compare, loaded, tmp_path):
    ran = compare("suite: text6\nsteps: 2\nseed: 3\nmethods:\n  wemoe_match: {learning_rate: 1e-2}\n  average:\n")
    assert ran.exit_code == 0, ran.output
    (config,) = loaded
    assert (config.suite.name, config.seed) == ("text6", 3)
    found = results(tmp_path)
    assert (found["seed"], found["origin"]["suite"]["name"]) == (3, "text6")
    assert list(found["rows"]) == ["pretrained", "individual", "average", "wemoe_match"]
    assert found["rows"]["wemoe_match"]["options"]["learning_rate"] == 0.01
    assert len(found["rows"]["wemoe_match"]["adaptation"]["loss"]) == 2
    assert "2 merges of 2 experts: 2 steps of adaptation, seed 3" in ran.output
    assert all(f"\n{name} " in ran.output for name in found["rows"])


def test_options_go_before_the_file(compare, loaded, tmp_path):
    content = "suite: text6\nsteps: 2\nseed: 3\nmethods: {ties: {scaling: 0.5}, average: {}}\n"
    ran = compare(content, "--steps", "1", "--seed", "4", "--methods", "ties, wemoe_depth0_entropy")
    assert ran.exit_code == 0, ran.output
    assert loaded[0].seed == 4
    rows = results(tmp_path)["rows"]
    assert list(rows) == ["pretrained", "individual", "ties", "wemoe_depth0_entropy"]
    assert rows["ties"]["options"]["scaling"] == 0.5
    assert len(rows["wemoe_depth0_entropy"]["adaptation"]["loss"]) == 1


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("suite: text6\nmethods: {tise: {}}\n", (), "methods: no row is called 'tise'; did you mean 'ties'?"),
        ("suite: text6\n", ("--methods", "averag"), "methods: no row is called 'averag'; did you mean 'average'?"),
        ("suite: text6\n", ("--steps", "0"), "steps must be at least 1; found 0"),
        ("suite: text6\nmethod: {}\n", (), "method: unknown key; did you mean 'methods'?"),
    ],
)
def test_what_is_wrong_is_told_before_models_are_loaded(content, arguments, message, compare, loaded, tmp_path):
    ran = compare(content, *arguments)
    assert ran.exit_code == 2
    assert message in ran.output
    assert not loaded
    assert not (tmp_path / "out").exists()


def test_the_device_is_that_of_the_option(compare, loaded):
    ran = compare("suite: text6\nmethods: {average: {}}\n", "--device", "cuda:1")
    assert ran.exit_code == 2
    assert "asked for cuda:1" in ran.output
