"""Predicts what the CUDA kernels cost, from bytes, operations and published rates: nothing here was measured.

Run as ``python tools/predict_cuda.py [--json FILE]``. It prints the tables of docs/cuda.md.
"""

import argparse
import json
from pathlib import Path

from cuda_prediction.tables import TABLES, predict_all


def main() -> None:
    """Prints the tables, and writes all numbers if asked to."""
    arguments = argparse.ArgumentParser(description="Predict what the CUDA kernels cost.")
    arguments.add_argument("--json", type=Path, help="also write every number, in seconds")
    options = arguments.parse_args()
    for name, table in TABLES.items():
        print(f"<!-- {name} -->\n{table()}\n")
    if options.json:
        options.json.write_text(json.dumps(predict_all(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
