"""What the examples for CLIP name on the Hub, tiny and in a folder."""

import re
from pathlib import Path

import datasets
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from models import fine_tuned
from tiny_clip import WORDS, save_clip, tiny_clip

EXAMPLES = Path(__file__).parents[1] / "examples"
COLOURS = ("red", "green", "blue", "white", "black", "yellow")


def clip_example(name, folder):
    """Return what an example says, with its models and data sets in the place of those of the Hub."""
    content = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    texts = [text for task in content["tasks"].values() for texts in task["zero_shot"].values() for text in texts]
    found = re.findall(r"\w+|[^\w\s]+", " ".join([*texts, *map(str, range(10)), "first kind second"]))
    words = list(dict.fromkeys([*WORDS, *found]))
    whole = save_clip(folder / "base", tiny_clip(vocab_size=len(words), max_position_embeddings=32), words)
    content["base_model"] = "base"
    for seed, entry in enumerate(content["models"], start=1):
        entry["model"] = entry["task"]
        fine_tuned(whole.vision_model, seed).save_pretrained(folder / entry["task"])
    for task, settings in content["tasks"].items():
        names = list(map(str, range(10))) if task in ("svhn", "mnist") else ["first_kind", "second_kind"]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        images = [Image.new("RGB", (9, 9), colour) for colour in COLOURS]
        labels = [number % len(names) for number in range(len(images))]
        part = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        datasets.DatasetDict({"train": part, "test": part}).save_to_disk(folder / "data" / task)
        settings["dataset"] = str(folder / "data" / task)
    _name_as_published([folder / name for name in ("base", *content["tasks"])])
    return content


def _name_as_published(folders):
    """Name tensors as the transformers of 2024 did: towers by their place in the whole, with positions in the base."""
    base, *experts = (folder / "model.safetensors" for folder in folders)
    tensors = load_file(base)
    for tower in ("text_model", "vision_model"):
        positions = len(tensors[f"{tower}.embeddings.position_embedding.weight"])
        tensors[f"{tower}.embeddings.position_ids"] = torch.arange(positions)[None]
    save_file(tensors, base, {"format": "pt"})
    for file in experts:
        save_file({f"vision_model.{name}": tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
