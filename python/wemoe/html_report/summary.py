"""The beginning of the report: what was merged, and what came out, in plain sentences and four numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from wemoe.html_report.corruptions import collapses, corrupted
from wemoe.html_report.findings import PUBLISHED_OBJECTIVE, RECOMMENDED_ROW, Findings, Row
from wemoe.html_report.markup import Html, element, section
from wemoe.html_report.modes import routing_modes
from wemoe.html_report.numbers import capitalised, counted, listed, percent, points
from wemoe.text_tables import short


def title_of(findings: Findings) -> str:
    """What was merged, in one line."""
    what = _origin(findings)
    experts = counted(len(findings.tasks), "expert")
    return f"Merging {experts} of {what} into one model" if what else f"Merging {experts} into one model"


def _origin(findings: Findings) -> str | None:
    """The name of the suite, or of the base."""
    evaluated = {} if findings.evaluation is None else findings.evaluation
    named = evaluated.get("suite") or findings.origin.get("suite") or findings.origin.get("base_model")
    if isinstance(named, Mapping):
        named = named["name"]
    return None if named is None else str(named).rstrip("/").rpartition("/")[2]


def summary_section(findings: Findings) -> Html | None:
    """Say what came out."""
    sentences = [
        *_references(findings),
        *_merges(findings),
        *_modes(findings),
        *_unseen(findings),
        *_corruptions(findings),
    ]
    if not sentences:
        return None
    items = element("ul", *(element("li", sentence) for sentence in sentences))
    return section("summary", "In short", _cards(findings), items)


def _cards(findings: Findings) -> Html:
    rows = (
        findings.rows.get("pretrained"),
        findings.best_static,
        findings.recommended,
        findings.rows.get("individual"),
    )
    cards = [
        element(
            "div",
            element("dt", row.title),
            element("dd", f"{percent(row.average.mean)} %"),
            class_="card chosen" if row is findings.recommended else "card",
        )
        for row in rows
        if row is not None
    ]
    return element("dl", *cards, class_="cards") if cards else Html("")


def _references(findings: Findings) -> Iterator[str]:
    base, experts = findings.rows.get("pretrained"), findings.rows.get("individual")
    if base is None or experts is None:
        return
    tasks = findings.tasks
    yield (
        f"{capitalised(counted(len(tasks), 'task'))}: {listed(tasks)}. The pre-trained model classifies "
        f"{_score(base)} of the test samples rightly, averaged over the tasks; a fine-tuned expert for each task, "
        f"{_score(experts)}. Merging makes one model of the experts that serves all tasks."
    )


def _merges(findings: Findings) -> Iterator[str]:
    static, routed = findings.best_static, findings.recommended
    if static is not None:
        score = f"{_score(static)}{_share(static)}"
        yield f"The best merge into a plain model without learning is {static.title}: {score}."
    if routed is None:
        return
    called = (
        "the recommended way" if routed.name == RECOMMENDED_ROW else "the best of the routed models that match experts"
    )
    text = f"{routed.title}, {called}, reaches {_score(routed)}{_share(routed)}"
    others = [(row, points(_mean(routed), _mean(row))) for row in (static, findings.adamerging) if row is not None]
    if others:
        text += ": " + " and ".join(f"{difference} {row.title}" for row, difference in others)
    yield text + "." + _size(findings, routed)
    published = findings.published
    if published is not None and published is not routed:
        yield (
            f"With {PUBLISHED_OBJECTIVE}, the published objective, the same model reaches "
            f"{_score(published)}{_share(published)}."
        )
    best = findings.best
    if best is not None and _mean(best) > _mean(routed):
        yield f"The best merge of all is {best.title}: {_score(best)}{_share(best)}."


def _score(row: Row) -> str:
    spread = "" if row.average.spread is None else f" (± {percent(row.average.spread)} over seeds)"
    return f"{percent(row.average.mean)} %{spread}"


def _share(row: Row) -> str:
    """What part of the experts' accuracy it has: the normalised average, as in the tables."""
    share = row.normalised.mean
    return "" if share is None else f", {percent(share)} % of the experts"


def _size(findings: Findings, row: Row) -> str:
    costs, experts = findings.costs.get(row.name), findings.costs.get("individual")
    if costs is None or experts is None:
        return ""
    return (
        f" It has {short(costs['parameters'])} parameters, where the experts together have "
        f"{short(experts['parameters'])}, and learns {short(costs['trained_parameters'])} of them, without labels."
    )


def _mean(row: Row) -> float:
    return row.average.mean or 0.0


def _modes(findings: Findings) -> Iterator[str]:
    row = findings.recommended
    modes = None if row is None else routing_modes(findings).get(row.name)
    if row is None or modes is None:
        return
    samples = modes.get("samples")
    changed = modes["changed"]
    of = "" if samples is None else f" of {samples:,}"
    averaged = modes["batch_averaged"]
    yield (
        f"Routed per sample, {_predictions(changed['per_sample'])}{of} "
        f"{'changes' if changed['per_sample'] in (0, 1) else 'change'} with what else is in the batch. With routing "
        f"averaged over the batch, as in published code, {_predictions(changed['batch_averaged'])} "
        f"{'does' if changed['batch_averaged'] in (0, 1) else 'do'}, and the accuracy goes "
        f"from {percent(averaged['single']['mean'])} % in batches of one task to "
        f"{percent(averaged['mixed']['mean'])} % in mixed ones."
    )


def _predictions(number: float) -> str:
    """How many predictions; a mean over seeds need not be whole."""
    return counted(int(number), "prediction") if number == int(number) else f"{number:,.1f} predictions"


def _unseen(findings: Findings) -> Iterator[str]:
    held, row = findings.unseen, findings.recommended
    name = RECOMMENDED_ROW if row is None else row.name
    if held is None or name not in held["mean"] or "pretrained" not in held["mean"]:
        return
    value, base = held["mean"][name]["unseen"], held["mean"]["pretrained"]["unseen"]
    yield (
        f"On tasks that took no part in merging, {findings.title(name)} reaches {percent(value)} %, "
        f"{points(value, base)} the pre-trained model."
    )


def _corruptions(findings: Findings) -> Iterator[str]:
    held = findings.corruptions
    if held is None or not corrupted(held):
        return
    counts = collapses(held)
    cases = f"{counted(len(held['tasks']), 'task')} and {counted(len(corrupted(held)), 'corruption')}"
    row, published = findings.recommended, findings.published
    told = [each for each in (row, published) if each is not None and each.name in counts]
    numbers = {each.title: counts[each.name] for each in told} or counts
    yield (
        "Adapted on corrupted images, "
        f"{listed([f'{name} {_collapsed(number)}' for name, number in numbers.items()])}, counted over {cases} "
        f"(an accuracy more than {100 * held['threshold']:g} points below the best static merge)."
    )


def _collapsed(number: int) -> str:
    return {0: "never collapsed", 1: "collapsed once"}.get(number, f"collapsed {number} times")
