"""The configuration of a front: a preference-routed method, the tasks of a suite, and how the front is measured."""

from pathlib import Path

import pytest

from wemoe.data import text6
from wemoe.merge_config import FrontConfig, config_schema, parse_config, read_config

EXAMPLES = Path(__file__).parents[1] / "examples"
DATA = {"train": "a.csv", "validation": "b.csv", "test": "c.csv"}


def config(**changes):
    """The front between two tasks of the suite, with changes; None leaves a key out."""
    content = {"suite": {"name": "text6", "tasks": ["movies", "icd"]}, "merge_method": "pwemoe"}
    return parse_config({key: value for key, value in (content | changes).items() if value is not None})


def own(**changes):
    """The front between two tasks in files."""
    content = {
        "suite": None,
        "base_model": "base",
        "models": [{"model": "movies"}, {"model": "icd"}],
        "tasks": {"movies": DATA, "icd": DATA},
    }
    return config(**content | changes)


def refusal(make, **changes):
    """The lines of the error that a configuration gets."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at every line
        make(**changes)
    return str(caught.value).splitlines()


def test_the_published_settings_are_the_defaults():
    found = config()
    assert isinstance(found, FrontConfig)
    assert found.parameters.model_dump() == {
        "modules": "mlp",
        "router_hidden_layers": 2,
        "init_lambda": 0.3,
        "scalarization": "ls",
        "steps": 4000,
        "learning_rate": 1e-2,
        "final_rate": 0.1,
        "concentration": 1.0,
        "batch_size": 16,
        "train_on": "train",
    }
    assert found.adaptation_steps == 4000


def test_a_suite_may_be_cut_to_some_tasks_in_the_order_that_is_given():
    assert config(suite={"name": "text6", "tasks": ["pos", "movies"]}).suite.tasks == ("pos", "movies")
    assert config(suite="text6").suite.tasks is None  # all of them
    assert tuple(text6.load()) == text6.TASKS


def test_a_front_is_measured_on_the_published_grids():
    pareto = config().pareto
    # 11 points along an edge for two and three tasks; the corners for seven and eight
    assert [pareto.points_for(tasks) for tasks in (2, 3, 4, 8)] == [11, 11, 2, 2]
    assert [config(pareto={"points": 5}).pareto.points_for(tasks) for tasks in (2, 8)] == [5, 5]
    assert (pareto.samples, pareto.baselines) == (None, ("static",))


@pytest.mark.parametrize(
    ("make", "changes", "lines"),
    [
        (config, {"suite": {"name": "text6", "tasks": ["movies", "icdd"]}},
         ["suite.tasks: must be among the suite's, movies, amazon, supersense, hypernym, icd, pos; found 'icdd'"]),
        (config, {"suite": {"name": "text6", "tasks": ["movies", "movies"]}},
         ["suite.tasks: must be distinct; found movies, movies"]),
        (config, {"suite": {"name": "text6", "tasks": ["movies"]}},
         ["suite.tasks: must be of two tasks or more, for a preference between them; found one"]),
        (config, {"suite": {"name": "text6", "tasks": "movies"}}, ["suite.tasks: must be a list; found 'movies'"]),
        (config, {"sweep": {"steps": [1, 2]}},
         ["sweep: must be left out; pwemoe makes a model for every preference"]),
        (config, {"out_dtype": "float16"}, ["out_dtype: a routed model is written as it was adapted; give dtype"]),
        (config, {"parameters": {"router_hidden_layers": 0, "modules": "attention", "scalarization": "mgda"}}, [
            "parameters.modules: input should be 'mlp', 'mlp+attention' or 'all'; found 'attention'",
            "parameters.router_hidden_layers: input should be 1 or 2; found 0",
            "parameters.scalarization: input should be 'ls' or 'epo'; found 'mgda'",
        ]),
        (config, {"parameters": {"concentration": 0, "final_rate": 1.5, "steps": 0}}, [
            "parameters.steps: input should be greater than or equal to 1; found 0",
            "parameters.final_rate: input should be less than or equal to 1; found 1.5",
            "parameters.concentration: input should be greater than 0; found 0",
        ]),
        (config, {"parameters": {"scalarisation": "ls"}},
         ["parameters.scalarisation: unknown key; did you mean 'scalarization'?"]),
        (config, {"pareto": {"points": 1, "baseline": ["static"]}}, [
            "pareto.points: input should be greater than or equal to 2; found 1",
            "pareto.baseline: unknown key; did you mean 'baselines'?",
        ]),
        (own, {"models": [{"model": "movies"}], "tasks": {"movies": DATA}},
         ["models: must be of two tasks or more, for a preference between them; found one"]),
        (own, {"tasks": {"movies": DATA, "icd": {"unlabeled": "d.csv"}}}, [
            "tasks.icd.train: must be given; pwemoe learns from it",
            "tasks.icd.validation: must be given; pwemoe measures losses on it",
            "tasks.icd.test: must be given; pwemoe measures accuracy on it",
        ]),
        (config, {"suite": "text6", "pareto": {"baselines": ["static", "grid"]}},
         ["pareto.baselines: grid is of two tasks; of 6 it has too many models"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line_by_its_path(make, changes, lines):
    assert refusal(make, **changes) == lines


def test_routers_that_learn_from_validation_data_need_no_training_data():
    tasks = {task: {"validation": "b.csv", "test": "c.csv"} for task in ("movies", "icd")}
    assert own(tasks=tasks, parameters={"train_on": "validation"}).parameters.train_on == "validation"
    line, _ = refusal(own, tasks=tasks, parameters={"train_on": "validation"}, pareto={"baselines": ["ls"]})
    assert line == "tasks.movies.train: must be given; pwemoe learns from it"  # which fine-tunes the base


@pytest.mark.parametrize("method", [None, "wemoe", "ties"])
def test_other_methods_have_no_front(method):
    parameters = {"weight": 1} if method == "ties" else None
    (line,) = refusal(config, merge_method=method, parameters=parameters, pareto={"points": 11})
    assert line == "pareto: is of methods that make a front, pwemoe; leave it out"


def test_a_recipe_is_a_configuration_that_says_the_same():
    for found in (config(pareto={"points": 3, "samples": 100}, parameters={"scalarization": "epo"}), own(steps=7)):
        again = parse_config(found.recipe())
        assert again.recipe() == found.recipe()
        assert (again.suite, again.tasks, again.pareto) == (found.suite, found.tasks, found.pareto)
        assert again.adaptation_steps == found.adaptation_steps


def test_the_schema_tells_of_fronts():
    kinds = config_schema()["$defs"]
    assert "pareto" in kinds["MergeConfig_pwemoe"]["properties"]
    assert "pareto" not in kinds["MergeConfig_wemoe"]["properties"]


@pytest.mark.parametrize(("name", "tasks"), [("quickstart_pair", 2), ("quickstart_three", 3), ("quickstart_six", 6)])
def test_the_quick_starts_fronts_are_of_its_tasks(name, tasks):
    found = read_config(EXAMPLES / f"{name}.yaml")
    assert len(found.suite.tasks or text6.TASKS) == tasks
    assert found.adaptation_steps < 4000  # a front in minutes


@pytest.mark.parametrize(
    ("name", "base", "expert", "tasks", "batch_size"),
    [
        ("clip_vit_b32_8tasks", "openai/clip-vit-base-patch32", "tanganke/clip-vit-base-patch32_", 8, 16),
        ("gpt2_7tasks", "openai-community/gpt2", "tanganke/gpt2_", 7, 8),
    ],
)
def test_fronts_of_models_on_the_hub_have_the_published_settings(name, base, expert, tasks, batch_size):
    found = read_config(EXAMPLES / f"{name}.yaml")
    assert found.base_model == base
    assert len(found.experts) == tasks
    assert all(model.startswith(expert) for model in found.experts.values())
    assert found.parameters.model_dump() == config().parameters.model_dump() | {"batch_size": batch_size}
    assert found.pareto.points_for(tasks) == 2  # the corners, and equal preference
