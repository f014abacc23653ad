"""Static merging: one set of weights from a base and its fine-tuned experts, one file for each published method."""

from wemoe.merging.average import average
from wemoe.merging.task_arithmetic import task_arithmetic

METHODS = {"average": average, "task_arithmetic": task_arithmetic}

__all__ = ["METHODS", "average", "task_arithmetic"]
