"""Three tiny image tasks and a random CLIP vision model that reads them: what is done with images, in seconds.

`hues` asks for the colour that there is most of, `bars` for the direction of grey stripes, `widths` for their width.
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

CLASSES = {"hues": 3, "bars": 2, "widths": 3}
SAMPLES = 48  # of each part
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
        initializer_factor=10.0,  # or all hidden states would be much alike
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
    return Task(CLASSES[name], train, validation, unlabeled.samples, test, batch_size=32)


def _hue(label, generator):
    image = generator.integers(20, 120, (SIDE, SIDE, 3), dtype=np.uint8)
    image[..., label] += 25
    return image


def _bars(label, generator):
    image = _stripes(6, generator)
    return image.T if label else image


def _widths(label, generator):
    return _stripes((3, 8, 20)[label], generator)


def _stripes(period, generator):
    wave = np.sin(2 * np.pi * (np.arange(SIDE) / period + generator.uniform()))
    noise = generator.normal(size=(SIDE, SIDE))
    return np.clip(128 + 60 * wave + 40 * noise, 0, 255).astype(np.uint8)


DRAWN = {"hues": _hue, "bars": _bars, "widths": _widths}  # colours [H, W, 3]; the others are grey [H, W]


@cache
def tiny_image_suite():
    """The suite of the three tasks, with frozen heads and experts: about 97 % right, where the base has 63 %."""
    base, tasks = tiny_vision_model(), tiny_image_tasks()
    how = FineTuning(epochs=8, learning_rate=1e-2, batch_size=8, trained="")
    made = {name: make_expert(base, task, how, seed=0) for name, task in tasks.items()}
    experts, heads = ({name: getattr(expert, part) for name, expert in made.items()} for part in ("model", "head"))
    return Suite(base, experts, heads, tasks)


def two_image_tasks():
    """The suite of the first two tasks, for what takes long on three."""
    return tiny_image_suite().only(["hues", "bars"])


def with_parts(suite, **parts):
    """A suite whose tasks have other parts: `unlabeled=None`, say."""
    return replace(suite, tasks={name: replace(task, **parts) for name, task in suite.tasks.items()})
