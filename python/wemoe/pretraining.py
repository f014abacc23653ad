"""The base of the image suite: a small CLIP vision model that is trained on a few images of every task, with its heads.

The heads are trained with it and then frozen, as the zero-shot heads of a contrastive model are there before experts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange
from transformers import CLIPVisionConfig, CLIPVisionModel

from wemoe.data.batches import Labelled
from wemoe.data.cache import load_tensors, save_tensors, sha256_of_tensors
from wemoe.data.shifting import shifted
from wemoe.experts import descent
from wemoe.suite_config import Pretraining

IMAGE_SIZE = 32


class Pretrained(nn.Module):
    """A small CLIP vision model, and by task the linear head that reads its pooled output.

    Args:
        labels: by task, how many it has.
        how: gives the size.
    """

    def __init__(self, labels: Mapping[str, int], how: Pretraining) -> None:
        super().__init__()
        self.model = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=how.width,
                intermediate_size=4 * how.width,
                num_hidden_layers=how.layers,
                num_attention_heads=max(1, how.width // 64),
                image_size=IMAGE_SIZE,
                patch_size=how.patch_size,
            )
        )
        self.heads = nn.ModuleDict({task: nn.Linear(how.width, count) for task, count in labels.items()})

    @property
    def heads_by_task(self) -> dict[str, nn.Linear]:
        """The heads."""
        return {task: cast("nn.Linear", head) for task, head in self.heads.items()}

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return by task the logits [B, C] of its images [B, 3, H, W], all of which are read together."""
        features = self.model(pixel_values=torch.cat(list(images.values()))).pooler_output
        counts = [len(each) for each in images.values()]
        return {task: self.heads[task](part) for task, part in zip(images, features.split(counts), strict=True)}


def cached_base(
    folder: Path, data: Mapping[str, Labelled], labels: Mapping[str, int], how: Pretraining, *, progress: bool = True
) -> Pretrained:
    """Read the base from the cache, or train it and keep it there.

    The file's name depends on everything that the base is made from; a damaged file is made again.

    Args:
        folder: where it is kept.
        data: by task, the images to train on.
        labels: by task, how many it has.
        how: the recipe, seed included.
        progress: whether to show a progress bar while it is trained.

    Returns:
        Base and heads, frozen and in evaluation mode.
    """
    path = folder / f"vision8-{_key(data, labels, how)}.safetensors"
    tensors = load_tensors(path)
    if tensors is None:
        trained = pretrain(data, labels, how, progress=progress)
        save_tensors(path, trained.state_dict())
    else:
        with torch.random.fork_rng():
            trained = Pretrained(labels, how)
        trained.load_state_dict(tensors)
    trained.heads.requires_grad_(False)
    return trained.eval()


def pretrain(
    data: Mapping[str, Labelled], labels: Mapping[str, int], how: Pretraining, *, progress: bool = True
) -> Pretrained:
    """Train base and heads by the mean of the tasks' cross-entropies; arguments as of `cached_base`."""
    with torch.random.fork_rng():
        torch.manual_seed(how.seed)
        trained = Pretrained(labels, how)
    generator = torch.Generator().manual_seed(how.seed)
    step = descent(list(trained.parameters()), how, how.steps)
    trained.train()
    for _ in trange(how.steps, desc="train the base", disable=not progress):
        images, answers = _draw(data, how, generator)
        logits = trained(images)
        step(torch.stack([F.cross_entropy(logits[task], answers[task]) for task in data]).mean())
    return trained.eval()


def _draw(
    data: Mapping[str, Labelled], how: Pretraining, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Images and labels of a step, drawn with replacement."""
    images, answers = {}, {}
    for task, labelled in data.items():
        rows = torch.randint(len(labelled.samples), (how.per_task,), generator=generator)
        pixels = labelled.samples.inputs(rows.tolist())["pixel_values"]
        images[task] = shifted(pixels, how.shift, generator)
        answers[task] = labelled.labels[rows]
    return images, answers


def _key(data: Mapping[str, Labelled], labels: Mapping[str, int], how: Pretraining) -> str:
    tensors = {f"{task}.labels": labelled.labels for task, labelled in data.items()}
    for task, labelled in data.items():
        tensors[f"{task}.images"] = labelled.samples.inputs(list(range(len(labelled.samples))))["pixel_values"]
    recipe = json.dumps(dataclasses.asdict(how) | {"labels": dict(labels)}, sort_keys=True)
    return hashlib.sha256(f"{sha256_of_tensors(tensors)}\n{recipe}".encode()).hexdigest()[:16]
