"""What was predicted of this GPU (tools/predict_cuda.py, docs/cuda.md), put beside what was measured."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_check.files import ROOT

PREDICT = ROOT / "tools" / "predict_cuda.py"
KEYS = ("model", "B", "numbers", "what", "method")  # of one case and method


def predict(gpu: str, results: Path, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """The predictions for a GPU, by torch's name of it; none for one that nothing was predicted of."""
    file = results / "predictions.json"
    command = [sys.executable, "-P", str(PREDICT), "--json", str(file)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    predictions: list[dict[str, Any]] = json.loads(file.read_text())
    return [prediction for prediction in predictions if prediction["gpu"] in gpu]


def put_beside(methods: Sequence[dict[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> int:
    """Gives measured methods the seconds that were predicted of them, and tells how many have any."""
    seconds = {tuple(prediction[key] for key in KEYS): prediction["seconds"] for prediction in predictions}
    found = [(entry, tuple(entry.get(key) for key in KEYS)) for entry in methods]
    matched = [(entry, key) for entry, key in found if key in seconds]
    for entry, key in matched:
        entry["predicted_seconds"] = seconds[key]
    return len(matched)
