"""LoRA adapters of PEFT (version 0.21.2) under the methods that read data: they run as the models that PEFT makes."""

import copy
import warnings
from functools import partial

import pytest
import torch
from torch import nn

import wemoe
from models import inputs_of, tiny_bert

# PEFT calls what transformers calls deprecated, in its own training set-up
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::FutureWarning")]

RUNS = {
    "fisher": partial(wemoe.fisher, examples=3),
    "regmean": partial(wemoe.regmean, examples=3),
    "adamerging": partial(wemoe.adamerging, steps=2, objective="match", learning_rate=0.1, progress=False),
}


@pytest.fixture(scope="module")
def peft():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn, which is not ours to judge
        return pytest.importorskip("peft")


def predict(model, batch, task):
    return model(**batch).pooler_output


@pytest.mark.parametrize("name", RUNS)
def test_adapters_give_what_whole_models_give(peft, name, tmp_path):
    base = tiny_bert()
    batches = {task: [inputs_of(base)] for task in "xy"}
    whole = {}
    for seed, task in enumerate("xy"):
        torch.manual_seed(seed)
        tuned = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=2, target_modules=["query", "value"]))
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.2)
        tuned.save_pretrained(tmp_path / task)
        whole[task] = tuned.merge_and_unload()
    expected = RUNS[name](base, whole, batches, predict).state_dict()
    merged = RUNS[name](base, {task: tmp_path / task for task in "xy"}, batches, predict).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in merged.items())
    changed = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(merged[changed], base.state_dict()[changed])
