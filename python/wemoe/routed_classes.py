"""The mixins of routed blocks and routed models, which generated subclasses of the base's own classes carry."""

from __future__ import annotations

import functools
import inspect
import os
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from wemoe.caches import keep_routing
from wemoe.config import RoutingConfig
from wemoe.heads import Heads
from wemoe.hub import push_to_hub
from wemoe.inspection import describe_trainable_parameters
from wemoe.routing_scope import GeneratingAfter, RoutingScope, current_prompt_length
from wemoe.saving import save
from wemoe.specialising import Specialised
from wemoe.token_masks import first_token, from_attention_mask, prompt_before_labels, prompt_tokens


class RoutedBlock(Specialised, nn.Module):
    """A transformer block that tells its routed MLP which tokens vote, and where to keep routing weights.

    Attributes:
        routed_name: the block's path in the model that was upcycled.
        positions: of the arguments of the block's forward, by name.
    """

    routed_name: str
    positions: ClassVar[dict[str, int]]

    @classmethod
    def class_attributes(cls, base_class: type) -> dict[str, Any]:
        """Read the positions off the block's own forward; self is not among them."""
        parameters = list(inspect.signature(base_class.forward).parameters)  # type: ignore[attr-defined]
        return {"positions": {name: position for position, name in enumerate(parameters[1:])}}

    def forward(self, *args: Any, prompt_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Run the block as the class it extends does.

        Args:
            args: positional arguments of the block.
            prompt_mask: bool [B, P], the tokens that a model which writes has been given; None: all of them.
            kwargs: keyword arguments of the block.
        """
        given = {name: args[i] if i < len(args) else kwargs.get(name) for name, i in self.positions.items()}
        cache = given.get("past_key_values")
        kept = keep_routing(cache) if isinstance(cache, Cache) else None
        mask = None if kept and self.routed_name in kept else _token_mask(given, prompt_mask)
        with RoutingScope(mask, kept, self.routed_name):
            return super().forward(*args, **kwargs)


def _token_mask(given: dict[str, Any], prompt_mask: Tensor | None) -> Tensor | None:
    """Tokens that vote, bool [B, N], by the arguments of a block; None: all of them."""
    hidden_states = next(iter(given.values()))  # [B, N, D]
    real = from_attention_mask(given.get("attention_mask"), hidden_states.shape[1])
    reads_encoder = given.get("encoder_hidden_states") is not None
    if not reads_encoder and prompt_mask is None:
        return real
    if real is None:
        real = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
    return first_token(real) if reads_encoder or prompt_mask is None else prompt_tokens(real, prompt_mask)


class RoutedModule(Specialised, nn.Module):
    """A routed model: an instance of the base's class whose MLPs are assembled for every sample.

    Attributes:
        routing_config: how the model was upcycled.
    """

    routing_config: RoutingConfig

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        heads: Heads | None = None,
    ) -> None:
        """Save the whole model, so that `wemoe.from_pretrained` needs neither the base nor the experts.

        Args:
            save_directory: folder of the checkpoint; made if missing. Its README.md becomes the model card, unless
                somebody edited it.
            is_main_process: whether this process writes; the others of a distributed run return at once.
            state_dict: the weights to save, where a distributed run has gathered them; else the model's own.
            max_shard_size: largest size of one weight file, in bytes or like `"5GB"`.
            heads: by task, what is to be kept beside the model (`wemoe.load_heads`): a frozen linear head, or a
                headed model, of which all but the backbone is kept.

        Raises:
            TypeError, ValueError: `heads` are no linear layers or headed models keyed by the model's tasks, or the
                weights are sharded and no gathered `state_dict` is given.
            OSError: the folder cannot be written; checked before any work.
        """
        if is_main_process:
            save(self, save_directory, state_dict=state_dict, max_shard_size=max_shard_size, heads=heads)

    push_to_hub = push_to_hub  # transformers' uploads an empty card in place of ours

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained (the routers'), how many there are, and the share in percent."""
        print(describe_trainable_parameters(self))  # noqa: T201 - users of PEFT call it for what it prints

    def extra_repr(self) -> str:
        """Show how the model was upcycled."""
        config = self.routing_config
        told = {
            "tasks": list(config.tasks),
            "router_hidden_layers": config.router_hidden_layers,
            "init_lambda": config.init_lambda,
            "batch_reduce": config.batch_reduce,
            **config.chosen(),
        }
        return ", ".join(f"{name}={value}" for name, value in told.items())


class RoutedModel(RoutedModule, PreTrainedModel):  # type: ignore[misc, no-untyped-call]  # own options of saving
    """A routed model of a Hugging Face class."""

    def _reorder_cache(self, past_key_values: Cache, beam_idx: Tensor) -> Cache:
        """Reorder keys, values and routing weights; beam search calls this."""
        if self.routing_config.reads == "input":
            keep_routing(past_key_values)
        past_key_values.reorder_cache(beam_idx)  # type: ignore[arg-type]
        return past_key_values


class RoutedCausalModel(RoutedModel):  # type: ignore[no-untyped-call]
    """A routed model that writes: its prompt alone is routed on, in training, in one forward and token by token.

    Its forward takes one argument more, `prompt_mask` bool [B, P]: the tokens of the prompt. Without it, the tokens
    before a sample's first label are the prompt where labels [B, N] are given, and all tokens are where they are not.
    """

    @classmethod
    def class_attributes(cls, base_class: type) -> dict[str, Any]:
        """Give the class a forward with the base's signature, which trainers and generation read."""

        @functools.wraps(base_class.forward)  # type: ignore[attr-defined]
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("prompt_mask") is None:
                kwargs["prompt_mask"] = _prompt_mask(*args, **kwargs)
            return base_class.forward(self, *args, **kwargs)  # type: ignore[attr-defined]

        signature = inspect.signature(base_class.forward)  # type: ignore[attr-defined]
        prompt_mask = inspect.Parameter("prompt_mask", inspect.Parameter.KEYWORD_ONLY, default=None)
        *parameters, rest = signature.parameters.values()  # transformers' forwards end in **kwargs
        forward.__signature__ = signature.replace(parameters=[*parameters, prompt_mask, rest])  # type: ignore[attr-defined]
        return {"forward": forward}

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Write after a prompt as the base does; drafts of assisted decoding are no part of the prompt."""
        prompt = _first_tensor(inputs, kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
        with GeneratingAfter(None if prompt is None else prompt.shape[1]):
            return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]


def _prompt_mask(
    input_ids: Tensor | None = None,
    *_args: Any,
    labels: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    **_kwargs: Any,
) -> Tensor | None:
    """Mask of the prompt's tokens, bool [B, P] or [1, P], by the arguments of a forward; None: all tokens."""
    if labels is not None:
        return prompt_before_labels(labels)
    tokens, given = current_prompt_length(), _first_tensor(input_ids, inputs_embeds)
    if tokens is None or given is None:
        return None
    return torch.ones(1, min(tokens, given.shape[1]), dtype=torch.bool, device=given.device)


def _first_tensor(*candidates: Tensor | None) -> Tensor | None:
    return next((tensor for tensor in candidates if tensor is not None), None)
