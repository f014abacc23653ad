"""The tables at the end of a run: what every method took, and what is asked of ours."""

from collections.abc import Mapping, Sequence
from typing import Any

OTHERS = ("vectorised", "loop")


def lay_out(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(first: str, *others: str) -> str:
        return "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip()

    return [line(*row) for row in rows]


def details(entries: Sequence[Any]) -> list[str]:
    """Every method of every case: `entries` are pytest-benchmark's."""
    rows = [("case, method", "median, ms", "IQR, ms", "rounds", "GFLOP/s", "GB/s", "MB allocated")]
    for entry in entries:
        info = entry.extra_info
        rows.append(
            (
                f"{entry.group}, {info['method']}",
                f"{entry.stats.median * 1e3:.2f}",
                f"{entry.stats.iqr * 1e3:.2f}",
                str(entry.stats.rounds),
                f"{info['gflop_per_s']:.1f}",
                f"{info['gb_per_s']:.1f}",
                f"{info['bytes_allocated'] / 1e6:.1f}",
            )
        )
    return lay_out(rows)


def verdicts(entries: Sequence[Any]) -> list[str]:
    """One line for each case: times of the plain method, ours and the others as multiples of it, the bounds."""
    groups: dict[str, dict[str, Any]] = {}
    for entry in entries:
        groups.setdefault(entry.group, {})[entry.extra_info["method"]] = entry
    rows = [("case", "plain", "ours", *OTHERS, "at most", "aim", "")]
    for name, methods in groups.items():
        case = next(iter(methods.values())).extra_info["case"]
        ours = methods[case["ours"]].extra_info
        others = (_number(methods[other].extra_info[case["judged"]]) if other in methods else "" for other in OTHERS)
        bounds = (_number(case["at_most"]), _number(case["aim"]))
        rows.append((name, _reference(case, methods), _number(ours[case["judged"]]), *others, *bounds, verdict(ours)))
    return lay_out(rows)


def verdict(info: Mapping[str, Any]) -> str:
    """Pass or FAIL, by the bound of the case alone."""
    case = info["case"]
    if case["at_most"] is None:
        return ""
    if not case["binding"]:
        return "for information"
    return "pass" if info[case["judged"]] <= case["at_most"] else "FAIL"


def _reference(case: Mapping[str, Any], methods: Mapping[str, Any]) -> str:
    over = methods[case["over"]]
    is_time = case["judged"] == "ratio"
    amount = f"{over.stats.median * 1e3:.2f} ms" if is_time else f"{over.extra_info['bytes_allocated'] / 1e6:.1f} MB"
    return amount if case["over"] == "plain" else f"{case['over']} {amount}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"
