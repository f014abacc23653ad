"""Hugging Face's Trainer on a routed model with a head: routers alone move, checkpoints are ours and load again."""

import copy

import pytest
import torch
from transformers import Trainer, TrainingArguments

import wemoe
from headed import headed_experts, routed_backbone
from models import VOCABULARY

SAMPLES, LABELS = 12, 3


def labelled_texts():
    """Texts whose label stands in their first token."""
    texts = torch.randint(LABELS + 1, VOCABULARY, (SAMPLES, 6), generator=torch.Generator().manual_seed(0))
    texts[:, 0] = torch.arange(SAMPLES) % LABELS + 1
    return [{"input_ids": ids, "attention_mask": torch.ones(6).long(), "labels": ids[0] - 1} for ids in texts]


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def arguments(folder, **changes):
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "max_steps": 6,
        "save_steps": 3,
        "eval_steps": 3,
        "eval_strategy": "steps",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }
    return TrainingArguments(**settings | changes)


def trainer(model, folder, kind=wemoe.RoutedTrainer, **changes):
    data = labelled_texts()
    return kind(model, arguments(folder, **changes), train_dataset=data, eval_dataset=data, compute_metrics=accuracy)


@pytest.fixture
def model():
    experts = headed_experts("bert")
    return wemoe.with_head(routed_backbone(experts), experts["three"])


@pytest.mark.parametrize("kind", [Trainer, wemoe.RoutedTrainer])
def test_a_trainer_moves_the_routers_alone_and_saves_checkpoints_of_ours(model, kind, tmp_path):
    before = copy.deepcopy(model.state_dict())
    run = trainer(model, tmp_path, kind)
    run.train()
    losses = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert len(losses) == 2
    assert {"eval_accuracy", "eval_loss"} <= run.evaluate().keys()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}

    saved = wemoe.from_pretrained(tmp_path / "checkpoint-6")
    assert type(saved) is type(model)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in saved.state_dict().items())


def test_a_resumed_run_ends_where_the_whole_one_does(model, tmp_path):
    other = copy.deepcopy(model)
    trainer(model, tmp_path).train()
    trainer(other, tmp_path / "resumed").train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in other.state_dict().items())


def test_the_best_model_is_loaded_at_the_end(model, tmp_path):
    """A learning rate so high that every step makes the loss worse: the first checkpoint is the best."""
    run = trainer(
        model,
        tmp_path,
        learning_rate=30.0,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
    )
    run.train()
    losses = {e["step"]: e["eval_loss"] for e in run.state.log_history if "eval_loss" in e}
    best = min(losses, key=losses.get)
    saved = wemoe.from_pretrained(tmp_path / f"checkpoint-{best}").state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert run.evaluate()["eval_loss"] == pytest.approx(losses[best])


def test_the_plain_trainer_refuses_to_resume(model, tmp_path):
    trainer(model, tmp_path, Trainer).train()
    with pytest.raises(ValueError, match="Can't find a valid checkpoint at"):
        trainer(model, tmp_path, Trainer).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
