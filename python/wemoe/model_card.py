"""The model card of a checkpoint: a README.md that says what the model was made of and how it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from wemoe.config import Provenance, RoutingConfig, Source

CARD_FILE = "README.md"

_SEAL = "<!-- Written by wemoe; a file that is edited is never overwritten. sha256: {} -->\n"


def card_text(config: RoutingConfig, sections: Sequence[str] = ()) -> str:
    """Write the card of a routed model, perhaps with more sections.

    Its last line is a seal, by which an edited card is told.
    """
    data = ModelCardData(library_name="wemoe", tags=["merge", "wemoe"], base_model=hub_names(config.provenance))
    text = f"---\n{data.to_yaml()}\n---\n\n{_body(config)}" + "".join(f"{section}\n\n" for section in sections)
    ModelCard(text)  # raises if the metadata could not be read back
    return sealed(text)


def sealed(text: str) -> str:
    """Put the seal under a card."""
    return text + _seal(text)


def may_write_card(folder: Path) -> bool:
    """Whether a folder has no card, or one of ours that nobody edited."""
    file = folder / CARD_FILE
    if not file.is_file():
        return True
    text, start, _ = file.read_text(encoding="utf-8").rpartition(_SEAL.partition("{")[0])
    return bool(start) and file.read_text(encoding="utf-8") == text + _seal(text)


def _seal(text: str) -> str:
    return _SEAL.format(hashlib.sha256(text.encode()).hexdigest())


def hub_names(provenance: Provenance | None) -> list[str] | None:
    """Names of the form owner/name, which local folders never have."""
    if provenance is None:
        return None
    names = [source.name for source in (provenance.base, *provenance.experts.values())]
    return list(dict.fromkeys(name for name in names if name is not None and "/" in name)) or None


def _body(config: RoutingConfig) -> str:
    preference = config.reads == "preference"
    return f"""# {config.base_class} of {len(config.tasks)} merged experts

{_what_it_is(config)}

```python
import wemoe

model = wemoe.from_pretrained("...")  # this folder, or this repository's name
{_steered(config) if preference else ""}```

## Made of

{_sources(config)}

## Settings

| setting | value |
|---|---|
| method | {config.method} |
| base class | {config.base_class} |
| initial routing weight | {config.init_lambda} |
| router depth | {config.router_hidden_layers} |
{_preference_settings(config) if preference else _input_settings(config)}
| wemoe | {config.wemoe_version} |

"""


def _what_it_is(config: RoutingConfig) -> str:
    number = len(config.tasks)
    if config.reads == "preference":
        return f"""One model of {number} tasks, steered by a preference among them: small routers read the preference,
and the weights of a module are its pre-trained ones plus weighted task vectors of the fine-tuned models (PWEMoE,
[arXiv 2406.09770](https://arxiv.org/abs/2406.09770)). `wemoe.merge_and_unload` makes a plain model of a preference."""
    return f"""One model of {number} tasks: the weights of its MLPs are assembled for every sample by small routers, as
the pre-trained weights plus weighted task vectors of the fine-tuned models ({_papers(config)})."""


def _steered(config: RoutingConfig) -> str:
    tasks = ", ".join(map(cell, config.tasks))
    equal = [round(1 / len(config.tasks), 4)] * len(config.tasks)
    return f"wemoe.set_preference(model, {equal}, normalize=True)  # {tasks}\n"


def _input_settings(config: RoutingConfig) -> str:
    return f"""| one router for all MLPs | {_yes_or_no(config.share_router)} |
| router reads which block is asking | {_yes_or_no(config.position_encoding)} |
| share of each task vector's entries that was removed | {config.prune_ratio} |
| routing weights averaged over the batch | {_yes_or_no(config.batch_reduce)} |"""


def _preference_settings(config: RoutingConfig) -> str:
    return f"| modules with a router | {config.modules} |"


def _papers(config: RoutingConfig) -> str:
    wemoe = "WEMoE, [arXiv 2402.00433](https://arxiv.org/abs/2402.00433)"
    if not config.chosen():
        return wemoe
    return f"{wemoe};\nE-WEMoE, [arXiv 2410.21804](https://arxiv.org/abs/2410.21804)"


def _yes_or_no(choice: bool) -> str:
    return "yes" if choice else "no"


def _sources(config: RoutingConfig) -> str:
    if config.provenance is None:
        return "The checkpoint that this model came from does not say. Tasks: " + ", ".join(map(cell, config.tasks))
    return sources_table(config.provenance)


def sources_table(provenance: Provenance) -> str:
    """Write what a model was made of as a table."""
    rows = [_row("base", provenance.base)]
    rows += [_row(f"expert: {cell(task)}", source) for task, source in provenance.experts.items()]
    return "\n".join(["| | name | sha256 of its state dict |", "|---|---|---|", *rows])


def _row(role: str, source: Source) -> str:
    return f"| {role} | {cell(source.name or 'unknown')} | `{source.sha256}` |"


def cell(text: str) -> str:
    """Text that cannot end its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
