"""Reading YAML files as people write them: safe tags alone, errors with file, line and column, no key twice."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """A safe loader that takes no key twice, which YAML forbids and PyYAML lets pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"found the key {key_node.value!r} twice", problem_mark=key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, or holds something else; the message names file, line and column.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"a configuration must be a YAML file; found no file {str(file)!r}")
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # it constructs plain values alone
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise ValueError(f"{file}{where}: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: must be YAML text; found {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise ValueError(f"{file}: must hold keys and values, `merge_method: ties` say; found {found}")
    return content
