"""The Python of docs/pareto.md runs on tiny models, and its configuration is right."""

import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

import wemoe
from models import VOCABULARY, experts_of, fine_tuned, tiny_bert
from tiny_clip import save_clip
from wemoe.merge_config import FrontConfig, parse_config

TEXT = (Path(__file__).parents[1] / "docs" / "pareto.md").read_text(encoding="utf-8")
PYTHON, GLUE, CLIP = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_configuration_is_right_and_says_the_defaults():
    (block,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    found = parse_config(yaml.safe_load(block))
    assert isinstance(found, FrontConfig)
    fresh = parse_config({"suite": "text6", "merge_method": "pwemoe"})
    for name in type(fresh.parameters).model_fields:
        assert f"`{name}`" in TEXT
    for name in type(fresh.pareto).model_fields:
        assert f"\n| `{name}` |" in TEXT
    (told,) = re.findall(r"\n\| `fine_tuning` \| `(.*?)` \|", TEXT)
    assert yaml.safe_load(told).keys() == fresh.pareto.fine_tuning.model_dump().keys()
    assert fresh.pareto.fine_tuning == type(fresh.pareto.fine_tuning).model_validate(yaml.safe_load(told))


def test_the_python_runs(capsys):
    base = tiny_bert()
    experts = experts_of(base, tasks=2)

    def batches(count):
        inputs = {"input_ids": torch.randint(1, VOCABULARY, (4, 6)), "attention_mask": torch.ones(4, 6).long()}
        return [(inputs, torch.randint(0, 3, (4,))) for _ in range(count)]

    validation, test = ({task: batches(1) for task in experts} for _ in range(2))
    heads = {task: nn.Linear(16, 3).requires_grad_(False) for task in experts}
    names = {
        "base": base,
        "experts": experts,
        "tasks": list(experts),
        "heads": heads,
        "cross_entropy": F.cross_entropy,
        "loaders": {task: batches(3) for task in experts},
        "test_batches": lambda: test,
        "predict": lambda model, inputs, task: heads[task](model(**inputs).pooler_output),
        "mean_loss": lambda model, task: float(names["loss"](model, validation[task][0], task)),
    }
    exec(compile(PYTHON, "docs/pareto.md", "exec"), names)
    assert [point.preference for point in names["front"].points] == [(0, 1), (0.5, 0.5), (1, 0)]
    assert wemoe.get_preference(wemoe.from_pretrained("steered", progress=False)).tolist() == pytest.approx([0.7, 0.3])
    assert type(names["plain"]) is type(base)
    assert Path("front.png").is_file()


def test_glue_becomes_files(monkeypatch):
    """Of the `datasets` package, what the lines call."""

    class Rows(list):
        def train_test_split(self, test_size, seed):
            assert seed == 0
            held = round(test_size * len(self))
            return {"train": Rows(self[held:]), "test": Rows(self[:held])}

        def to_json(self, path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text("".join(json.dumps(row) + "\n" for row in self))

    rows = Rows({"sentence": f"text {number}", "label": number % 2} for number in range(20))
    module = types.ModuleType("datasets")
    module.load_dataset = lambda name, task: {"train": rows, "validation": Rows(rows[:5])}
    monkeypatch.setitem(sys.modules, "datasets", module)
    exec(compile(GLUE, "docs/pareto.md", "exec"), {})
    named = yaml.safe_load((Path(__file__).parents[1] / "examples" / "gpt2_7tasks.yaml").read_text())["tasks"]["cola"]
    counts = [len(Path(named[part]).read_text().splitlines()) for part in ("train", "validation", "test")]
    assert counts == [18, 2, 5]
    assert named["text"] in json.loads(Path(named["test"]).read_text().splitlines()[0])


def test_clip_gives_a_head_and_a_tower():
    whole = save_clip(Path("clip"))
    block = CLIP
    for seed, task in enumerate(("dtd", "mnist")):
        fine_tuned(whole.vision_model, seed).save_pretrained(task)
        block = block.replace(f"tanganke/clip-vit-base-patch32_{task}", task)
    names = {"images": torch.randn(3, 3, 8, 8)}
    exec(compile(block.replace("openai/clip-vit-base-patch32", "clip"), "docs/pareto.md", "exec"), names)
    assert names["logits"].shape == (3, 2)
    assert torch.equal(wemoe.load_heads("merged")["dtd"].classes, names["head"].classes)
