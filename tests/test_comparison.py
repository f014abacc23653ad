"""Every row of a comparison on a tiny random BERT and two tiny tasks."""

import json

import pytest

from tiny_texts import tiny_base, tiny_tasks
from wemoe.comparison import ROWS, CompareSettings, compare
from wemoe.data.batches import tokenize_task
from wemoe.experts import FineTuning, make_expert
from wemoe.stopwatch import Stopwatch
from wemoe.suites import Suite


@pytest.fixture(scope="module")
def suite():
    base, tokenizer = tiny_base()
    tasks = {name: tokenize_task(task, tokenizer, 12) for name, task in tiny_tasks().items()}
    made = {name: make_expert(base, task, FineTuning(epochs=1), 0) for name, task in tasks.items()}
    return Suite(base, {n: m.model for n, m in made.items()}, {n: m.head for n, m in made.items()}, tasks)


def run(suite, output, **settings):
    return compare(suite, CompareSettings(steps=2, **settings), output, watch=Stopwatch(print), origin={})


@pytest.fixture(scope="module")
def finished(suite, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    return folder, run(suite, folder)


def test_every_row_runs(finished):
    folder, results = finished
    assert list(results["rows"]) == list(ROWS)
    assert json.loads((folder / "comparison.json").read_text()) == results
