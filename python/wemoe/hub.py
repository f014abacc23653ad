"""Uploading a routed model to the Hugging Face Hub."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi

from wemoe.heads import Heads
from wemoe.model_card import CARD_FILE
from wemoe.saving import WEIGHTS_GLOB

if TYPE_CHECKING:
    from wemoe.routed_classes import RoutedModule


def push_to_hub(
    model: RoutedModule,
    repo_id: str,
    *,
    commit_message: str = "Upload model",
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str = "5GB",
    heads: Heads | None = None,
) -> str:
    """Upload what `save_pretrained` writes, model card included, to the Hugging Face Hub.

    A repository that is not there is made. Weight files of an earlier upload are deleted by the same commit; a model
    card that somebody edited stays.

    Args:
        model: a routed model.
        repo_id: the repository, `owner/name`.
        commit_message: of the commit.
        commit_description: of the commit.
        private: whether a new repository is private; the Hub's default for its owner if None.
        token: of the Hub, or True for the one that is logged in.
        revision: the branch; made if missing.
        create_pr: open a pull request instead of committing to the branch.
        max_shard_size: largest size of one weight file, in bytes or like `"5GB"`.
        heads: by task, what is to be kept beside the model, as `save_pretrained` takes it.

    Returns:
        The address of the commit.

    Raises:
        TypeError, ValueError: as `save_pretrained` raises them.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if api.file_exists(repo_id, CARD_FILE, revision=revision):  # saving keeps it if somebody edited it
            shutil.copy(api.hf_hub_download(repo_id, CARD_FILE, revision=revision), folder / CARD_FILE)
        model.save_pretrained(folder, max_shard_size=max_shard_size, heads=heads)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=[WEIGHTS_GLOB],
        )
    return str(commit)
