"""Repositories of the Hub with a pickle alone: what the Hub's own converter offers is taken, and nobody else's."""

from types import SimpleNamespace

import pytest

from models import tiny_clip
from wemoe.model_folders import load_model
from wemoe.repositories import CONVERTED, CONVERTER

OFFER = {"author": CONVERTER, "title": CONVERTED, "status": "open", "git_reference": "refs/pr/3"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """One repository: a configuration on its main branch, and all of a model in a pull request."""
    tiny_clip().save_pretrained(tmp_path / "refs" / "pr" / "3")
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "config.json").write_bytes((tmp_path / "refs" / "pr" / "3" / "config.json").read_bytes())
    state = SimpleNamespace(offers=[OFFER], asked=[])

    def download(name, *, revision, **_how):
        state.asked.append((name, revision))
        return str(tmp_path / (revision or "main"))

    def discussions(_name, **_how):
        if state.offers is None:
            raise ConnectionError("no network")
        return iter([SimpleNamespace(**offer) for offer in state.offers])

    monkeypatch.setattr("wemoe.repositories.snapshot_download", download)
    monkeypatch.setattr("wemoe.repositories.get_repo_discussions", discussions)
    return state


def test_what_the_converter_offers_is_loaded(hub):
    assert load_model("owner/old", "base_model").config.name_or_path == "owner/old"
    assert hub.asked == [("owner/old", None), ("owner/old", "refs/pr/3")]


@pytest.mark.parametrize(
    "offers",
    [[], [OFFER | {"author": "somebody"}], [OFFER | {"title": "Better weights"}], [OFFER | {"status": "closed"}], None],
)
def test_nobody_elses_offer_is(hub, offers):
    hub.offers = offers
    with pytest.raises(FileNotFoundError, match=r"base_model must hold 'model.safetensors' or .*; found neither"):
        load_model("owner/old", "base_model")
    assert [revision for _, revision in hub.asked] == [None]


def test_a_repository_with_safetensors_is_not_asked_for_offers(hub, tmp_path):
    tiny_clip().save_pretrained(tmp_path / "main")
    hub.offers = [OFFER | {"git_reference": "refs/pr/none"}]
    load_model("owner/new", "base_model")
    assert hub.asked == [("owner/new", None)]
