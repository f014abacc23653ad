"""The command line: what it prints, what it refuses and how, and that it starts fast."""

import json
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wemoe import cli
from wemoe.counting import count


def run(*arguments: str, **environment: str):
    return CliRunner().invoke(cli.app, arguments, env={"WEMOE_DEBUG": None, **environment})


def count_as_json(*arguments: str):
    result = run("count", "--architecture", "openclip-vit-b-32", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_count_prints_every_row_as_json():
    rows = count_as_json("--tasks", "1-8", "--router-layers", "2")
    assert [row["tasks"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    for row in rows:
        counts = count("openclip-vit-b-32", row["tasks"])
        assert (row["architecture"], row["router_layers"]) == ("openclip-vit-b-32", 2)
        assert (row["trainable"], row["total"]) == (counts.trainable, counts.total)
        assert row["percentage"] == counts.percentage
        assert row["static"] + row["routed_base"] + row["task_vectors"] + row["routers"] == row["total"]


def test_count_defaults_to_the_published_table():
    assert count_as_json() == count_as_json("--tasks", "1-8", "--router-layers", "2")


def test_count_knows_e_wemoe():
    (row,) = count_as_json("--tasks", "8", "--method", "e_wemoe")
    # 12 MLPs of 4,722,432 parameters, of which pruning by 0.9 keeps 2 * 235,930 + 308 + 77
    assert (row["trainable"], row["total"], row["kept"]) == (596_744, 567_398_921, 8 * 12 * 472_245)
    assert row["kept_total"] == 159_380_969
    assert (row["method"], row["share_router"], row["prune_ratio"]) == ("e_wemoe", True, 0.9)
    arguments = ("--method", "e_wemoe", "--prune-ratio", "0.5", "--position-encoding", "--router-layers", "1")
    (row,) = count_as_json("--tasks", "8", *arguments)
    assert (row["trainable"], row["prune_ratio"]) == (776 * 8 + 8, 0.5)
    table = run("count", "--architecture", "openclip-vit-b-32", "--tasks", "8", "--method", "e_wemoe").stdout
    assert table.startswith("E-WEMoE on openclip-vit-b-32, router layers: 2\n")
    assert table.splitlines()[-1].split()[-2:] == ["45,335,520", "159,380,969"]


def test_count_knows_pwemoe():
    rows = count_as_json("--tasks", "2,3,8", "--method", "pwemoe")
    assert [row["trainable"] for row in rows] == [264, 540, 3_360]
    arguments = ("--tasks", "2", "--method", "pwemoe", "--modules", "all")
    (row,), (published,) = count_as_json(*arguments), count_as_json(*arguments, "--published")
    assert (row["method"], row["modules"], row["reads"]) == ("pwemoe", "all", "preference")
    assert (row["trainable"], row["routed_modules"], row["published"]) == (51 * 22, 51, False)
    assert (published["trainable"], published["routed_modules"], published["published"]) == (1_430, 65, True)
    (row,) = count_as_json("--tasks", "7", "--method", "pwemoe", "--router-layers", "1", "--modules", "mlp+attention")
    assert (row["trainable"], row["routed_modules"]) == (24 * (49 + 7), 24)


def test_the_table_of_pwemoe_says_how_many_modules_are_routed():
    table = run("count", "--architecture", "gpt2", "--tasks", "7", "--method", "pwemoe").stdout.splitlines()
    assert table[0] == "PWEMoE on gpt2, router layers: 2, 12 modules routed (mlp)"
    assert table[-1].split()[:4] == ["7", "2,604", "0.00050", "%"]  # of 521,126,700


@pytest.mark.parametrize(
    ("text", "numbers"), [("8", [8]), ("1-3", [1, 2, 3]), ("1,3,5", [1, 3, 5]), ("1-2, 8", [1, 2, 8])]
)
def test_tasks_are_a_number_a_range_or_a_list(text, numbers):
    assert [row["tasks"] for row in count_as_json("--tasks", text)] == numbers


def test_count_prints_an_aligned_table():
    result = run("count", "--architecture", "openclip-vit-b-32", "--tasks", "4,8")
    title, blank, header, four, eight = result.stdout.splitlines()
    assert title == "WEMoE on openclip-vit-b-32, router layers: 2"
    assert blank == ""
    assert header.split() == [
        "tasks", "trainable", "percentage", "total", "static", "routed_base", "task_vectors", "saved",
    ]  # fmt: skip
    assert four.split()[:5] == ["4", "7,124,016", "2.05", "%", "347,249,457"]
    assert eight.split()[:5] == ["8", "7,160,928", "1.25", "%", "573,963,105"]
    assert len(header) == len(four) == len(eight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--architecture", "resnet-50"], "architecture must be one of openclip-vit-b-32, "),
        (["--architecture", "minilm-l6", "--tasks", "0"], "tasks must be at least 1; found 0"),
        (["--architecture", "minilm-l6", "--tasks", "8-1"], "a range (1-8) or a list (1,3,5); found '8-1'"),
        (["--architecture", "minilm-l6", "--tasks", "all"], "a range (1-8) or a list (1,3,5); found 'all'"),
        (["--architecture", "minilm-l6", "--tasks", ""], "a range (1-8) or a list (1,3,5); found ''"),
        (
            ["--architecture", "minilm-l6", "--method", "moe"],
            "method must be one of wemoe, e_wemoe, pwemoe; found 'moe'",
        ),
        (["--architecture", "minilm-l6", "--router-layers", "3"], "router_layers must be 0, 1 or 2; found 3"),
        (["--architecture", "minilm-l6", "--modules", "all"], "modules must be 'mlp' where routers read their input"),
        (["--architecture", "gpt2", "--method", "pwemoe", "--router-layers", "0"], "must be 1 or 2 where routers read"),
    ],
)
def test_an_error_of_use_is_one_line_and_exit_code_2(arguments, message):
    result = run("count", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("wemoe: error: ")
    assert message in line


@pytest.mark.parametrize(("option", "variable"), [(["--debug"], {}), ([], {"WEMOE_DEBUG": "1"})])
def test_debug_lets_the_error_through(option, variable):
    result = run(*option, "count", "--architecture", "resnet-50", **variable)
    assert isinstance(result.exception, ValueError)


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("wemoe.commands.count.count_parameters", lambda *_, **_choices: {}["missing"])
    assert isinstance(run("count", "--architecture", "minilm-l6").exception, KeyError)


@pytest.fixture
def quickstart_calls(monkeypatch):
    calls = []
    module = types.ModuleType("wemoe.quickstart")
    module.run = lambda **arguments: calls.append(arguments)
    monkeypatch.setitem(sys.modules, "wemoe.quickstart", module)
    return calls


def test_quickstart_passes_its_options_on(quickstart_calls, tmp_path):
    assert run("quickstart").exit_code == 0
    assert run("quickstart", "--seed", "3", "--steps", "20", "--output", str(tmp_path)).exit_code == 0
    assert quickstart_calls == [
        {"seed": 0, "steps": None, "output": Path("outputs/quickstart")},
        {"seed": 3, "steps": 20, "output": tmp_path},
    ]


def test_info_prints_the_report_or_json(monkeypatch):
    module = types.ModuleType("wemoe.info")
    module.collect = lambda: {"torch": "2.13.0"}
    module.format_report = lambda report: f"torch {report['torch']}"
    monkeypatch.setitem(sys.modules, "wemoe.info", module)
    assert run("info").stdout == "torch 2.13.0\n"
    assert json.loads(run("info", "--json").stdout) == {"torch": "2.13.0"}


def test_a_broken_installation_is_an_error_of_use(monkeypatch):
    monkeypatch.setitem(sys.modules, "wemoe.info", None)
    result = run("info")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)


def test_version():
    assert run("--version").stdout == f"wemoe {metadata.version('wemoe')}\n"


def test_help_names_every_command():
    result = run("--help")
    assert result.exit_code == 0
    for command in ("merge", "adapt", "evaluate", "compare", "unload", "methods", "quickstart", "count", "info"):
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["count", "--architecture", "minilm-l6", "--tasks", "2"]])
def test_light_commands_do_not_import_torch(arguments):
    # torch takes seconds to import; with it None in sys.modules, importing it is an error.
    program = f"import sys; sys.modules['torch'] = None; sys.argv[1:] = {arguments}; import runpy; "
    program += "runpy.run_module('wemoe', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout
