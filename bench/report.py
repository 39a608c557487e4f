"""How every benchmark tells its figures: a table for people, and with `--json FILE` a file for machines."""

import argparse
from pathlib import Path
from typing import Any

import msgspec


class Metric(msgspec.Struct, kw_only=True):
    """One figure. `floor` is what the same machine does at best in the same run; `ratio` is against it."""

    value: float
    unit: str
    floor: float | None = None
    ratio: float | None = None
    target: str | None = None
    met: bool | None = None


def arguments(description: str, **options: Any) -> argparse.Namespace:
    """`--json FILE`, and an option for each keyword with its default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    for name, default in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def tell(metrics: dict[str, Metric], json_file: Path | None) -> None:
    """Print the table; write the file if one is wanted."""
    head = ("metric", "value", "unit", "floor", "ratio", "target", "met")
    rows = [head]
    for name, each in metrics.items():
        met = {True: "yes", False: "NO", None: ""}[each.met]
        rows.append(
            (name, _figure(each.value), each.unit, _figure(each.floor), _figure(each.ratio), each.target or "", met)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if json_file:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(metrics), indent=2))


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
