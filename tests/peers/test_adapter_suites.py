"""LoRA adapters of PEFT (version 0.21.2) as the experts of a suite: they are read as PEFT reads them."""

import warnings

import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification

from task_folders import LABELS, text_folders, text_settings
from wemoe.merge_config import parse_config
from wemoe.suites import load_suite

# PEFT calls what transformers calls deprecated, in its own training set-up
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture(scope="module")
def peft():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn, which is not ours to judge
        return pytest.importorskip("peft")


def adapter(peft, folder, task):
    """Save a random adapter of a classifier over the base; return PEFT's own model."""
    config = peft.LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["query", "value"])
    base = BertForSequenceClassification.from_pretrained(folder / "base", num_labels=len(LABELS[task]))
    tuned = peft.get_peft_model(base, config)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            nn.init.normal_(parameter, std=0.2)
    tuned.save_pretrained(folder / f"{task}-adapter")
    return tuned.merge_and_unload().eval()


def test_a_suite_of_adapters_gives_the_logits_of_peft(peft, tmp_path):
    folder = text_folders(tmp_path)
    expected = {task: adapter(peft, folder, task) for task in LABELS}
    settings = text_settings(folder)
    for entry in settings["models"]:
        entry["model"] += "-adapter"
    for task, names in LABELS.items():
        settings["tasks"][task]["labels"] = names
    suite = load_suite(parse_config(settings, folder))
    for task, batches in suite.batches().items():
        for batch, _ in batches:
            found = suite.predict(suite.experts[task], batch, task)
            assert torch.equal(found, expected[task](**batch.inputs).logits)
