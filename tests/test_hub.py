"""Uploading to the Hub: our files and our card, in one commit."""

from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from torch import nn

import wemoe
from models import experts_of, tiny_bert

ADDRESS = "https://huggingface.co/owner/merged/commit/1"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub of one repository: what is asked of it, what it gets, and the card that it has."""
    state = SimpleNamespace(calls=[], files={}, commit={}, card=None)

    def create_repo(_, repo_id, **how):
        state.calls.append(("create_repo", repo_id, how))
        return SimpleNamespace(repo_id=f"owner/{repo_id.rpartition('/')[2]}")

    def upload_folder(_, *, folder_path, **how):
        state.files = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        state.commit = how
        return ADDRESS

    def download(_, _repo_id, name, **_how):
        (tmp_path / "cached").write_text(state.card)
        assert name == "README.md"
        return str(tmp_path / "cached")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(HfApi, "create_branch", lambda _, *args, **how: state.calls.append(("branch", args, how)))
    monkeypatch.setattr(HfApi, "file_exists", lambda *_args, **_how: state.card is not None)
    monkeypatch.setattr(HfApi, "hf_hub_download", download)
    return state


@pytest.fixture
def model():
    return wemoe.upcycle(tiny_bert(), experts_of(tiny_bert()))


def test_what_is_uploaded_can_be_loaded(hub, model, tmp_path):
    heads = {"task0": nn.Linear(16, 3)}
    assert model.push_to_hub("merged", private=True, max_shard_size="8KB", heads=heads) == ADDRESS
    assert hub.calls == [("create_repo", "merged", {"private": True, "exist_ok": True})]
    assert {"config.json", "README.md", "heads.safetensors", "wemoe.safetensors.index.json"} < hub.files.keys()
    assert hub.commit["repo_id"] == "owner/merged"
    assert hub.commit["commit_message"] == "Upload model"
    assert hub.commit["delete_patterns"] == ["wemoe*.safetensors*"]
    assert b"library_name: wemoe" in hub.files["README.md"]
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    again = wemoe.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_a_branch_is_made_and_a_pull_request_opened(hub, model):
    model.push_to_hub("merged", revision="trial", create_pr=True, commit_message="Try", commit_description="Why")
    assert hub.calls[1] == ("branch", ("owner/merged",), {"branch": "trial", "exist_ok": True})
    asked = {name: hub.commit[name] for name in ("revision", "create_pr", "commit_message", "commit_description")}
    assert asked == {
        "revision": "trial",
        "create_pr": True,
        "commit_message": "Try",
        "commit_description": "Why",
    }


def test_a_card_on_the_hub_stays_if_somebody_edited_it(hub, model):
    model.push_to_hub("merged")
    ours = hub.files["README.md"]
    hub.card = ours.decode().replace("# BertModel", "# My model")
    model.push_to_hub("merged")
    assert hub.files["README.md"].decode() == hub.card
    hub.card = ours.decode()
    model.routing_config = model.routing_config.model_copy(update={"provenance": None})
    model.push_to_hub("merged")
    assert hub.files["README.md"] != ours
