"""Reasons: codes with values that are stored, and the sentences that people read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import matterstack
from matterstack.core.reasons import NO_REASON, Code, also, includes, reason, reason_from_json, reason_to_json, said
from matterstack.text.reasons import _SENTENCES, describe_exit, sentence

PACKAGE = Path(matterstack.__file__).parent


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1, "exit code 1"),
        (137, "exit code 137 (SIGKILL)"),
        (159, "exit code 159 (SIGSYS)"),
        (255, "exit code 255"),
        (None, "no exit code"),
    ],
)
def test_an_exit_code_for_people(code, text):
    assert describe_exit(code) == text


def test_every_code_has_a_sentence_and_no_other_has():
    assert set(_SENTENCES) == set(Code)


def test_a_reason_survives_the_ledger_and_the_journal():
    found = reason(Code.RETRY, retry=1, of=2, because=reason(Code.EXIT_CODE, exit_code=137))

    assert reason_from_json(reason_to_json(found)) == found
    assert sentence(found) == "retry 1 of 2 after exit code 137 (SIGKILL)"


def test_several_reasons_are_one_and_each_is_found_in_it():
    both = also(
        NO_REASON,
        reason(Code.TAKEN_BY, by="ann", at="2026-01-02T03:04:05Z"),
        reason(Code.OVERDUE, since="2026-01-01T00:00:00Z"),
    )

    assert sentence(both) == "taken by ann at 2026-01-02 03:04 UTC; overdue since 2026-01-01 00:00 UTC"
    assert includes(both, Code.OVERDUE)
    assert also(NO_REASON, said("x")) == said("x")
    assert not also(NO_REASON)


def test_a_reason_names_the_run_as_the_user_gave_it_in_the_command_to_type():
    found = reason(Code.ELSEWHERE, host="login2", container=False)

    assert sentence(found, "my runs/t").endswith("`matterstack adopt 'my runs/t' --assume lost`")


def test_no_decision_compares_a_reason_with_a_sentence():
    """Neither `reason == "..."`, nor startswith, nor `in` on what was said, outside of `text`."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                about = node.func.value
                if node.func.attr in ("startswith", "endswith", "partition") and isinstance(about, ast.Attribute):
                    assert about.attr not in ("reason", "message", "remedy"), f"{path}:{node.lineno}"
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                texts = any(
                    isinstance(side, ast.Constant) and isinstance(side.value, str) and side.value for side in sides
                )
                named = any(isinstance(side, ast.Attribute) and side.attr == "reason" for side in sides)
                assert not (texts and named), f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    ("count", "words"), [(1, "its attempt is unchanged"), (3, "its 3 attempts are unchanged")], ids=["one", "three"]
)
def test_numbers_agree_with_their_nouns(count, words):
    assert words in sentence(reason(Code.OPERATOR_AWAY, operator="far", error="no route", attempts=count))
