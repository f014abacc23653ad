"""Checkpoints: a folder that needs neither base nor experts, read strictly or not at all."""

import json
import os
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, BertForMaskedLM, BertModel

import wemoe
from models import BASES, experts_of, inputs_of, randomised, tiny_bert
from test_upcycling import output


@pytest.fixture(params=BASES)
def base(request):
    return BASES[request.param]()


@pytest.fixture
def saved(tmp_path):
    base = tiny_bert()
    model = randomised(wemoe.upcycle(base, experts_of(base)))
    model.save_pretrained(tmp_path / "merged")
    return tmp_path / "merged"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_reloaded_model_is_equal_to_the_last_bit(base, depth, tmp_path):
    model = randomised(wemoe.upcycle(base, experts_of(base), router_hidden_layers=depth))
    inputs = inputs_of(base)
    model.save_pretrained(tmp_path / "merged")
    again = wemoe.from_pretrained(tmp_path / "merged")
    assert type(again) is type(model)
    assert again.routing_config == model.routing_config
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    assert torch.equal(output(again, inputs), output(model, inputs))


def test_loaded_weights_are_aligned_so_that_sums_are_the_same(saved):
    assert all(p.data_ptr() % 64 == 0 for p in wemoe.from_pretrained(saved).parameters())


def test_a_fresh_process_reads_it_from_the_folder_alone(saved):
    script = (
        "import sys, torch, wemoe; model = wemoe.from_pretrained(sys.argv[1]);"
        "print(model(input_ids=torch.arange(1, 6).unsqueeze(0)).last_hidden_state.sum().item())"
    )
    found = subprocess.run([sys.executable, "-c", script, str(saved)], check=True, capture_output=True, text=True)
    here = wemoe.from_pretrained(saved)(input_ids=torch.arange(1, 6).unsqueeze(0)).last_hidden_state.sum().item()
    # thread counts may differ between the processes, and with them the order of torch's own sums
    assert float(found.stdout) == pytest.approx(here, rel=1e-5)


def test_shards_and_dtypes_survive(tmp_path):
    base = tiny_bert().bfloat16()
    model = randomised(wemoe.upcycle(base, {t: e.bfloat16() for t, e in experts_of(tiny_bert()).items()}))
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("wemoe-*.safetensors"))) > 1
    again = wemoe.from_pretrained(tmp_path)
    assert [(n, p.dtype) for n, p in again.named_parameters()] == [(n, p.dtype) for n, p in model.named_parameters()]
    inputs = inputs_of(base)
    assert torch.equal(output(again, inputs), output(model, inputs))


def test_saving_again_leaves_no_stale_shard(tmp_path):
    model = wemoe.upcycle(tiny_bert(), experts_of(tiny_bert()))
    (tmp_path / "notes.txt").write_text("kept")
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    model.save_pretrained(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["README.md", "config.json", "notes.txt", "wemoe.safetensors"]


@pytest.mark.parametrize("size", ["8 apples", "big", None])
def test_what_is_no_size_of_a_file_is_refused(tmp_path, size):
    model = wemoe.upcycle(tiny_bert(), experts_of(tiny_bert()))
    with pytest.raises(ValueError, match=f"max_shard_size must be a number of bytes, .* like '5GB'; found '?{size}"):
        model.save_pretrained(tmp_path / "merged", max_shard_size=size)
    assert not (tmp_path / "merged").exists()


def test_a_base_made_without_its_pooler_stays_without(tmp_path):
    base = BertModel(tiny_bert().config, add_pooling_layer=False).eval()
    model = randomised(wemoe.upcycle(base, experts_of(base)))
    model.save_pretrained(tmp_path)
    again = wemoe.from_pretrained(tmp_path)
    assert again.pooler is None
    inputs = inputs_of(base)
    assert torch.equal(output(again, inputs), output(model, inputs))


def test_tied_weights_stay_tied(tmp_path):
    base = BertForMaskedLM(tiny_bert().config).eval()
    model = randomised(wemoe.upcycle(base, experts_of(base)))
    model.save_pretrained(tmp_path)
    again = wemoe.from_pretrained(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    inputs = inputs_of(tiny_bert())
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_task_heads_are_kept_beside_the_model(tmp_path):
    model = wemoe.upcycle(tiny_bert(), experts_of(tiny_bert(), tasks=2))
    heads = {"task0": nn.Linear(16, 3), "task1": nn.Linear(16, 2, bias=False)}
    model.save_pretrained(tmp_path, heads=heads)
    again = wemoe.load_heads(tmp_path)
    assert again.keys() == heads.keys()
    for task, head in heads.items():
        assert again[task].state_dict().keys() == head.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(again[task].parameters(), head.parameters(), strict=True))
        assert not any(p.requires_grad for p in again[task].parameters())
    wemoe.from_pretrained(tmp_path).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"heads need '.*heads\.safetensors'"):
        wemoe.load_heads(tmp_path)


@pytest.mark.parametrize(
    ("heads", "error", "message"),
    [
        (
            {"task0": nn.Identity()},
            TypeError,
            r"heads\['task0'\] must be an nn.Linear, .*; found Identity",
        ),
        ({"other": nn.Linear(1, 1)}, ValueError, r"the model's tasks \['task0'\]; found 'other'"),
    ],
)
def test_heads_that_do_not_fit_are_refused(tmp_path, heads, error, message):
    model = wemoe.upcycle(tiny_bert(), experts_of(tiny_bert(), tasks=1))
    with pytest.raises(error, match=message):
        model.save_pretrained(tmp_path / "merged", heads=heads)
    assert not (tmp_path / "merged").exists()


def test_plain_transformers_fails_loudly(saved):
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        BertModel.from_pretrained(saved)
    with pytest.raises(ValueError, match="wemoe"):
        AutoModel.from_pretrained(saved)


def edit_config(folder, edit):
    file = folder / "config.json"
    configuration = json.loads(file.read_text())
    edit(configuration)
    file.write_text(json.dumps(configuration))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(model_type="bert"), "must say model_type 'wemoe'; found 'bert'"),
        (lambda c: c["wemoe"].update(format_version=3), "must be of format version 1 or 2; found 3"),
        (lambda c: c["wemoe"].pop("format_version"), "must be of format version 1 or 2; found None"),
        (lambda c: c.update(shared=[1]), r"must hold paths by paths under 'shared'; found \[1\]"),
        (
            lambda c: c.update(shared={"forward": "pooler"}),
            "must share what .*; found: method at 'forward', BertPooler",
        ),
        (lambda c: c.update(shared={"no.such": "pooler"}), "must share what the model has; found: .*no"),
        (lambda c: c["wemoe"].update(surprise=1), "(?s)no valid routing configuration: .*surprise"),
        (lambda c: c["wemoe"].update(base_class="Popen"), "a model class of transformers; found base_class 'Popen'"),
        (lambda c: c.pop("base_config"), "must hold an object or null 'base_config'; found 'nothing'"),
        (lambda c: c["wemoe"].update(tasks=["one"]), "misshapen: "),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(saved, edit, message):
    edit_config(saved, edit)
    with pytest.raises(ValueError, match=message):
        wemoe.from_pretrained(saved)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop("encoder.layer.1.output.dense.router.fc2.bias"), "missing: .*router.fc2.bias"),
        (lambda w: w.update(extra=torch.ones(1)), "unexpected: .*extra"),
        (lambda w: w.update({"pooler.dense.bias": torch.ones(3)}), "misshapen: .*pooler.dense.bias"),
    ],
)
def test_a_missing_an_unexpected_or_a_misshapen_tensor_is_named(saved, edit, message):
    weights = load_file(saved / "wemoe.safetensors")
    edit(weights)
    save_file(weights, saved / "wemoe.safetensors")
    with pytest.raises(ValueError, match=message):
        wemoe.from_pretrained(saved)


def test_a_truncated_file_and_a_missing_shard_are_refused(tmp_path):
    model = wemoe.upcycle(tiny_bert(), experts_of(tiny_bert()))
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"must be a whole safetensors file"):
        wemoe.from_pretrained(tmp_path)
    shard.unlink()
    with pytest.raises(ValueError, match="missing: "):
        wemoe.from_pretrained(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match="found no such file"):
        wemoe.from_pretrained(tmp_path / "nowhere")
    (saved / "wemoe.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="needs weights"):
        wemoe.from_pretrained(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(ValueError, match="must be JSON"):
        wemoe.from_pretrained(saved)


def test_an_interrupted_save_leaves_the_old_checkpoint_whole(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("wemoe.saving.json.dumps", interrupt)
    with pytest.raises(KeyboardInterrupt):
        wemoe.from_pretrained(saved).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    model = wemoe.upcycle(tiny_bert(), experts_of(tiny_bert()))
    with pytest.raises(NotADirectoryError, match="found a file there"):
        model.save_pretrained(tmp_path / "file" / "merged")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    model = wemoe.upcycle(tiny_bert(), experts_of(tiny_bert()))
    with pytest.raises(PermissionError, match="must be writable"):
        model.save_pretrained(tmp_path / "merged")
