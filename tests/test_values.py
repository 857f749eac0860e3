"""Scalars by the YAML 1.2 core schema, printed as written; units."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matterstack.core.values import (
    as_text,
    dump_json,
    format_duration,
    load_json,
    parse_memory,
    parse_time,
    resolve_scalar,
)

SCALARS = {  # as written -> its type
    "yes": str, "No": str, "on": str, "2024-01-01": str, "24:00:00": str, "012": str, "-012": str, "1_000": str,
    "0b1": str, "1e": str, "e3": str, "+": str, ".": str, "1.2.3": str, "0o8": str, "truE": str, "nan": str,
    "1": int, "-3": int, "+7": int, "0": int, "0x1F": int, "0o17": int,
    "1.00": float, "1e-3": float, "1e3": float, ".5": float, "1.": float, "-0.0": float, "6.02E+23": float,
    "true": bool, "False": bool, "~": type(None), "": type(None), "null": type(None),
}  # fmt: skip


@pytest.mark.parametrize(("text", "kind"), SCALARS.items(), ids=[f"[{text}]" for text in SCALARS])
def test_a_scalar_has_the_type_of_the_core_schema_and_prints_as_written(text, kind):
    value = resolve_scalar(text)

    assert isinstance(value, kind)
    assert isinstance(value, bool) == (kind is bool)
    if kind in (int, float, str):
        assert as_text(value) == text


def test_octal_and_hexadecimal_have_their_values():
    assert (resolve_scalar("0x1F"), resolve_scalar("0o17")) == (31, 15)


@pytest.mark.parametrize("text", [".inf", "-.Inf", ".nan", "1e999", "9" * 5000])
def test_a_number_that_nothing_could_hold_is_refused(text):
    with pytest.raises(ValueError, match="quote it if it is text"):
        resolve_scalar(text)


@given(st.from_regex(r"[-+]?[0-9]{1,12}(\.[0-9]{0,6})?([eE][-+]?[0-9]{1,2})?", fullmatch=True))
def test_every_number_survives_the_ledger_as_written(text):
    value = resolve_scalar(text)

    assert as_text(load_json(dump_json({"v": value}, exact=True))["v"]) == text
    assert json.loads(dump_json([value]))[0] == value


@pytest.mark.parametrize(
    ("text", "size"), [("500M", 500 * 2**20), ("24G", 24 * 2**30), ("1.5T", 3 * 2**39), ("10k", 10240), ("2GiB", 2**31)]
)
def test_memory_is_binary(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("4h", 14400), ("2d", 172800), ("24:00:00", 86400), ("0s", 0), ("1.5h", 5400)],
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "value", ["", "10", "5 apples", "-1s", "1:2", "99:99:99", 10, 1.5, True, None, [], "9" * 30 + "d", "1e3s"]
)
def test_a_time_without_a_unit_is_an_error(value):
    with pytest.raises(ValueError, match=r"expected a time|longer than"):
        parse_time(value)


@pytest.mark.parametrize("value", ["", "10", "G", "-1G", 10, None, {}, "0M", "9" * 30 + "T"])
def test_memory_without_a_unit_is_an_error(value):
    with pytest.raises(ValueError, match=r"expected memory|out of range"):
        parse_memory(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (42, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (273600, "3 d 4 h")],
)
def test_durations_for_people(seconds, text):
    assert format_duration(seconds) == text
