"""Three tiny image tasks and a random CLIP vision model that reads them: what is done with images, in seconds.

`hues` asks for the colour, `bars` for the direction of grey stripes, `corners` for the quarter that a grey spot is in.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from wemoe.data.batches import Labelled, Task
from wemoe.data.images import Pixels
from wemoe.experts import FineTuning, make_expert
from wemoe.suites import Suite

CLASSES = {"hues": 3, "bars": 2, "corners": 4}
SAMPLES = 24  # of each part
SIDE = 32


def tiny_vision_model():
    """A random CLIP vision model of two layers that sees four patches of 16 x 16."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=16,
        initializer_factor=10.0,  # or places would hardly count beside colours
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIPVisionModel(config).eval()


def tiny_image_tasks():
    """The tasks by name; all images of all parts differ, and every class is there as often as another."""
    return {name: _task(name, index) for index, name in enumerate(CLASSES)}


def _task(name, seed):
    generator = np.random.default_rng(seed)

    def part():
        labels = np.arange(SAMPLES) % CLASSES[name]
        return Labelled(Pixels(np.stack([DRAWN[name](label, generator) for label in labels])), torch.from_numpy(labels))

    train, validation, unlabeled, test = (part() for _ in range(4))
    return Task(CLASSES[name], train, validation, unlabeled.samples, test, batch_size=16)


def _hue(label, generator):
    image = generator.integers(40, 120, (SIDE, SIDE, 3), dtype=np.uint8)
    image[..., label] += 100
    return image


def _bars(label, generator):
    wave = np.sin(np.arange(SIDE) / 2 + generator.uniform(0, 6))
    image = np.broadcast_to(wave, (SIDE, SIDE)) * 90 + 128
    return (image.T if label else image).astype(np.uint8)


def _corner(label, generator):
    image = generator.integers(0, 60, (SIDE, SIDE), dtype=np.uint8)
    top, left = 16 * (label // 2) + generator.integers(0, 4), 16 * (label % 2) + generator.integers(0, 4)
    image[top : top + 12, left : left + 12] += 180
    return image


DRAWN = {"hues": _hue, "bars": _bars, "corners": _corner}  # colours [H, W, 3]; the others are grey [H, W]


@cache
def tiny_image_suite():
    """The suite of the three tasks, with an expert fine-tuned for each and frozen heads."""
    base, tasks = tiny_vision_model(), tiny_image_tasks()
    how = FineTuning(epochs=6, learning_rate=3e-3, batch_size=8)
    made = {name: make_expert(base, task, how, seed=0) for name, task in tasks.items()}
    experts, heads = ({name: getattr(expert, part) for name, expert in made.items()} for part in ("model", "head"))
    return Suite(base, experts, heads, tasks)


def two_image_tasks():
    """The suite of the first two tasks, for what takes long on three."""
    return tiny_image_suite().only(["hues", "bars"])


def with_parts(suite, **parts):
    """A suite whose tasks have other parts: `unlabeled=None`, say."""
    return replace(suite, tasks={name: replace(task, **parts) for name, task in suite.tasks.items()})
