"""Saving a routed model whole: format version 1.

A checkpoint folder holds `config.json` (`model_type: wemoe`, how the model was upcycled, the base's own
configuration nested) and `wemoe*.safetensors` (base weights, task vectors, routers), and, where
task heads were given, `heads.safetensors`. Plain transformers finds no weights under these names and fails loudly,
instead of filling a plain model with random MLPs.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from huggingface_hub import save_torch_state_dict
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig

from wemoe.files import check_writable, replacing_files
from wemoe.heads import HEADS_FILE, Heads, task_heads, write_heads

if TYPE_CHECKING:
    from wemoe.routed_classes import RoutedModule

MODEL_TYPE = "wemoe"
WEIGHTS_PATTERN = "wemoe{suffix}.safetensors"
WEIGHTS_GLOB = "wemoe*.safetensors*"


def save(
    model: RoutedModule,
    folder: str | os.PathLike[str],
    *,
    state_dict: dict[str, Tensor] | None = None,
    max_shard_size: int | str = "5GB",
    heads: Heads | None = None,
) -> None:
    """Save a routed model; see `RoutedModel.save_pretrained`."""
    kept_heads = task_heads(heads or {}, model)
    check_writable(os.path.dirname(os.path.abspath(folder)))
    base_config = getattr(model, "config", None)
    configuration = {
        "model_type": MODEL_TYPE,
        "architectures": [model.routing_config.base_class],
        "wemoe": model.routing_config.model_dump(mode="json"),
        "base_config": base_config.to_dict() if isinstance(base_config, PreTrainedConfig) else None,
    }
    state = _whole_tensors(model.state_dict() if state_dict is None else state_dict)
    with replacing_files(folder, stale=(WEIGHTS_GLOB, HEADS_FILE)) as staging:
        save_torch_state_dict(state, staging, filename_pattern=WEIGHTS_PATTERN, max_shard_size=max_shard_size)
        if kept_heads:
            write_heads(kept_heads, staging)
        (staging / "config.json").write_text(json.dumps(configuration, indent=2, sort_keys=True) + "\n")


def _whole_tensors(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Check that no tensor is sharded; give those that are a part of their memory, as gathered ones are, their own."""
    for name, tensor in state_dict.items():
        if isinstance(tensor, DTensor):
            raise ValueError(
                f"state_dict must hold whole tensors; {name!r} is sharded. Gather it in every process: "
                "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))"
            )
    return {
        name: tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in state_dict.items()
    }
