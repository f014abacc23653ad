"""Whether an expert is of the base's architecture and vocabulary, as configurations, headers and tokenizers say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wemoe.matching import listed
from wemoe.vocabularies import read_vocabulary
from wemoe.weights import Weights

SIZES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "image_size",
    "patch_size",
    "num_channels",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "d_model",
    "d_ff",
    "d_kv",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
)
FUNCTIONS = (  # what changes the function and no shape
    "hidden_act",
    "activation_function",
    "feed_forward_proj",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rms_norm_eps",
    "rope_parameters",
    "position_embedding_type",
    "sliding_window",
    "tie_word_embeddings",
)


def compare(base: Weights, expert: Weights) -> tuple[list[str], list[str]]:
    """Compare what is beside the tensors.

    Returns:
        What stands against merging, and what should be known.

    Raises:
        ValueError: a tokenizer's file is damaged.
    """
    clashes, additions = _vocabularies(base, expert)
    problems = [*_sizes(base, expert), *clashes]
    return problems, [*_functions(base, expert), *_dtypes(base, expert), *additions]


def count_dtypes(weights: Weights) -> dict[str, int]:
    """Return how many floating-point tensors there are of each dtype."""
    dtypes: dict[str, int] = {}
    for tensor in weights.contents.values():
        if tensor.is_floating_point():
            dtype = str(tensor.dtype).removeprefix("torch.")
            dtypes[dtype] = dtypes.get(dtype, 0) + 1
    return dtypes


def _sizes(base: Weights, expert: Weights) -> list[str]:
    found = _config_differences(base, expert, SIZES)
    return [f"{expert.label} must have the architecture of base_model; {'; '.join(found)}"] if found else []


def _functions(base: Weights, expert: Weights) -> list[str]:
    found = _config_differences(base, expert, FUNCTIONS)
    return [f"{expert.label} computes otherwise than base_model; {'; '.join(found)}"] if found else []


def _config_differences(base: Weights, expert: Weights, keys: tuple[str, ...]) -> list[str]:
    if base.architecture is None or expert.architecture is None:
        return []
    return list(_differences(base.architecture.config, expert.architecture.config, keys))


def _differences(
    base: Mapping[str, Any], expert: Mapping[str, Any], keys: tuple[str, ...], path: str = ""
) -> Iterator[str]:
    for key, wanted in base.items():
        found = expert.get(key)
        if key in keys and key in expert and found != wanted:
            yield f"{path}{key} is {found!r}, in base_model {wanted!r}"
        elif key.endswith("_config") and isinstance(wanted, Mapping) and isinstance(found, Mapping):
            yield from _differences(wanted, found, keys, f"{path}{key}.")


def _dtypes(base: Weights, expert: Weights) -> list[str]:
    wanted, found = (count_dtypes(weights) for weights in (base, expert))
    if wanted.keys() == found.keys():
        return []
    return [f"{expert.label} is in {' and '.join(found)}, base_model in {' and '.join(wanted)}"]


def _vocabularies(base: Weights, expert: Weights) -> tuple[list[str], list[str]]:
    """Compare which number each token has, where both folders say."""
    wanted, found = (None if w.folder is None else read_vocabulary(w.folder) for w in (base, expert))
    if wanted is None or found is None:
        return [], []
    clashes = [
        f"{token!r} is {number}, in base_model {wanted[token]}"
        for token, number in found.items()
        if wanted.get(token, number) != number
    ]
    clash = f"{expert.label} must have the vocabulary of base_model; {listed(clashes)}"
    others = {"added": found.keys() - wanted.keys(), "lacking": wanted.keys() - found.keys()}
    parts = [f"{title}: {listed(sorted(map(repr, tokens)))}" for title, tokens in others.items() if tokens]
    addition = f"{expert.label} has other tokens than base_model; {'; '.join(parts)}"
    return [clash] if clashes else [], [addition] if parts else []
