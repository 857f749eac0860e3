"""What the attempts of a run used, beside what they asked for, as values."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from matterstack.views.reading import reading

_MUCH_MORE = 4  # times as much asked for as was ever used: worth a remark


def usage_by_group(root: str | Path) -> list[dict[str, Any]]:
    """Return one row for each group of tasks with attempts whose usage is on record, as `status --usage --json` prints it.

    Seconds of cpu are summed over attempts, failed ones as well; memory is the peak of the largest process, in bytes.
    """
    with reading(root) as (_, store):
        found = store.usages()
    rows = []
    for group, attempts in found.items():
        peaks = [item["max_rss"] for *_, item in attempts if isinstance(item.get("max_rss"), int)]
        asked = [memory for _, memory, _ in attempts if memory is not None]
        most, request = max(peaks, default=None), max(asked, default=None)
        rows.append(
            {
                "group": group,
                "attempts": len(attempts),
                "cpu_s": round(sum(_number(item.get("cpu_s")) for *_, item in attempts), 3),
                "cpus": max(cpus for cpus, *_ in attempts),
                "memory": request,
                "max_rss_median": int(median(peaks)) if peaks else None,
                "max_rss": most,
                "read": int(sum(_number(item.get("read")) for *_, item in attempts)),
                "written": int(sum(_number(item.get("written")) for *_, item in attempts)),
                "asks_much": request is not None and most is not None and request > _MUCH_MORE * most,
            }
        )
    return rows


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
