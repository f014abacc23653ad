"""Tiny models in folders and tasks in files: what a user of a configuration has."""

import csv
import json

import torch
from PIL import Image
from torch import nn
from transformers import BertForSequenceClassification, ViTImageProcessorPil

from headed import clip_classifier, with_labels
from models import fine_tuned
from tiny_texts import WORDS, tiny_base

LABELS = {"colours": ("cold", "hot"), "animals": ("bird", "beast", "both")}


def write_jsonl(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_csv(file, rows, delimiter=","):
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return file


def text_rows(task, start=0, samples=20):
    """Samples of both kinds of words, with labels in the order of the heads' outputs."""
    words, names = [*WORDS[task][0], *WORDS[task][1]], LABELS[task]
    texts = [" is ".join(words[(row + i) % 6] for i in range(1 + row % 4)) for row in range(start, start + samples)]
    return [{"text": text, "label": names[(7 * row * row + row // 3) % len(names)]} for row, text in enumerate(texts)]


def classifier(task, backbone, tokenizer, seed):
    """A classifier over a tiny BERT, with as many labels as its task has; it gives all of them."""
    config = with_labels(backbone.config, len(LABELS[task]))
    config.id2label = dict(enumerate(LABELS[task]))
    config.label2id = {name: number for number, name in config.id2label.items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config).eval()
        nn.init.normal_(model.classifier.weight)
    model.bert.load_state_dict(backbone.state_dict())
    texts = [row["text"] for row in text_rows(task)]
    with torch.no_grad():  # or every text would have the same label
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
        model.classifier.bias -= logits.mean(dim=0)
    return model


def text_folders(folder):
    """A base with its tokenizer, two classifiers, and their data: JSON Lines for one, CSV for the other."""
    small, tokenizer = tiny_base()
    base = fine_tuned(small, seed=0, size=0.3)  # whose features tell texts apart
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for seed, task in enumerate(LABELS, start=1):
        classifier(task, fine_tuned(base, seed), tokenizer, seed).save_pretrained(folder / task)
        write = write_jsonl if task == "colours" else write_csv
        suffix = "jsonl" if task == "colours" else "csv"
        for start, part in enumerate(("train", "validation", "test")):
            write(folder / f"{task}-{part}.{suffix}", text_rows(task, 20 * start))
    return folder


def text_settings(folder):
    """The configuration of `text_folders`, as YAML holds it."""
    suffixes = {"colours": "jsonl", "animals": "csv"}
    return {
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / task), "task": task} for task in LABELS],
        "tasks": {
            task: {part: f"{task}-{part}.{suffix}" for part in ("train", "validation", "test")}
            for task, suffix in suffixes.items()
        },
    }


def image_folders(folder):
    """A classifier of images with its processor, and three images in files."""
    model = clip_classifier(2)
    model.save_pretrained(folder / "expert")
    model.save_pretrained(folder / "base")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder / "base")
    (folder / "images").mkdir()
    rows = []
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (10 + number, 9), colour).save(folder / "images" / f"{colour}.png")
        rows.append({"image": f"images/{colour}.png", "label": number % 2})
    write_jsonl(folder / "test.jsonl", rows)
    return folder


def image_settings(folder):
    return {
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / "expert"), "task": "colours"}],
        "tasks": {"colours": {"test": "test.jsonl", "adapt_on": "test", "image": "image"}},
    }
