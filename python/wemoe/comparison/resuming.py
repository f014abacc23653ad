"""What an earlier run left in a folder, if it was the same run."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any


def former_results(path: Path, results: Mapping[str, Any], deciding: Collection[str]) -> dict[str, Any] | None:
    """Return what an earlier run wrote, or None where it wrote nothing or another run's.

    Args:
        path: the file, JSON.
        results: of the new run, before any work.
        deciding: the keys whose values decide what the work gives; they must be the same in both.
    """
    if not path.exists():
        return None
    former: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    same = json.loads(json.dumps(results))  # tuples as the lists that they are in the file
    return former if all(former.get(key) == same[key] for key in deciding) else None
