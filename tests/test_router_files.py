"""Routers alone: loaded into a model of the same base and experts, and into no other."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import wemoe
from models import experts_of, fine_tuned, inputs_of, randomised, tiny_bert
from test_upcycling import output


@pytest.fixture
def sources():
    base = tiny_bert()
    return base, experts_of(base)


@pytest.fixture
def saved(sources, tmp_path):
    wemoe.save_routers(randomised(wemoe.upcycle(*sources)), tmp_path / "routers")
    return tmp_path / "routers"


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_routers_make_the_model_again_for_who_has_the_rest(sources, depth, shared, tmp_path):
    def upcycled():
        model = wemoe.upcycle(*sources, router_hidden_layers=depth)
        if shared:
            model.encoder.layer[1].output.dense.router = model.encoder.layer[0].output.dense.router
        return model

    model = randomised(upcycled())
    wemoe.save_routers(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["routers.json", "routers.safetensors"]
    assert load_file(tmp_path / "routers.safetensors").keys() == {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    other = upcycled()
    wemoe.load_routers(other, tmp_path)
    inputs = inputs_of(sources[0])
    assert torch.equal(output(other, inputs), output(model, inputs))
    assert all(parameter.requires_grad for name, parameter in other.named_parameters() if ".router." in name)


def test_names_of_the_sources_and_the_dtype_of_task_vectors_do_not_matter(sources, saved):
    base, experts = copy.deepcopy(sources)
    base.config._name_or_path = "another/name"
    wemoe.load_routers(wemoe.upcycle(base, experts, task_vector_dtype=torch.bfloat16), saved)


def test_a_loaded_model_takes_routers_too(sources, saved, tmp_path):
    model = wemoe.upcycle(*sources)
    model.save_pretrained(tmp_path / "merged")
    again = wemoe.from_pretrained(tmp_path / "merged")
    wemoe.load_routers(again, saved)
    wemoe.load_routers(model, saved)
    inputs = inputs_of(sources[0])
    assert torch.equal(output(again, inputs), output(model, inputs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_lambda": 0.4}, "with init_lambda = 0.3, as the routers were; found 0.4"),
        ({"router_hidden_layers": 1}, "with router_hidden_layers = 2, .*; found 1"),
        ({"batch_reduce": True}, "with batch_reduce = False, .*; found True"),
    ],
)
def test_a_model_upcycled_in_another_way_is_refused(sources, saved, options, message):
    with pytest.raises(ValueError, match=f"^model must be upcycled {message}"):
        wemoe.load_routers(wemoe.upcycle(*sources, **options), saved)


def test_other_tasks_another_base_or_another_expert_are_named(sources, saved):
    base, experts = sources
    renamed = {f"my {task}": expert for task, expert in experts.items()}
    with pytest.raises(ValueError, match=r"with tasks = \('task0', .*; found \('my task0', "):
        wemoe.load_routers(wemoe.upcycle(base, renamed), saved)
    with pytest.raises(ValueError, match=r"by their sha256, these are others: \['base'\]"):
        wemoe.load_routers(wemoe.upcycle(fine_tuned(base, seed=9), experts), saved)
    changed = {**experts, "task1": fine_tuned(base, seed=9)}
    with pytest.raises(ValueError, match=r"these are others: \[\"expert 'task1'\"\]"):
        wemoe.load_routers(wemoe.upcycle(base, changed), saved)


def test_a_refusal_leaves_the_routers_as_they_were(sources, saved):
    tensors = load_file(saved / "routers.safetensors")
    tensors["encoder.layer.1.output.dense.router.fc2.bias"] = torch.ones(7)
    save_file(tensors, saved / "routers.safetensors")
    model = wemoe.upcycle(*sources)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"exactly the model's routers; these differ: \['encoder.layer.1.*fc2.bias'\]"):
        wemoe.load_routers(model, saved)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("edit", [lambda tensors: tensors.popitem(), lambda tensors: tensors.update(x=torch.ones(1))])
def test_a_missing_or_an_unexpected_router_is_refused(sources, saved, edit):
    tensors = load_file(saved / "routers.safetensors")
    edit(tensors)
    save_file(tensors, saved / "routers.safetensors")
    with pytest.raises(ValueError, match="exactly the model's routers; these differ"):
        wemoe.load_routers(wemoe.upcycle(*sources), saved)


def test_damaged_and_missing_files_are_refused(sources, saved, tmp_path):
    model = wemoe.upcycle(*sources)
    with pytest.raises(FileNotFoundError, match=r"needs '.*routers\.json'; found no such file"):
        wemoe.load_routers(model, tmp_path)
    configuration = json.loads((saved / "routers.json").read_text())
    (saved / "routers.json").write_text(json.dumps({**configuration, "format_version": 3}))
    with pytest.raises(ValueError, match=r"routers.json' must be of format version 1 or 2; found 3"):
        wemoe.load_routers(model, saved)
    (saved / "routers.json").write_text(json.dumps({**configuration, "provenance": None}))
    with pytest.raises(ValueError, match="must be made of the base and the experts"):
        wemoe.load_routers(model, saved)
    (saved / "routers.json").write_text(json.dumps(configuration))
    (saved / "routers.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"need '.*routers\.safetensors'"):
        wemoe.load_routers(model, saved)


def test_what_cannot_tell_its_sources_is_refused(sources, saved):
    model = wemoe.upcycle(*sources)
    model.routing_config = model.routing_config.model_copy(update={"provenance": None})
    for call in (wemoe.save_routers, wemoe.load_routers):
        with pytest.raises(ValueError, match="model must say what it was made of"):
            call(model, saved)
        with pytest.raises(TypeError, match="model must be a routed model; found BertModel"):
            call(sources[0], saved)
