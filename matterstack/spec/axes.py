"""Values of an axis that a campaign file does not write out: a range of numbers; and axes that go in lockstep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from matterstack.core.validation import show
from matterstack.core.values import Float, Int

OF_MATRIX = frozenset({"include", "exclude", "zip"})  # keys of a matrix that are no axis
_FORM = "expected [start, last, step], or a number n for 1 to n"


def files_axes(matrix: Mapping[str, Any] | None) -> list[str]:
    """Return the axes whose values are files: each is an input as well."""
    return [axis for axis, values in (matrix or {}).items() if isinstance(values, Mapping) and "files" in values]


def range_values(given: Any, most: int) -> list[Any]:
    """Return the values of `{range: given}`: start, last and step, both ends included, or 1 to n.

    Computed with decimals, so that each prints with as many digits as the more precise of start and step. Raises
    ValueError, in words, also for more than ``most`` values and for a last value that the steps do not meet.
    """
    if isinstance(given, list):
        if not 2 <= len(given) <= 3:
            raise ValueError(f"{_FORM}, got {show(given)}")
        start, last, *rest = map(_decimal, given)
        step = rest[0] if rest else Decimal(1)
    else:
        start, last, step = Decimal(1), _decimal(given), Decimal(1)
        if last != last.to_integral_value() or last < 1:
            raise ValueError(f"{_FORM}, got {show(given)}")
    if step == 0 or (last - start) * step < 0:
        raise ValueError(f"a step of {step} never leads from {start} to {last}")
    steps = (last - start) / step
    if steps >= most:
        raise ValueError(f"{int(steps) + 1} values; a campaign may have {most} instances")
    if steps != steps.to_integral_value():
        before = start + step * int(steps)
        raise ValueError(
            f"{last} is not met in steps of {step} from {start}: write {_text(before, step, start)} or "
            f"{_text(before + step, step, start)} as the last"
        )
    return [_number(_text(start + step * number, step, start)) for number in range(int(steps) + 1)]


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{_FORM}, got {show(value)}")
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        found = Decimal(int(value)) if isinstance(value, int) else Decimal(repr(float(value)))
    if not -30 <= found.adjusted() <= 30:
        raise ValueError(f"{value} is out of range (1e-30 to 1e30)")
    return found


def _text(value: Decimal, *like: Decimal) -> str:
    """Print a number with as many digits as the most precise of some others has."""
    digits = max(-int(other.as_tuple().exponent) for other in like)
    return f"{value:.{max(digits, 0)}f}"


def _number(text: str) -> Any:
    return Float(text) if "." in text else Int(text)


def in_lockstep(axes: Sequence[tuple[str, list[Any]]], names: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Return the parts of rows that each axis gives; those named by `zip` are one axis, where the first of them stands.

    Raises ValueError, in words, for a name that is no axis, and for axes of different lengths.
    """
    known = dict(axes)
    for number, name in enumerate(names):
        if name not in known:
            raise ValueError(f"'{name}' is not an axis with values; zip takes {', '.join(known) or 'axes'}")
        if name in names[:number]:
            raise ValueError(f"'{name}' is named twice")
    lengths = {name: len(known[name]) for name in names}
    if len(set(lengths.values())) > 1:
        told = " and ".join(f"'{name}' has {count}" for name, count in lengths.items())
        raise ValueError(f"axes that go in lockstep need as many values: {told}")
    out: list[list[dict[str, Any]]] = []
    for name, values in axes:
        if name not in names:
            out.append([{name: value} for value in values])
        elif name == next(axis for axis, _ in axes if axis in names):
            rows = zip(*(known[axis] for axis, _ in axes if axis in names), strict=True)
            together = [axis for axis, _ in axes if axis in names]
            out.append([dict(zip(together, row, strict=True)) for row in rows])
    return out
