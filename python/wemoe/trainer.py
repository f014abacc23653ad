"""Hugging Face's `Trainer` for routed models, with checkpoints that it can load again."""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import Trainer

from wemoe.loading import from_pretrained


class RoutedTrainer(Trainer):
    """A `transformers.Trainer` that resumes from the checkpoints of routed models.

    `Trainer` itself trains the routers of a routed model with a head and saves checkpoints by the model's own
    `save_pretrained`; but it loads none but files of its own names, which a routed model never has (plain transformers
    would read them as a plain model). There `resume_from_checkpoint` raises, and `load_best_model_at_end` keeps the
    last model with a warning in the log. Here both load the checkpoint strictly. It needs `accelerate`.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # their checkpoints are files of their own
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            target = cast("nn.Module", model or self.model)
            target.load_state_dict(from_pretrained(resume_from_checkpoint).state_dict())

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))
