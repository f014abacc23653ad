"""The README's Python runs, from top to bottom, on tiny models in place of the reader's own."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from transformers import BertForSequenceClassification

from models import VOCABULARY, experts_of, tiny_bert
from tiny_families import FAMILIES
from wemoe.merge_config import parse_config

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def readers_own():
    """What the README says the reader has: bases, experts, streams of unlabeled batches, heads and classifiers."""
    base = tiny_bert()
    experts = experts_of(base, tasks=2)

    def batch():
        return {"input_ids": torch.randint(1, VOCABULARY, (4, 6)), "attention_mask": torch.ones(4, 6).long()}

    gpt2 = FAMILIES["gpt2"].make()
    return {
        "gpt2": gpt2,
        "gpt2_experts": experts_of(gpt2, tasks=2),
        "prompt": torch.randint(3, VOCABULARY, (2, 4)),
        "base": base,
        "experts": experts,
        "classifiers": {task: BertForSequenceClassification(base.config).eval() for task in experts},
        "heads": {task: nn.Linear(16, 3).requires_grad_(False) for task in experts},
        "streams": {task: [batch() for _ in range(3)] for task in experts},
        "labelled_batches": {task: [(batch(), torch.randint(0, 3, (4,)))] for task in experts},
        "test_batches": {task: [(batch(), torch.randint(0, 3, (4,)))] for task in experts},
        "validation_batches": {task: [(batch(), torch.randint(0, 3, (4,)))] for task in experts},
        "batch": batch(),
    }


def test_the_readmes_python_runs(readers_own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) >= 3
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), readers_own)


def test_the_readmes_configuration_is_right():
    (block,) = re.findall(r"^```yaml\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    config = parse_config(yaml.safe_load(block))
    assert config.merge_method == "wemoe"
    assert config.experts.keys() == config.tasks.keys() == {"movies", "news"}


def test_the_diff_shows_what_exists():
    import wemoe

    (diff,) = re.findall(r"^```diff\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    names = set(re.findall(r"wemoe\.(\w+)", diff))
    assert names
    assert names <= set(wemoe.__all__)
