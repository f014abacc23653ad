"""`wemoe merge`, `adapt`, `unload` and `methods`: from files to a folder, and what is refused and leaves nothing."""

import errno
import json
import shutil
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, BertModel
from typer.testing import CliRunner

import wemoe
from models import experts_of, inputs_of, tiny_bert
from task_folders import LABELS, text_folders, text_rows, text_settings, write_jsonl
from wemoe import cli
from wemoe.expert_answers import ExpertAnswers
from wemoe.merge_config import read_config
from wemoe.method_parameters import PARAMETERS
from wemoe.suites import Suite, load_suite

COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
WITH_DATA = [name for name, kind in PARAMETERS.items() if kind.reads_data]
MERGED_WITH_DATA = [name for name in WITH_DATA if not PARAMETERS[name].has_front]
READ, ADAPT = {"examples": 4}, {"steps": 2, "learning_rate": 0.01}
OPTIONS = {"fisher": READ, "regmean": READ, "adamerging": ADAPT, "wemoe": ADAPT, "e_wemoe": ADAPT}


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(each) for each in arguments], env={"WEMOE_DEBUG": None})


def succeed(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*arguments):
    """What a command that is refused says beside its progress, line by line."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    told = "wemoe: error: "
    return [line.removeprefix(told) for line in result.stderr.splitlines() if line.startswith(told)]


def write(folder, **content):
    file = folder / "merge.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def plain(tmp_path):
    """A base and two experts, each in two files, and a configuration of task arithmetic."""
    base = tiny_bert()
    for name, model in {"base": base, **experts_of(base, tasks=2)}.items():
        model.save_pretrained(tmp_path / name, max_shard_size="10KB")
    return write(
        tmp_path,
        base_model="base",
        models=[{"model": f"task{t}", "parameters": {"weight": 0.5}} for t in range(2)],
        merge_method="task_arithmetic",
    )


@pytest.fixture
def texts(tmp_path):
    """A base, two classifiers and their data."""
    return text_folders(tmp_path)


def only_inputs(folder):
    """Whether a folder holds what a fixture put there and nothing else, hidden files included."""
    return {path.name for path in folder.iterdir()} == {"base", "task0", "task1", "merge.yaml"}


# --- static methods --------------------------------------------------------------------------------------------------


def test_a_file_becomes_a_folder_that_transformers_loads(plain, tmp_path):
    said = succeed("merge", plain, "--output", tmp_path / "merged")
    assert said.splitlines()[-1] == f"the merged model is in {tmp_path / 'merged'}"

    merged, info = BertModel.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    base, *experts = (BertModel.from_pretrained(tmp_path / name) for name in ("base", "task0", "task1"))
    expected = wemoe.task_arithmetic(base, experts, 0.5).state_dict()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)  # sums of three terms in fp32

    card = (tmp_path / "merged" / "README.md").read_text()
    recipe = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert recipe["merge_method"] == "task_arithmetic"
    assert [model["parameters"] for model in recipe["models"]] == [{"weight": 0.5}] * 2
    assert str(tmp_path) not in card  # paths of this machine are nobody else's business


def test_the_python_function_takes_a_file_a_mapping_or_a_configuration(plain, tmp_path):
    content = yaml.safe_load(plain.read_text())
    content["base_model"] = str(tmp_path / "base")
    for entry in content["models"]:
        entry["model"] = str(tmp_path / entry["model"])
    for name, config in {"file": plain, "text": str(plain), "mapping": content}.items():
        assert wemoe.merge(config, tmp_path / name, progress=False).folder == tmp_path / name
    first, *others = (load_file(tmp_path / name / "model.safetensors") for name in ("file", "text", "mapping"))
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)


def test_options_take_the_place_of_the_files_keys(texts):
    file = write(texts, **text_settings(texts), merge_method="dare_linear", parameters={"weight": 1, "density": 0.5})
    for name in ("1", "2", "1 again"):
        succeed("merge", file, "--output", texts / name, "--seed", name[0], "--dtype", "bfloat16")
    one, two, again = (load_file(texts / name / "model.safetensors") for name in ("1", "2", "1 again"))
    assert {tensor.dtype for tensor in one.values()} == {torch.bfloat16}
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], two[key]) for key in one)


def test_tokenizer_and_heads_are_carried_over(texts):
    file = write(texts, **text_settings(texts), merge_method="ties", parameters={"weight": 1, "density": 0.5})
    succeed("merge", file, "--output", texts / "merged")
    assert AutoTokenizer.from_pretrained(texts / "merged")("hot")["input_ids"]
    assert set(wemoe.load_heads(texts / "merged")) == {"colours", "animals"}
    assert "accuracy" in succeed("evaluate", texts / "merged", "--config", file)


def test_a_dry_run_reports_and_writes_nothing(plain, tmp_path):
    said = succeed("merge", plain, "--dry-run")
    assert "base" in said
    assert "memory" in said
    assert "disk" in said
    assert said == succeed("merge", plain, "--dry-run", "--output", tmp_path / "merged")
    assert only_inputs(tmp_path)


def test_what_has_no_effect_is_told(plain, tmp_path):
    content = yaml.safe_load(plain.read_text()) | {"parameters": {"density": 0.5}}
    said = succeed("merge", write(tmp_path, **content), "--output", tmp_path / "merged")
    assert "note: parameters.density: has no effect on task_arithmetic" in said


# --- what is refused -------------------------------------------------------------------------------------------------


def test_an_output_is_needed(plain):
    assert refusal("merge", plain) == ["--output must be given, or --dry-run"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modles": []}, "modles: unknown key; did you mean 'models'?"),
        ({"merge_method": "slerp"}, "merge_method: mergekit's 'slerp' is not supported; supported are linear, "),
        ({"merge_method": None}, "merge_method: must be given, `ties` say; `wemoe methods` lists them"),
        ({"parameters": {"lamda": 1}}, "parameters.lamda: unknown key; did you mean 'lambda'?"),
    ],
)
def test_a_wrong_key_is_named_with_the_nearest(plain, tmp_path, changes, message):
    file = write(tmp_path, **yaml.safe_load(plain.read_text()) | changes)
    (line,) = refusal("merge", file, "--output", tmp_path / "merged")
    assert line.startswith(message)
    assert only_inputs(tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--sweep", "lambda"], "--sweep must be a parameter with its values, lambda=0.1,0.2; found 'lambda'"),
        (["--sweep", "lambda=a"], "sweep.lambda[0]: input should be a valid number"),
        (["--steps", "5"], "parameters.steps: unknown key; "),
        (["--dtype", "int8"], "dtype: input should be "),
        (["--device", "abacus"], "device must be one that is there, cpu say; found 'abacus'"),
        (["--seed", "-1"], "seed: input should be greater than or equal to 0; found -1"),
    ],
)
def test_a_wrong_option_is_refused_like_a_wrong_key(plain, tmp_path, option, message):
    assert refusal("merge", plain, "--output", tmp_path / "merged", *option)[0].startswith(message)
    assert only_inputs(tmp_path)


def truncate(folder):
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-10])
    return file.name


def remove_a_shard(folder):
    file = sorted(folder.glob("*.safetensors"))[0]
    file.unlink()
    return file.name


def put_nan(folder):
    file = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[-1] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    return name


def keep_a_pickle(folder):
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    return "convert"


@pytest.mark.parametrize("damage", [truncate, remove_a_shard, put_nan, keep_a_pickle])
@pytest.mark.parametrize("name", ["base", "task1"])
def test_a_damaged_model_is_named_and_nothing_is_written(plain, tmp_path, damage, name):
    found = damage(tmp_path / name)
    lines = refusal("merge", plain, "--output", tmp_path / "merged")
    assert found in "\n".join(lines)
    assert only_inputs(tmp_path)


def test_every_mismatch_is_listed(plain, tmp_path):
    for file in (tmp_path / "task1").iterdir():
        file.unlink()
    tiny_bert(hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path / "task1", max_shard_size="10KB")
    for option in (["--dry-run"], ["--output", tmp_path / "merged"]):
        told = "\n".join(refusal("merge", plain, *option))
        assert "task1" in told
        assert "encoder.layer.1.output.dense.weight" in told  # missing
        assert "encoder.layer.0.output.dense.weight" in told  # of another shape
        assert "embeddings.word_embeddings.weight" in told
    assert only_inputs(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_write_leaves_nothing(plain, tmp_path, monkeypatch, error):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("wemoe.shards.save_file", fail)
    result = run("merge", plain, "--output", tmp_path / "merged")
    assert result.exit_code != 0
    assert only_inputs(tmp_path)


def test_an_interrupted_write_leaves_an_earlier_result_whole(plain, tmp_path, monkeypatch):
    succeed("merge", plain, "--output", tmp_path / "merged")
    before = {path.name: path.read_bytes() for path in (tmp_path / "merged").iterdir()}

    def fail(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("wemoe.shards.save_file", fail)
    assert "No space left" in refusal("merge", plain, "--output", tmp_path / "merged")[0]
    assert {path.name: path.read_bytes() for path in (tmp_path / "merged").iterdir()} == before


def test_an_output_that_is_a_file_is_refused_before_any_work(plain, tmp_path):
    (tmp_path / "taken").write_text("")
    (line,) = refusal("merge", plain, "--output", tmp_path / "taken" / "merged")
    assert "must be a folder; found a file" in line


def test_a_missing_model_and_a_missing_file_are_named(plain, tmp_path):
    content = yaml.safe_load(plain.read_text())
    content["models"][0]["model"] = "./nowhere"
    (line,) = refusal("merge", write(tmp_path, **content), "--output", tmp_path / "merged")
    assert "nowhere" in line
    (line,) = refusal("merge", tmp_path / "none.yaml", "--output", tmp_path / "merged")
    assert "none.yaml" in line


# --- methods that read data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", MERGED_WITH_DATA)
def test_methods_that_read_data_write_what_their_functions_make(texts, method):
    file = write(texts, **text_settings(texts), merge_method=method, parameters=OPTIONS[method], seed=1)
    said = succeed("merge", file, "--output", texts / "merged")
    assert "colours: " in said  # accuracy on test data
    assert AutoTokenizer.from_pretrained(texts / "merged")("hot")["input_ids"]
    assert set(wemoe.load_heads(texts / "merged")) == {"colours", "animals"}

    suite = load_suite(read_config(file))
    found = state_of(texts / "merged")
    expected = by_hand(method, suite)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    base = suite.base.state_dict()
    assert any(not torch.equal(tensor, base[name]) for name, tensor in found.items() if name in base)


def test_a_method_that_makes_a_front_is_left_to_its_own_command(texts):
    file = write(texts, **text_settings(texts), merge_method="pwemoe")
    for option in (["--dry-run"], ["--output", texts / "merged"]):
        (line,) = refusal("merge", file, *option)
        assert line.startswith("merge_method: pwemoe makes a model for every preference, which is trained on labels; ")
        assert "`wemoe pareto CONFIG --output DIR`" in line
    (line,) = refusal("adapt", file, "--output", texts / "adapted")
    assert line == "merge_method: must be wemoe or e_wemoe, whose routers learn on unlabeled data; found 'pwemoe'"


@pytest.mark.parametrize("method", ["regmean", "ties"])
def test_a_base_with_a_head_of_the_experts_own_kind_is_merged_too(texts, method):
    for task in ("base", "animals"):
        shutil.copytree(texts / "colours", texts / task, dirs_exist_ok=True)
    settings = text_settings(texts)
    settings["tasks"]["animals"] = settings["tasks"]["colours"]
    parameters = OPTIONS.get(method, {"weight": 1})
    file = write(texts, **settings, merge_method=method, parameters=parameters)
    succeed("merge", file, "--output", texts / "merged")
    model, info = AutoModel.from_pretrained(texts / "merged", output_loading_info=True)
    assert not info["missing_keys"]
    expected = AutoModel.from_pretrained(texts / "colours").state_dict()  # all models are one
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)  # a mean of equal numbers in fp32
    assert "accuracy" in succeed("evaluate", texts / "merged", "--config", file)


def state_of(folder):
    if (folder / "wemoe.safetensors").exists():
        return wemoe.from_pretrained(folder, progress=False).state_dict()
    return AutoModel.from_pretrained(folder).state_dict()


def by_hand(method, suite):
    """The weights that the functions of `wemoe` give."""
    if method in ("fisher", "regmean"):
        function, seed = getattr(wemoe, method), {"seed": 1} if method == "fisher" else {}
        streams = suite.streams(32, 1)
        return function(suite.base, suite.experts, streams, suite.predict, **OPTIONS[method], **seed).state_dict()
    how = OPTIONS[method] | {"seed": 1, "progress": False}
    if method == "adamerging":
        return wemoe.adamerging(suite.base, suite.experts, suite.streams(16, 1), suite.predict, **how).state_dict()
    torch.manual_seed(1)
    model = wemoe.upcycle(suite.base, suite.experts, method=method, progress=False)
    wemoe.adapt(model, suite.streams(16, 1), suite.predict, experts=suite.experts, **how)
    return model.state_dict()


def test_a_sweep_chooses_on_validation_data_and_tests_what_it_chose(texts, monkeypatch):
    scored = []
    score = Suite.score

    def spy(self, model, tasks=None, part="test"):
        scored.append(part)
        accuracy = score(self, model, tasks, part)
        moved = (model.state_dict()["pooler.dense.weight"] - self.base.state_dict()["pooler.dense.weight"]).norm()
        return accuracy if part == "test" else dict.fromkeys(accuracy, float(moved))  # the largest lambda is best

    monkeypatch.setattr(Suite, "score", spy)
    file = write(texts, **text_settings(texts), merge_method="task_arithmetic", parameters={"weight": 1})
    said = succeed("merge", file, "--output", texts / "merged", "--sweep", "lambda=0.1,0.4,0.2")
    assert scored == ["validation"] * 3 + ["test"]
    assert "lambda 0.4: " in said
    assert [line.endswith("the best") for line in said.splitlines() if line.startswith("lambda")] == [
        False, True, False
    ]  # fmt: skip
    assert yaml.safe_load((texts / "merged" / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0])[
        "parameters"
    ]["lambda"] == pytest.approx(0.4)

    monkeypatch.undo()
    succeed("merge", write(texts, **text_settings(texts), merge_method="task_arithmetic",
                           parameters={"weight": 1, "lambda": 0.4}), "--output", texts / "direct")  # fmt: skip
    swept, direct = (load_file(texts / name / "model.safetensors") for name in ("merged", "direct"))
    assert all(torch.equal(swept[key], direct[key]) for key in direct)


@pytest.mark.parametrize("method", ["linear", "dare_ties", "wemoe"])
def test_a_built_in_suite_brings_models_and_data(texts, monkeypatch, method):
    suite = load_suite(read_config(write(texts, **text_settings(texts))))
    monkeypatch.setattr("wemoe.configured_merge.load_suite", lambda config, device: suite)
    parameters = OPTIONS.get(method, {"weight": 1})
    file = write(texts, suite="text6", merge_method=method, parameters=parameters)
    assert "makes its own models" in succeed("merge", file, "--dry-run")
    succeed("merge", file, "--output", texts / "merged")
    assert state_of(texts / "merged").keys() >= {"pooler.dense.weight"}


# --- adapt -----------------------------------------------------------------------------------------------------------


def test_adapt_makes_a_routed_model_or_goes_on_with_one(texts):
    file = write(texts, **text_settings(texts), merge_method="wemoe", parameters=OPTIONS["wemoe"])
    succeed("adapt", file, "--output", texts / "first")
    succeed("merge", file, "--output", texts / "merged")
    first, merged = state_of(texts / "first"), state_of(texts / "merged")
    assert all(torch.equal(first[name], merged[name]) for name in first)

    succeed("adapt", file, "--model", texts / "first", "--output", texts / "second", "--steps", "1")
    second = state_of(texts / "second")
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert moved
    assert all(".router." in name for name in moved)
    assert set(wemoe.load_heads(texts / "second")) == {"colours", "animals"}
    assert AutoTokenizer.from_pretrained(texts / "second")("hot")["input_ids"]


def test_adapt_changes_the_experts_answers_as_the_configuration_asks(texts):
    settings = text_settings(texts)
    colours = [row | {"label": LABELS["colours"][0]} for row in text_rows("colours")]  # nearly all of one class
    write_jsonl(texts / "colours-train.jsonl", [*colours, text_rows("colours")[1]])
    for task in settings["tasks"].values():
        task["unlabeled"] = task["test"]
    parameters = OPTIONS["wemoe"] | {"class_shares": 1.5, "anchor": 0.25}
    file = write(texts, **settings, merge_method="wemoe", parameters=parameters, seed=1)
    succeed("adapt", file, "--output", texts / "held")

    suite = load_suite(read_config(file))
    torch.manual_seed(1)
    model = wemoe.upcycle(suite.base, suite.experts, progress=False)
    experts = ExpertAnswers(suite).by_task(class_shares=1.5, anchor=0.25, init_lambda=0.3)
    wemoe.adapt(model, suite.streams(16, 1), suite.predict, experts=experts, **ADAPT, seed=1, progress=False)
    held = state_of(texts / "held")
    assert all(torch.equal(held[name], tensor) for name, tensor in model.state_dict().items())
    free = by_hand("wemoe", suite)
    assert any(not torch.equal(held[name], tensor) for name, tensor in free.items())


def test_adapt_refuses_methods_without_routers_and_models_of_other_tasks(texts):
    settings = text_settings(texts)
    file = write(texts, **settings, merge_method="fisher")
    assert refusal("adapt", file, "--output", texts / "adapted") == [
        "merge_method: must be wemoe or e_wemoe, whose routers learn on unlabeled data; found 'fisher'"
    ]
    base = tiny_bert()
    wemoe.upcycle(base, experts_of(base), progress=False).save_pretrained(texts / "routed")
    file = write(texts, **settings, merge_method="wemoe")
    (line,) = refusal("adapt", file, "--model", texts / "routed", "--output", texts / "adapted")
    assert line == (
        "models: must have the tasks of the routed model, ['task0', 'task1', 'task2']; found ['colours', 'animals']"
    )
    assert not (texts / "adapted").exists()


# --- unload ----------------------------------------------------------------------------------------------------------


def test_unload_writes_a_folder_that_transformers_loads(texts):
    options = OPTIONS["wemoe"] | {"router_hidden_layers": 0}
    file = write(texts, **text_settings(texts), merge_method="wemoe", parameters=options)
    succeed("merge", file, "--output", texts / "routed")
    succeed("unload", texts / "routed", "--output", texts / "plain")

    found, info = AutoModel.from_pretrained(texts / "plain", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    routed = wemoe.from_pretrained(texts / "routed", progress=False)
    assert all(torch.equal(t, found.state_dict()[n]) for n, t in wemoe.merge_and_unload(routed).state_dict().items())
    assert set(wemoe.load_heads(texts / "plain")) == {"colours", "animals"}
    assert AutoTokenizer.from_pretrained(texts / "plain")("hot")["input_ids"]
    assert "encoder.layer.0.output.dense" in (texts / "plain" / "README.md").read_text()
    assert "accuracy" in succeed("evaluate", texts / "plain", "--config", file)


def test_unload_needs_constants_and_a_folder_of_its_own(tmp_path):
    base = tiny_bert()
    wemoe.upcycle(base, experts_of(base, tasks=2), progress=False).save_pretrained(tmp_path / "routed")
    (line,) = refusal("unload", tmp_path / "routed", "--output", tmp_path / "plain")
    assert "depth 0" in line
    assert "found depth 2" in line
    (line,) = refusal("unload", tmp_path / "routed", "--output", tmp_path / "routed")
    assert line.startswith("output must be a folder of its own")
    (line,) = refusal("unload", tmp_path / "routed", "--output", tmp_path / "plain", "--routing-weights", "a,b")
    assert line == "--routing-weights must be numbers like 0.3,0.1; found 'a,b'"
    assert not (tmp_path / "plain").exists()

    succeed("unload", tmp_path / "routed", "--output", tmp_path / "plain", "--routing-weights", "0.3,0.3")
    found, expected = AutoModel.from_pretrained(tmp_path / "plain"), wemoe.task_arithmetic(base, experts_of(base, 2))
    inputs = inputs_of(base)
    with torch.inference_mode():
        # everything at 0.3 is task arithmetic: sums of three terms in fp32, through two blocks
        torch.testing.assert_close(
            found(**inputs).last_hidden_state, expected(**inputs).last_hidden_state, atol=1e-5, rtol=0
        )


# --- methods and help ------------------------------------------------------------------------------------------------


def test_methods_are_listed_in_one_line_each():
    lines = succeed("methods").splitlines()
    assert [line.split()[0] for line in lines] == list(PARAMETERS)
    assert [line.split()[0] for line in lines if line.endswith("reads data")] == WITH_DATA
    rows = json.loads(succeed("methods", "--json"))
    ties = next(row for row in rows if row["name"] == "ties")
    assert ties["parameters"]["lambda"] == 1.0
    assert ties["parameters_of_one_model"] == ["weight", "density"]
    assert "anyOf" in json.loads(succeed("methods", "--schema"))


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_takes_less_than_a_second_and_no_torch(command):
    program = f"import sys; sys.modules['torch'] = None; sys.argv[1:] = {[*([command] if command else []), '--help']}; "
    program += "import runpy; runpy.run_module('wemoe', run_name='__main__')"
    best = 60.0
    for _ in range(3):  # of several, the one that nothing else got in the way of
        start = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        best = min(best, time.perf_counter() - start)
        assert result.returncode == 0, result.stderr
        assert "Usage: wemoe" in result.stdout
        if best < 1:
            break
    assert best < 1
