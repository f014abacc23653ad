"""Loading: in which dtypes, from where, into what, and what earlier versions wrote."""

import json

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertModel, GenerationConfig

import wemoe
from models import experts_of, inputs_of, randomised, tiny_bert
from test_upcycling import output


@pytest.fixture
def model():
    base = tiny_bert(intermediate_size=32)  # a multiple of 16: packed on a CPU
    return randomised(wemoe.upcycle(base, experts_of(base)))


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "merged")
    return tmp_path / "merged"


def dtypes(model):
    """Dtypes of routers, of task vectors, and of the rest."""
    routers, task_vectors, rest = set(), set(), set()
    for name, parameter in model.named_parameters():
        part = routers if ".router." in name else task_vectors if ".task_" in name else rest
        part.add(parameter.dtype)
    return routers, task_vectors, rest


@pytest.mark.parametrize(
    ("options", "task_vectors", "rest"),
    [
        ({}, torch.float32, torch.float32),
        ({"dtype": torch.bfloat16}, torch.bfloat16, torch.bfloat16),
        ({"task_vector_dtype": torch.float16}, torch.float16, torch.float32),
        ({"dtype": torch.float64, "task_vector_dtype": torch.bfloat16}, torch.bfloat16, torch.float64),
    ],
)
def test_frozen_weights_are_converted_and_routers_stay_in_fp32(saved, model, options, task_vectors, rest):
    again = wemoe.from_pretrained(saved, **options)
    assert dtypes(again) == ({torch.float32}, {task_vectors}, {rest})
    assert again.config.dtype == options.get("dtype", model.config.dtype)
    expected = model.state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype))
    inputs = inputs_of(tiny_bert())
    # two blocks of layers whose outputs are normed to size 1, every weight and state rounded to 8 bits at worst
    torch.testing.assert_close(output(again, inputs).float(), output(model, inputs), atol=0.1, rtol=0)


@pytest.mark.parametrize("name", ["dtype", "task_vector_dtype"])
@pytest.mark.parametrize("dtype", [torch.int8, "bfloat16"])
def test_what_is_no_dtype_of_weights_is_refused(saved, name, dtype):
    with pytest.raises(ValueError, match=rf"^{name} must be one of \['torch.float32', .*; found "):
        wemoe.from_pretrained(saved, **{name: dtype})


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(1, dtype=torch.complex64), "must hold dtypes among .*; found 'C64' in 'odd'"),
        (None, "'pooler.dense.bias' must be in one file; found in .*other.safetensors"),
    ],
)
def test_a_stored_tensor_of_an_odd_dtype_or_in_two_files_is_refused(saved, tensor, message):
    odd = {"pooler.dense.bias": torch.ones(16)} if tensor is None else {"odd": tensor}
    save_file(odd, saved / "wemoe-other.safetensors")
    with pytest.raises(ValueError, match=message):
        wemoe.from_pretrained(saved)


def test_a_number_beyond_the_range_of_float16_is_refused(saved):
    weights = load_file(saved / "wemoe.safetensors")
    weights["encoder.layer.0.output.dense.up.task_vectors"][0, 0, 0] = 1e6
    save_file(weights, saved / "wemoe.safetensors")
    with pytest.raises(ValueError, match=r"up.task_vectors' in float16 must be within \+-65504; found a larger"):
        wemoe.from_pretrained(saved, task_vector_dtype=torch.float16)
    wemoe.from_pretrained(saved, task_vector_dtype=torch.bfloat16)


class Scaled(BertModel):
    """A base of a class that is not in transformers, with a buffer that state dicts leave out."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.register_buffer("scale", torch.tensor(1 / 3), persistent=False)

    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        found.last_hidden_state = found.last_hidden_state * self.scale
        return found


def test_a_base_of_another_class_is_loaded_into_a_copy_of_an_instance(tmp_path):
    config = tiny_bert().config
    base = Scaled(config).eval().bfloat16()
    model = randomised(wemoe.upcycle(base, experts_of(base)))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"found base_class 'Scaled'\. A base of another class is loaded with base_mo"):
        wemoe.from_pretrained(tmp_path)
    instance = Scaled(config).eval()
    before = {name: tensor.clone() for name, tensor in instance.state_dict().items()}
    again = wemoe.from_pretrained(tmp_path, base_model=instance)
    assert type(again) is type(model)
    assert again.scale.dtype == torch.bfloat16  # as the conversion of the base had rounded it
    inputs = inputs_of(base)
    assert torch.equal(output(again, inputs), output(model, inputs))
    assert type(instance) is Scaled
    assert all(torch.equal(tensor, before[name]) for name, tensor in instance.state_dict().items())
    assert wemoe.estimate_memory(tmp_path, base_model=instance) == wemoe.estimate_memory(model)


def test_an_instance_of_another_class_is_refused(saved, model):
    with pytest.raises(ValueError, match="base_model must be of the class BertModel; found BertForMaskedLM"):
        wemoe.from_pretrained(saved, base_model=BertForMaskedLM(tiny_bert().config))
    for wrong in ("bert", model):
        with pytest.raises(TypeError, match=r"base_model must be a plain torch\.nn\.Module; found"):
            wemoe.from_pretrained(saved, base_model=wrong)


def test_the_generation_configuration_is_kept(model, tmp_path):
    model.generation_config = GenerationConfig(max_new_tokens=7)
    model.save_pretrained(tmp_path)
    again = wemoe.from_pretrained(tmp_path)
    assert again.generation_config.max_new_tokens == 7
    again.generation_config = None
    again.save_pretrained(tmp_path)
    assert not (tmp_path / "generation_config.json").exists()


def test_a_repository_is_downloaded_without_what_is_not_needed(saved, model, monkeypatch):
    asked = {}

    def download(name, **how):
        asked.update(how, name=name)
        return str(saved)

    monkeypatch.setattr("wemoe.repositories.snapshot_download", download)
    again = wemoe.from_pretrained("owner/merged", revision="v1", token="secret", local_files_only=True)
    assert asked == {
        "name": "owner/merged",
        "revision": "v1",
        "token": "secret",
        "local_files_only": True,
        "allow_patterns": ["config.json", "generation_config.json", "wemoe*.safetensors*"],
    }
    inputs = inputs_of(tiny_bert())
    assert torch.equal(output(again, inputs), output(model, inputs))


def test_heads_come_from_a_repository_too(model, tmp_path, monkeypatch):
    head = torch.nn.Linear(16, 3)
    model.save_pretrained(tmp_path, heads={"task0": head})
    asked = {}

    def download(name, **how):
        asked.update(how, name=name)
        return str(tmp_path)

    monkeypatch.setattr("wemoe.repositories.snapshot_download", download)
    assert torch.equal(wemoe.load_heads("owner/merged", revision="v1")["task0"].weight, head.weight)
    assert (asked["name"], asked["revision"]) == ("owner/merged", "v1")
    assert asked["allow_patterns"] == ["heads.safetensors"]


@pytest.mark.parametrize("name", ["owner/nowhere", "nowhere", "a/b/c", "/no/where", "no where"])
def test_what_is_neither_a_folder_nor_a_repository_is_refused(name, monkeypatch):
    def download(*_args, **_options):
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr("wemoe.repositories.snapshot_download", download)
    with pytest.raises(FileNotFoundError, match=rf"'{name}.*found (neither: not in the cache|no such file)"):
        wemoe.from_pretrained(name)


def test_a_checkpoint_of_version_1_is_read(saved, model, tmp_path):
    """What version 1 did not have is taken out of the configuration; the weights are the same."""
    file = saved / "config.json"
    configuration = json.loads(file.read_text())
    del configuration["shared"]
    for later in ("provenance", "wemoe_version", "families"):
        del configuration["wemoe"][later]
    configuration["wemoe"]["format_version"] = 1
    assert configuration["wemoe"].keys() == {
        *("format_version", "method", "base_class", "absent", "tasks"),
        *("init_lambda", "router_hidden_layers", "batch_reduce"),
    }
    file.write_text(json.dumps(configuration))
    again = wemoe.from_pretrained(saved)
    assert again.routing_config.provenance is None
    inputs = inputs_of(tiny_bert())
    assert torch.equal(output(again, inputs), output(model, inputs))
    again.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())["wemoe"]
    assert (written["format_version"], written["wemoe_version"]) == (2, wemoe.__version__)


def test_a_tied_tensor_of_version_1_may_be_stored_under_any_of_its_names(tmp_path):
    base = BertForMaskedLM(tiny_bert().config).eval()
    model = wemoe.upcycle(base, experts_of(base))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "wemoe.safetensors")
    weights["cls.predictions.decoder.weight"] = weights.pop("bert.embeddings.word_embeddings.weight")
    save_file(weights, tmp_path / "wemoe.safetensors")
    again = wemoe.from_pretrained(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)
