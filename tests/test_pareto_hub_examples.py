"""The examples for models of the Hub, run as they stand on tiny models of the same classes."""

from pathlib import Path

import pytest
import yaml
from transformers import (
    CLIPVisionModel,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
)

from clip_examples import clip_example
from headed import with_labels
from models import fine_tuned
from task_folders import write_jsonl
from tiny_families import FAMILIES
from tiny_texts import WORDS, tiny_base
from wemoe.configured_pareto import pareto
from wemoe.merge_config import parse_config
from wemoe.suites import load_suite
from wemoe.unloaded_folders import unload_folder

EXAMPLES = Path(__file__).parents[1] / "examples"
PARTS = ("train", "validation", "test")


def tiny_example(name, folder, modules):
    """What an example says, of models in a folder, and with two steps of training."""
    content = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    content["base_model"] = str(folder / "base")
    for entry in content["models"]:
        entry["model"] = str(folder / entry["task"])
    content["parameters"] |= {"steps": 2, "batch_size": 4, "modules": modules}
    return content


def gpt2(folder, content):
    """GPT-2 with its own head as the base, classifiers as experts, and the columns of GLUE."""
    base = fine_tuned(FAMILIES["gpt2"].make(), seed=0)
    assert type(base) is GPT2LMHeadModel
    base.save_pretrained(folder / "base")
    tiny_base()[1].save_pretrained(folder / "base")
    for seed, (task, settings) in enumerate(content["tasks"].items(), start=1):
        config = with_labels(base.config, 3 if task == "mnli" else 2)
        config.pad_token_id = 0
        expert = GPT2ForSequenceClassification(config).eval()
        expert.transformer.load_state_dict(fine_tuned(base, seed).transformer.state_dict())
        expert.save_pretrained(folder / task)
        columns = [settings["text"]] if isinstance(settings["text"], str) else settings["text"]
        words = [*WORDS["colours"][0], *WORDS["animals"][1]]
        (folder / "data" / task).mkdir(parents=True)
        for start, part in enumerate(PARTS):
            texts = [" ".join(words[(row + start + i) % 6] for i in range(1 + row % 3)) for row in range(8)]
            rows = [dict.fromkeys(columns, text) | {"label": row % 2} for row, text in enumerate(texts)]
            write_jsonl(folder / "data" / task / f"{part}.jsonl", rows)


def clip(folder, content):
    """CLIP with both towers as the base, vision towers as experts, and images in data sets."""
    content["tasks"] = clip_example("clip_vit_b32_8tasks", folder)["tasks"]


@pytest.mark.parametrize("modules", ["mlp", "all"])
@pytest.mark.parametrize(
    ("name", "make", "kind"), [("gpt2_7tasks", gpt2, GPT2Model), ("clip_vit_b32_8tasks", clip, CLIPVisionModel)]
)
def test_an_example_gives_a_front_and_the_model_of_each_preference(name, make, kind, modules, tmp_path):
    content = tiny_example(name, tmp_path, modules)
    make(tmp_path, content)
    settings = parse_config(content, tmp_path)
    own, *_ = pareto(settings, tmp_path / "front", progress=False).fronts
    tasks = list(content["tasks"])
    assert own.tasks == tuple(tasks)
    assert len(own.points) == len(tasks) + 1  # the corners, and equal preference

    last = own.points[-2]
    assert last.preference == (1.0,) + (0.0,) * (len(tasks) - 1)
    unload_folder(tmp_path / "front" / "model", tmp_path / "plain", last.preference, progress=False)
    plain, info = kind.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not any(info[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    measured = load_suite(settings).measure(plain.eval())
    # the same weights, in products that add in another order: a few units in the last place of fp32
    assert measured.losses == pytest.approx(last.losses, rel=1e-4)
