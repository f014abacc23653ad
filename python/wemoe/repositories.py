"""Where a checkpoint is: in a folder, or in a repository of the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import get_repo_discussions, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is in their documentation

GENERATION_FILE = "generation_config.json"
CONVERTER = "SFconvertbot"  # of the Hub, and the title of its pull requests, which transformers looks for too
CONVERTED = "Adding `safetensors` variant of this model"


def locate(
    name: str | os.PathLike[str],
    patterns: list[str],
    *,
    revision: str | None,
    token: bool | str | None,
    local_files_only: bool,
) -> Path:
    """Return a folder as it is; download files of a repository of the Hugging Face Hub, or find them in its cache.

    Raises:
        FileNotFoundError: there is neither such a folder nor such a repository, or none that can be reached.
    """
    path = Path(name)
    if path.exists() or not isinstance(name, str) or not _may_be_repository(name):
        return path
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=patterns,
        )
    except (RepositoryNotFoundError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{name!r} must be a folder or a repository of the Hub; found neither: {error}"
        ) from error
    return Path(folder)


def converted_revision(name: str | os.PathLike[str]) -> str | None:
    """Return the revision in which the Hub's own converter offers a repository's pickle as safetensors, if it does.

    Old repositories have nothing but a pickle on their main branch, and the offer as an open pull request.
    """
    if not isinstance(name, str) or Path(name).exists() or not _may_be_repository(name):
        return None
    try:
        offers = list(get_repo_discussions(name, author=CONVERTER, discussion_type="pull_request"))
    except Exception:  # whatever a connection raises: without the offer, the files that are there tell what is wrong
        return None
    fitting = (each for each in offers if (each.author, each.title, each.status) == (CONVERTER, CONVERTED, "open"))
    return next((each.git_reference for each in fitting), None)


def _may_be_repository(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not os.path.isabs(name)
