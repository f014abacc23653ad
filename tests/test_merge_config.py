"""The configuration file: what it says, and what is refused, by the path of the key."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import wemoe
from wemoe.merge_config import MERGEKIT_METHODS, config_schema, parse_config, read_config
from wemoe.method_parameters import PARAMETERS

MERGEKIT_FILE = """
models:
  - model: ./base
    # no parameters for the base
  - model: ./movies
    parameters:
      density: 0.5
      weight: 0.7
  - model: org/icd
    parameters:
      weight: 1e-1
merge_method: ties
base_model: ./base
parameters:
  density: 0.2
  normalize: false
  int8_mask: true
  lambda: 2
dtype: float16
tokenizer_source: base
"""


def config(**changes):
    """A small valid configuration, with changes; None leaves a key out."""
    content = {
        "base_model": "base",
        "models": [{"model": "movies"}, {"model": "icd"}],
        "merge_method": "ties",
        "parameters": {"weight": 1.0},
    }
    return parse_config({key: value for key, value in (content | changes).items() if value is not None})


def refusal(**changes):
    """The lines of the error that a configuration gets."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at every line
        config(**changes)
    return str(caught.value).splitlines()


def one_model(**parameters):
    return [{"model": "movies", "parameters": parameters}]


def test_a_mergekit_file_is_read_with_its_meaning(tmp_path):
    (tmp_path / "merge.yaml").write_text(MERGEKIT_FILE)
    found = read_config(tmp_path / "merge.yaml")
    assert found.merge_method == "ties"
    assert found.base_model == str(tmp_path / "base")
    assert found.experts == {"movies": str(tmp_path / "movies"), "icd": "org/icd"}  # the base is no expert
    assert found.of_models("weight", found.averaged) == {
        "base": None,
        "movies": 0.7,
        "icd": 0.1,
    }  # YAML 1.1 reads 1e-1 as text
    assert found.of_models("density", found.averaged) == {
        "base": 0.2,
        "movies": 0.5,
        "icd": 0.2,
    }  # a model's own goes first
    assert (found.parameters.normalize, found.parameters.lambda_, found.dtype) == (False, 2.0, "float16")
    assert found.notes == ()


@pytest.mark.parametrize(
    ("method", "normalize", "rescale"),
    [
        ("linear", True, False),
        ("task_arithmetic", False, False),
        ("ties", True, False),
        ("dare_linear", False, True),
        ("dare_ties", False, True),
    ],
)
def test_defaults_are_those_of_mergekit(method, normalize, rescale):
    found = config(merge_method=method).parameters
    assert (found.normalize, found.rescale, found.lambda_, found.density) == (normalize, rescale, 1.0, 1.0)


def test_linear_averages_a_listed_base_and_needs_none():
    models = [{"model": "base"}, {"model": "movies"}]
    assert list(config(merge_method="linear", models=models).averaged) == ["base", "movies"]
    assert config(merge_method="linear", base_model=None).base_model is None
    assert refusal(base_model=None) == ["base_model: must be given; it is what the models were fine-tuned from"]


def test_what_has_no_effect_in_mergekit_has_none_here_and_is_told():
    found = config(
        merge_method="task_arithmetic", models=one_model(density=0.5), parameters={"weight": 1, "rescale": True}
    )
    assert found.notes == (
        "parameters.rescale: has no effect on task_arithmetic",
        "models[0].parameters.density: has no effect on task_arithmetic",
    )
    assert config(merge_method="linear", parameters={"weight": 1, "lambda": 0.5}).notes == (
        "parameters.lambda: has no effect on linear",
    )


def test_a_weight_is_needed_as_in_mergekit():
    models = [{"model": "base"}, {"model": "movies", "parameters": {"weight": 1}}, {"model": "icd"}]
    message = "models[2].parameters.weight: must be given, here or for all models in `parameters`"
    assert refusal(models=models, parameters=None) == [message]
    assert refusal(models=models, parameters=None, merge_method="linear")[0].startswith("models[0].parameters.weight: ")
    assert config(merge_method="average", parameters=None).of_models("weight", ["icd"]) == {"icd": None}


def test_tasks_are_named_by_the_last_part_of_the_path_and_numbered_if_need_be():
    models = [
        {"model": "a/movies"},
        {"model": "b/movies"},
        {"model": "c/movies", "task": "films"},
        {"model": "base+adapters/icd"},
    ]
    assert list(config(models=models).experts) == ["movies", "movies-2", "films", "icd"]


def test_paths_are_relative_to_the_file(tmp_path):
    for name in ("base", "movies", "adapter", "a+b"):
        (tmp_path / name).mkdir()
    content = {
        "base_model": "base",
        "models": [{"model": name} for name in ("movies", "base+adapter", "a+b", "org/name", "../else/where", "/root")],
        "merge_method": "linear",
        "parameters": {"weight": 1},
        "tasks": {"movies": {"test": ["one.jsonl", "/two.csv"], "head": "heads"}},
    }
    found = parse_config(content, tmp_path)
    assert found.base_model == f"{tmp_path}/base"
    assert [entry.model for entry in found.models] == [
        f"{tmp_path}/movies", f"{tmp_path}/base+{tmp_path}/adapter", f"{tmp_path}/a+b", "org/name",
        f"{tmp_path}/../else/where", "/root",
    ]  # fmt: skip
    assert found.tasks["movies"].test == (tmp_path / "one.jsonl", Path("/two.csv"))
    assert found.tasks["movies"].head == tmp_path / "heads"


def test_an_empty_value_is_one_that_was_left_out():
    models = [{"model": "movies", "parameters": None}]
    assert config(models=models, tasks=None).experts == {"movies": "movies"}
    assert parse_config({"suite": "text6", "merge_method": "adamerging", "parameters": None}).parameters.steps == 1000


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"modles": []}, ["modles: unknown key; did you mean 'models'?"]),
        ({"parameters": {"weihgt": 1}}, ["parameters.weihgt: unknown key; did you mean 'weight'?"]),
        (
            {"models": one_model(densty=0.5, weight=1)},
            ["models[0].parameters.densty: unknown key; did you mean 'density'?"],
        ),
        (
            {"models": one_model(normalize=True)},
            ["models[0].parameters.normalize: belongs to the whole merge; give it in the `parameters` at the top"],
        ),
        (
            {"models": one_model(density=1.5)},
            ["models[0].parameters.density: input should be less than or equal to 1; found 1.5"],
        ),
        ({"models": one_model(density=0)}, ["models[0].parameters.density: input should be greater than 0; found 0"]),
        ({"parameters": {"weight": True}}, ["parameters.weight: must be a number; found true"]),
        (
            {"parameters": {"weight": ".nan"}},
            ["parameters.weight: input should be a valid number, unable to parse string as a number; found '.nan'"],
        ),
        ({"parameters": {"weight": float("nan")}}, ["parameters.weight: input should be a finite number; found nan"]),
        ({"dtype": "int8"}, ["dtype: input should be 'float32', 'bfloat16', 'float16' or 'float64'; found 'int8'"]),
        ({"tokenizer_source": "union"}, ["tokenizer_source: input should be 'base'; found 'union'"]),
        ({"models": [{"task": "movies"}]}, ["models[0].model: must be given"]),
        ({"models": ["movies"]}, ["models[0]: must be keys with values; found 'movies'"]),
        ({"models": {}}, ["models: must be a list; found {}"]),
        ({"parameters": []}, ["parameters: must be keys with values; found []"]),
        ({"base_model": 3}, ["base_model: must be text; found 3"]),
        ({"models": [{"model": "a+b+c"}]}, ["models[0].model: must be a model, or model+adapter; found 'a+b+c'"]),
        ({"models": [{"model": "base"}]}, ["models: must list at least one fine-tuned model; found none"]),
        (
            {"models": [{"model": "a", "task": "x"}, {"model": "b", "task": "x"}]},
            ["models: the task 'x' must be of one model; found 2"],
        ),
        ({"tasks": {"movie": {"test": "a.csv"}}}, ["tasks.movie: no model is for this task; did you mean 'movies'?"]),
        (
            {"tasks": {"movies": {"test": "a.csv", "tain": "b.csv"}}},
            ["tasks.movies.tain: unknown key; did you mean 'train'?"],
        ),
        (
            {"tasks": {"movies": {"test": "a.txt"}}},
            [
                "tasks.movies: test must end in one of .jsonl, .csv, .tsv, or be a folder of images, whose name has no "
                "end; found 'a.txt'"
            ],
        ),
        (
            {"suite": "text6"},
            [f"{key}: the suite 'text6' has its own; leave it out" for key in ("base_model", "models")],
        ),
        (
            {"base_model": None, "models": None, "suite": "text6", "merge_method": "wemoe", "parameters": None,
             "out_dtype": "float16"},
            ["out_dtype: a routed model is written as it was adapted; give dtype"],
        ),
        ({"seed": "x", "steps": 0}, [
            "seed: input should be a valid integer, unable to parse string as an integer; found 'x'",
            "steps: input should be greater than or equal to 1; found 0",
        ]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line_by_its_path(changes, lines):
    assert refusal(**changes) == lines


@pytest.mark.parametrize("key", ["slices", "modules", "tokenizer", "chat_template"])
def test_other_keys_of_mergekit_are_refused_by_name(key):
    (line,) = refusal(**{key: {}})
    assert line.startswith(f"{key}: ")
    assert "unknown" not in line


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([0, 1], "must be one value for all layers; gradients (lists) are not supported; found [0, 1]"),
        ([{"filter": "mlp", "value": 1}], "must be one value for all tensors; filters by name are not supported"),
        ({"filter": "mlp", "value": 1}, "must be one value for all tensors; filters by name are not supported"),
    ],
)
@pytest.mark.parametrize("key", ["weight", "density", "lambda", "normalize"])
def test_gradients_and_filters_are_refused(key, value, reason):
    (line,) = refusal(parameters={"weight": 1} | {key: value})
    assert line.startswith(f"parameters.{key}: {reason}")


@pytest.mark.parametrize("method", MERGEKIT_METHODS)
def test_other_methods_of_mergekit_are_refused_by_name(method):
    (line,) = refusal(merge_method=method)
    assert line.startswith(
        f"merge_method: mergekit's '{method}' is not supported; supported are linear, task_arithmetic, "
    )


def test_an_unknown_method_comes_with_the_nearest():
    assert refusal(merge_method="tie") == ["merge_method: must be a known method; found 'tie'; did you mean 'ties'?"]
    assert refusal(merge_method=["ties"])[0].startswith("merge_method: must be a known method; found ['ties']")


@pytest.mark.parametrize("method", [name for name, kind in PARAMETERS.items() if kind.reads_data])
def test_methods_that_read_data_need_tasks_or_a_suite(method):
    (line,) = refusal(merge_method=method, parameters=None)
    assert line == f"tasks: must be given (or suite); {method} reads data of every task"
    data = {"train": "a.csv", "validation": "b.csv", "test": "c.csv"}
    (line,) = refusal(merge_method=method, parameters=None, tasks={"movies": data})
    assert line == f"tasks: {method} reads data of every task; found none of icd"
    assert parse_config({"suite": "text6", "merge_method": method}).merge_method == method


def test_what_changes_the_experts_answers_is_of_match_and_class_shares_count_training_data():
    method = {"merge_method": "wemoe", "tasks": {task: {"unlabeled": "a.csv"} for task in ("movies", "icd")}}
    assert refusal(**method, parameters={"class_shares": 1.5, "objective": "entropy"}) == [
        "parameters.class_shares: is of the objective match; found entropy",
        "tasks.movies.train: must be given; class_shares counts its classes",
        "tasks.icd.train: must be given; class_shares counts its classes",
    ]
    swept = refusal(**method, parameters=None, sweep={"class_shares": [1.5, 2]})
    assert "tasks.icd.train: must be given; class_shares counts its classes" in swept
    assert refusal(**method, parameters={"class_shares": 1}) == [
        "parameters.class_shares: input should be greater than 1; found 1"
    ]
    assert refusal(**method, parameters={"anchor": 0.25, "objective": "infomax"}) == [
        "parameters.anchor: is of the objective match; found infomax"
    ]
    assert refusal(**method, parameters={"anchor": 1}) == ["parameters.anchor: input should be less than 1; found 1"]


def test_a_suite_needs_a_weight_for_all_its_experts():
    assert parse_config({"suite": "text6", "merge_method": "ties", "parameters": {"weight": 1}})
    with pytest.raises(ValueError, match=r"parameters\.weight: must be given; it is of every model"):
        parse_config({"suite": "text6", "merge_method": "ties"})


def test_a_sweep_is_of_parameters_of_the_method_and_needs_data():
    tasks = {"movies": {"test": "a.csv"}, "icd": {"validation": "b.csv"}}
    assert refusal(sweep={"lambda": [0.1]}, tasks=tasks) == [
        "tasks.movies.validation: must be given; sweep chooses on it"
    ]
    tasks["movies"] = tasks["icd"]
    assert config(sweep={"lambda": [0.1]}, tasks=tasks)
    assert refusal(sweep={"weight": [0.1]}, tasks=tasks, models=[{"model": "icd"}, *one_model(weight=1)]) == [
        "sweep.weight: must be of all models; models[1].parameters.weight is of one"
    ]
    assert refusal(
        sweep={"weight": [1]}, tasks={"movies": tasks["icd"]}, models=[{"model": "base"}, {"model": "movies"}],
        merge_method="linear",
    ) == ["sweep: a base that is averaged has no data to choose on; leave it out of models"]  # fmt: skip
    suite = {"suite": "text6", "merge_method": "ties", "parameters": {"weight": 1}}
    assert parse_config(suite | {"sweep": {"lambda": ["1e-1", 0.2]}}).sweep == {"lambda": (0.1, 0.2)}
    for sweep, message in (
        ({"lamda": [1]}, r"sweep.lamda: ties has no such parameter; did you mean 'lambda'\?"),
        ({"density": [0.5, 2]}, r"sweep.density\[1\]: input should be less than or equal to 1; found 2"),
        ({"lambda": []}, r"sweep.lambda: tuple should have at least 1 item"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_config(suite | {"sweep": sweep})


def test_rows_of_a_comparison_may_have_parameters_and_lists_to_search():
    rows = {"ties": {"density": [0.1, 0.2]}, "average": None, "wemoe": {"objective": "match"}}
    assert parse_config({"suite": "text6", "methods": rows}).methods == {
        "ties": {"density": (0.1, 0.2)},
        "average": {},
        "wemoe": {"objective": "match"},
    }
    assert parse_config({"suite": "text6", "methods": ["ties", "wemoe"]}).methods == {"ties": {}, "wemoe": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models:\n  - model: [a\nmerge_method: ties\n", r"merge.yaml, line 3, column 13: expected ',' or '\]'"),
        ("seed: 1\nseed: 2\n", r"merge.yaml, line 2, column 1: found the key 'seed' twice"),
        ("a: !!python/object:os.system {}\n", r"merge.yaml, line 1, column 4: could not determine a constructor"),
        ("", r"merge.yaml: must hold keys and values, `merge_method: ties` say; found nothing"),
        ("- a\n", r"merge.yaml: must hold keys and values, .*; found list"),
        ("a: \0\n", r"merge.yaml: must be YAML text; found"),
    ],
)
def test_errors_of_syntax_name_file_line_and_column(tmp_path, text, message):
    (tmp_path / "merge.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path / "merge.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no file '.*/none.yaml'"):
        read_config(tmp_path / "none.yaml")


FUNCTIONS = {
    "fisher": [wemoe.fisher],
    "regmean": [wemoe.regmean],
    "adamerging": [wemoe.adamerging, wemoe.adapt],
    "wemoe": [wemoe.upcycle, wemoe.adapt],
    "e_wemoe": [wemoe.upcycle, wemoe.adapt],
    "pwemoe": [wemoe.upcycle, wemoe.pareto.train],
}


@pytest.mark.parametrize("method", FUNCTIONS)
def test_methods_that_read_data_take_the_keywords_of_their_functions(method):
    known = {name for function in FUNCTIONS[method] for name in inspect.signature(function).parameters}
    of_the_data = {"batch_size", "train_on", "class_shares", "anchor"}
    assert set(PARAMETERS[method].model_fields) - of_the_data <= known


def test_steps_are_those_of_the_method_or_else_of_all_methods():
    suite = {"suite": "text6", "merge_method": "wemoe"}
    assert parse_config(suite).adaptation_steps == 1000
    assert parse_config(suite | {"steps": 50}).adaptation_steps == 50
    assert parse_config(suite | {"steps": 50, "parameters": {"steps": 1000}}).adaptation_steps == 1000


@pytest.mark.parametrize(
    "content",
    [
        {"suite": "text6", "merge_method": "wemoe", "steps": 50, "seed": 3, "parameters": {"learning_rate": 1e-3}},
        {
            "merge_method": "ties",
            "base_model": "org/base",
            "models": [{"model": "org/movies", "task": "films", "parameters": {"weight": 1, "density": 0.5}}],
            "parameters": {"lambda": 0.3, "normalize": False},
            "tasks": {"films": {"test": ["/a.csv"]}},
        },
    ],
)
def test_a_recipe_is_a_configuration_that_says_the_same(content):
    found = parse_config(content)
    again = parse_config(found.recipe())
    assert (again.experts, again.tasks, again.seed, again.suite) == (
        found.experts,
        found.tasks,
        found.seed,
        found.suite,
    )
    assert [entry.parameters for entry in again.models] == [entry.parameters for entry in found.models]
    assert again.recipe() == found.recipe()
    if found.merge_method == "wemoe":
        assert again.adaptation_steps == 50


def test_a_point_of_a_sweep_takes_the_place_of_parameters():
    found = config(parameters={"weight": 1, "density": 0.5}).at({"lambda": 0.3, "density": 0.1}).parameters
    assert (found.weight, found.density, found.lambda_, found.normalize) == (1, 0.1, 0.3, True)


def test_overrides_take_the_place_of_what_a_file_says(tmp_path):
    (tmp_path / "merge.yaml").write_text(MERGEKIT_FILE)
    found = read_config(tmp_path / "merge.yaml", {"seed": 3, "dtype": "float32", "parameters": {"lambda": 1}})
    assert (found.seed, found.dtype, found.parameters.lambda_, found.parameters.normalize) == (3, "float32", 1, False)
    with pytest.raises(ValueError, match="seed: input should be greater"):
        read_config(tmp_path / "merge.yaml", {"seed": -1})


def test_the_schema_has_the_parameters_of_every_method():
    schema = config_schema()
    assert len(schema["anyOf"]) == len(PARAMETERS) + 1
    ties = next(kind for name, kind in schema["$defs"].items() if name == "MergeConfig_ties")
    assert schema["$defs"][ties["properties"]["parameters"]["$ref"].rpartition("/")[2]]["properties"].keys() == {
        "weight", "density", "normalize", "lambda", "int8_mask", "rescale", "trim"
    }  # fmt: skip


FRONTS = ("quickstart_pair", "quickstart_three", "quickstart_six")
FRONTS_OF_THE_HUB = ("clip_vit_b32_8tasks", "clip_vit_l14_8tasks", "gpt2_7tasks")
METHODS_OF_EXAMPLES = {"mergekit": "ties", "compare": None, "vision8": None} | dict.fromkeys(
    (*FRONTS, *FRONTS_OF_THE_HUB), "pwemoe"
)
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_examples_are_read(path):
    found = read_config(path)
    assert found.merge_method == METHODS_OF_EXAMPLES.get(path.stem, path.stem)
    assert found.notes == ()


def test_the_example_of_the_documentation_is_read():
    text = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text()
    found = parse_config(yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0]))
    assert found.of_models("weight", found.experts) == {"movies": 1.0, "reviews": 0.7}


def test_every_method_has_an_example():
    assert {path.stem for path in EXAMPLES} == PARAMETERS.keys() | METHODS_OF_EXAMPLES.keys()


def test_a_configuration_is_read_without_torch(tmp_path):
    (tmp_path / "merge.yaml").write_text(MERGEKIT_FILE)
    program = (
        "import sys; sys.modules['torch'] = None; from wemoe.merge_config import read_config; read_config(sys.argv[1])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "merge.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
