"""Values as a campaign file writes them: numbers that keep their text, JSON that keeps it too, and units.

`1.00` is the number one and prints as `1.00`; a label, a file name or a command must not turn it into `1.0`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring
from typing import Any

_NUL, _TRUE, _FALSE = ("null", "Null", "NULL", "~", ""), ("true", "True", "TRUE"), ("false", "False", "FALSE")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?\Z")
_LONGEST_NUMBER = 400  # characters; int() and float() are quadratic or refuse beyond a few thousand
_EXACT = "$number"


class Int(int):
    """An integer that prints as it was written."""

    text: str

    def __new__(cls, text: str) -> Int:
        base = 16 if text.startswith("0x") else 8 if text.startswith("0o") else 10
        self = super().__new__(cls, text, base)
        self.text = text
        return self

    def __str__(self) -> str:
        return self.text


class Float(float):
    """A floating-point number that prints as it was written."""

    text: str

    def __new__(cls, text: str) -> Float:
        self = super().__new__(cls, text)
        self.text = text
        return self

    def __str__(self) -> str:
        return self.text


def resolve_scalar(text: str) -> Any:
    """Return the value of an unquoted scalar by the YAML 1.2 core schema.

    `yes`, dates, `24:00:00` and digits with a leading zero are text. Raises ValueError, with a message for
    a person, for infinities, NaN and numbers that no computation here could hold.
    Source: YAML 1.2.2, section 10.3.
    """
    if text in _NUL:
        return None
    first = text[0]
    if first in "tTfF":
        return True if text in _TRUE else False if text in _FALSE else text
    if first not in "0123456789+-.":
        return text
    if _INT.match(text) or _OCTAL_OR_HEX.match(text):
        if len(text) > _LONGEST_NUMBER:
            raise ValueError(f"a number of {len(text)} digits; quote it if it is text")
        return Int(text)
    if _FLOAT.match(text):
        if len(text) > _LONGEST_NUMBER:
            raise ValueError(f"a number of {len(text)} characters; quote it if it is text")
        number = Float(text)
        if math.isinf(number):
            raise ValueError(f"{text} is too large for a number; quote it if it is text")
        return number
    if _NOT_FINITE.match(text):
        raise ValueError(f"{text} is not a finite number; quote it if it is text")
    return text


def as_text(value: object) -> str:
    """Print a scalar as it was written. Raises ValueError for a list, a mapping or null."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    if value is None:
        raise ValueError("null cannot be inserted into text")
    kind = "a list" if isinstance(value, list | tuple) else "a mapping" if isinstance(value, Mapping) else "this value"
    raise ValueError(f"{kind} cannot be inserted into text")


def _encoder() -> Callable[[Any], str]:
    """Return `json.JSONEncoder(ensure_ascii=False).encode`, but with the C encoder made once instead of for each value."""
    slow = json.JSONEncoder(ensure_ascii=False)
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # a Python without it
        return slow.encode
    chunks = make(None, slow.default, encode_basestring, None, ": ", ", ", False, False, True)
    return lambda value: "".join(chunks(value, 0))


encode_json = _encoder()


def dump_json(value: Any, *, exact: bool = False) -> str:
    """Write JSON in which numbers keep their text (`1.00` stays `1.00`).

    With ``exact``, for `load_json`, also a number that JSON cannot write that way (`.5`, `0x10`, `+1`) keeps it.
    """
    kind = type(value)  # the usual ones first: a task.json holds dozens
    if kind is str:
        return encode_basestring(value)
    if value is None:
        return "null"
    if kind is int:
        return int.__repr__(value)
    if kind is Float or kind is Int:
        if _JSON_NUMBER.match(value.text):
            return str(value.text)
        if exact:
            return json.dumps({_EXACT: value.text})
        return int.__repr__(value) if isinstance(value, Int) else float.__repr__(value)
    if kind is dict or isinstance(value, Mapping):
        items = [
            f"{encode_basestring(str(k))}: {encode_basestring(v) if type(v) is str else dump_json(v, exact=exact)}"
            for k, v in value.items()
        ]
        return "{" + ", ".join(items) + "}"
    if kind is list or isinstance(value, list | tuple):  # a loader's list is one as well
        return "[" + ", ".join(dump_json(item, exact=exact) for item in value) + "]"
    return encode_basestring(value) if isinstance(value, str) else encode_json(value)


def dump_json_lines(value: Mapping[str, Any] | list[Any], *, exact: bool = False) -> str:
    """Write a JSON object or list for files and pipes that people look at too: one key or item a line."""
    if not value:
        return "{}\n" if isinstance(value, Mapping) else "[]\n"
    if isinstance(value, Mapping):
        items = [f"{encode_basestring(str(key))}: {dump_json(item, exact=exact)}" for key, item in value.items()]
        return "{\n  " + ",\n  ".join(items) + "\n}\n"
    return "[\n  " + ",\n  ".join(dump_json(item, exact=exact) for item in value) + "\n]\n"


def _number_or_mapping(pairs: list[tuple[str, Any]]) -> Any:
    if len(pairs) == 1 and pairs[0][0] == _EXACT:
        return resolve_scalar(pairs[0][1])
    return dict(pairs)


def load_json(text: str) -> Any:
    """Read what ``dump_json(exact=True)`` wrote; numbers keep their text."""
    return json.loads(text, parse_int=Int, parse_float=Float, object_pairs_hook=_number_or_mapping)


_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT])(?:i?B)?\Z", re.IGNORECASE)
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])\Z")
_CLOCK = re.compile(r"([0-9]+):([0-5][0-9]):([0-5][0-9])\Z")
_SCALE = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_TIME_S = 100 * 366 * 86400
MOST_MEMORY = 2**60


def parse_memory(value: object) -> int:
    """Return bytes for `500M`, `24G`, `1.5T` (binary units). Raises ValueError with a message for a person."""
    match = _MEMORY.match(value) if isinstance(value, str) else None
    if match is None:
        hint = f"; did you mean {value}G or {value}M?" if isinstance(value, int | float) else ""
        raise ValueError(f"expected memory with a unit like 500M, 24G or 1.5T, got {value!s}{hint}")
    size = float(match[1]) * _SCALE[match[2].upper()]
    if not 1 <= size <= MOST_MEMORY:
        raise ValueError(f"memory of {value} is out of range (1K to 1048576T)")
    return int(size)


def parse_time(value: object) -> float:
    """Return seconds for `90s`, `10m`, `4h`, `2d` or `24:00:00`. Raises ValueError with a message for a person."""
    if isinstance(value, str):
        if match := _TIME.match(value):
            seconds = float(match[1]) * _SECONDS[match[2]]
        elif match := _CLOCK.match(value):
            seconds = float(int(match[1][:12]) * 3600 + int(match[2]) * 60 + int(match[3]))
        else:
            raise ValueError(f"expected a time with a unit like 90s, 10m, 4h, 2d or 24:00:00, got {value}")
        if seconds > LONGEST_TIME_S:
            raise ValueError(f"a time of {value} is longer than 100 years")
        return seconds
    hint = f"; did you mean {value}s or {value}m?" if isinstance(value, int | float) else ""
    raise ValueError(f"expected a time with a unit like 90s, 10m, 4h, 2d or 24:00:00, got {value!s}{hint}")


def format_duration(seconds: float) -> str:
    """Print a duration for a person: `0.4 s`, `42 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def format_memory(size: int) -> str:
    """Print bytes with the largest binary unit that leaves a short number: `512M`, `1.5G`."""
    for unit in "TGMK":
        if size >= _SCALE[unit]:
            number = size / _SCALE[unit]
            return f"{number:.0f}{unit}" if number == int(number) else f"{number:.1f}{unit}"
    return f"{size}B"
