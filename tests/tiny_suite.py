"""The suite of the two tiny tasks: a random BERT, an expert fine-tuned for each task, and frozen heads."""

from functools import cache

from tiny_texts import tiny_base, tiny_tasks
from wemoe.data.batches import tokenize_task
from wemoe.experts import FineTuning, make_expert
from wemoe.suites import Suite


@cache
def tiny_suite():
    base, tokenizer = tiny_base()
    tasks = {name: tokenize_task(task, tokenizer, 12) for name, task in tiny_tasks().items()}
    made = {name: make_expert(base, task, FineTuning(epochs=1), seed=0) for name, task in tasks.items()}
    experts, heads = ({name: getattr(expert, part) for name, expert in made.items()} for part in ("model", "head"))
    return Suite(base, experts, heads, tasks)
