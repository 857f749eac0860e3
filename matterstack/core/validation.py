"""JSON Schema checks with messages for people: the one home of jsonschema, imported on use.

A schema says with `x-expected` in plain words what it wants; a failure below it quotes that.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from matterstack.core.suggestions import did_you_mean
from matterstack.core.values import dump_json

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

Path = tuple[str | int, ...]
_LONGEST_CHECK_S = 2.0  # of one value by its schema
_LONGEST_VALUE = 60
_FEW_KEYS = 10
_MOST_VIOLATIONS = 10


class SchemaError(ValueError):
    """A schema that is itself wrong (for `response_schema` and `result_schema`)."""


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise SchemaError if ``schema`` is not a valid JSON Schema (draft 2020-12)."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError as Invalid

    try:
        Draft202012Validator.check_schema(schema)
    except RecursionError:
        raise SchemaError("is nested too deeply") from None
    except Invalid as error:
        place = ".".join(map(str, error.absolute_path))
        raise SchemaError(f"{place + ': ' if place else ''}{error.message}") from None
    for ref in _refs(schema):
        _require_target(schema, ref)


def _refs(value: Any) -> Iterator[str]:
    """Yield the `$ref`s of a schema; what is quoted in it as data may be taken for one."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in ("$ref", "$dynamicRef") and isinstance(item, str):
                yield item
            elif key not in ("enum", "const", "default", "examples"):
                yield from _refs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _refs(item)


def _require_target(schema: Mapping[str, Any], ref: str) -> None:
    """Raise SchemaError for a `$ref` that leads nowhere: nothing is fetched, so nobody could answer."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    registry: Any = Registry().with_resource("", DRAFT202012.create_resource(schema))
    try:
        registry.resolver(str(schema.get("$id", ""))).lookup(ref)
    except (Unresolvable, ValueError):
        raise SchemaError(f"`$ref` leads nowhere: {ref} (only what is in the schema itself can be named)") from None


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise SchemaError in what computes longer: a `pattern` may backtrack for ever.

    The clock is that of this process's computing, so a slow disk or a suspended machine costs nobody his answer. Other
    threads than the main one have no such alarm.
    """

    def stop(*_: object) -> None:
        raise SchemaError(f"takes longer than {seconds:g} s to check; does a `pattern` backtrack?")

    try:
        before = signal.signal(signal.SIGVTALRM, stop)
    except ValueError:  # not the main thread
        yield
        return
    left, interval = signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, left, interval)
        signal.signal(signal.SIGVTALRM, before if before is not None else signal.SIG_DFL)


def schema_violation(schema: Mapping[str, Any], value: Any) -> str:
    """Say in one sentence where ``value`` violates a valid JSON Schema, each place once; "" if it does not.

    Raises SchemaError for a `$ref` that leads nowhere, or round in a circle (nothing is fetched), and for a check
    that takes longer than two seconds.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        with _at_most(_LONGEST_CHECK_S):
            validator = Draft202012Validator(schema, registry=Registry(), format_checker=_formats())
            errors = list(islice(validator.iter_errors(value), _MOST_VIOLATIONS))
            found = [closest for each in errors if (closest := best_match([each])) is not None]
    except RecursionError:
        raise SchemaError("its `$ref`s form a cycle, or it is nested too deeply") from None
    except Unresolvable as unresolvable:
        raise SchemaError(f"`$ref` leads nowhere: {unresolvable.ref}") from None
    except SchemaError:
        raise
    except Exception as error:  # of the validator, for schemas and numbers that it does not bear
        raise SchemaError(f"cannot be used: {type(error).__name__}: {str(error)[:100]}") from None
    said = []
    for best in sorted(found, key=lambda each: [str(part) for part in each.absolute_path]):
        place = ".".join(map(str, best.absolute_path))
        said.append(f"{place + ': ' if place else ''}{best.message[:200]}")
    return "; ".join(dict.fromkeys(said))


@lru_cache(maxsize=1)
def _formats() -> Any:
    """Return the check of `format`: what jsonschema brings, and times by RFC 3339 and addresses, for which it wants more."""
    from datetime import datetime, time
    from urllib.parse import urlsplit

    from jsonschema import Draft202012Validator, FormatChecker

    def of_texts(check: Callable[[str], bool]) -> tuple[Callable[[object], bool], type[Exception]]:
        return lambda value: not isinstance(value, str) or check(value), ValueError

    duration = r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?!$)(\d+H)?(\d+M)?(\d+S)?)?)"
    checker = FormatChecker(formats=())
    checker.checkers = {
        **Draft202012Validator.FORMAT_CHECKER.checkers,
        "date-time": of_texts(lambda text: "T" in text.upper() and datetime.fromisoformat(text).tzinfo is not None),
        "time": of_texts(lambda text: time.fromisoformat(text).tzinfo is not None),
        "duration": of_texts(lambda text: re.fullmatch(duration, text) is not None),
        "uri": of_texts(lambda text: bool(urlsplit(text).scheme) and not re.search(r"\s", text)),
    }
    return checker


@lru_cache(maxsize=8)
def _validator(schemas: str, entry: str) -> Draft202012Validator:
    import json

    from jsonschema import Draft202012Validator, validators
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    documents = json.loads(schemas)
    for document in documents:
        document.pop("$schema", None)  # it would make jsonschema drop our own type checker at this document
    registry: Any = Registry().with_resources(
        [(document["$id"], Resource.from_contents(document, DRAFT202012)) for document in documents]
    )
    # JSON Schema takes 4.0 for an integer; in a campaign it is written as a number that may have a fraction.
    whole = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    extend: Any = validators.extend
    checker = extend(Draft202012Validator, type_checker=whole)
    made: Draft202012Validator = checker({"$ref": entry}, registry=registry)
    return made


class FormError(NamedTuple):
    """An error of form; with ``at_key`` the last part of the path is a key that should not be there, or not so."""

    path: Path
    message: str
    at_key: bool
    unknown_key: bool = False


def find_errors(schemas: str, entry: str, value: Any) -> list[FormError]:
    """Check a value against ``entry`` (a reference like `campaign.schema.json#/$defs/task`).

    ``schemas`` is a JSON list of the schema documents.
    """
    out: list[FormError] = []
    for error in _validator(schemas, entry).iter_errors(value):
        _explain(error, out)
    return out


def _explain(error: ValidationError, out: list[FormError]) -> None:
    path: Path = tuple(error.absolute_path)
    schema: Any = error.schema
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        known = schema.get("properties", {})
        if not isinstance(schema.get("additionalProperties"), Mapping):
            import re

            patterns = list(schema.get("patternProperties", {}))
            for key in error.instance:
                if key not in known and not any(re.search(pattern, key) for pattern in patterns):
                    near = did_you_mean(str(key), known)
                    if not near and 0 < len(known) <= _FEW_KEYS:
                        near = f"; there {'are' if len(known) > 1 else 'is'} {', '.join(known)}"
                    out.append(FormError((*path, key), f"unknown key{near}", True, unknown_key=True))
            return
    if error.validator == "required" and isinstance(error.instance, Mapping):
        required: Any = error.validator_value
        for key in required:
            message = f"'{key}' is missing"
            if key not in error.instance and FormError(path, message, False) not in out:
                out.append(FormError(path, message, False))
        return
    if error.validator in ("anyOf", "oneOf"):
        best = _fitting_branch(error)
        if best:
            for inner in best:
                _explain(inner, out)
            return
    if error.parent is not None and error.validator != "propertyNames" and "propertyNames" in error.schema_path:
        out.append(FormError((*path, str(error.instance)), _expected(error), True))
        return
    if "propertyNames" in error.absolute_schema_path:
        out.append(FormError((*path, str(error.instance)), _expected(error), True))
        return
    out.append(FormError(path, _expected(error), False))


def _fitting_branch(error: ValidationError) -> list[ValidationError]:
    """Return the errors of the one alternative that has the right type, if there is such a one."""
    branches: dict[Any, list[ValidationError]] = {}
    for inner in error.context or ():
        branches.setdefault(inner.schema_path[0], []).append(inner)
    fitting = [
        inners
        for inners in branches.values()
        if not any(i.validator in ("type", "const", "pattern", "minLength") and not i.path for i in inners)
    ]
    if len(fitting) > 1:  # of several kinds of mappings, the one of which all that it must have is there
        fitting = [inners for inners in fitting if not any(i.validator == "required" and not i.path for i in inners)]
    return fitting[0] if len(fitting) == 1 and isinstance(error.instance, Mapping | list) else []


def _expected(error: ValidationError) -> str:
    schema: Any = error.schema
    expected = schema.get("x-expected") if isinstance(schema, Mapping) else None
    node: Any = error
    while expected is None and node is not None and node.parent is not None:
        node = node.parent
        if (
            node is not None
            and isinstance(node.schema, Mapping)
            and tuple(node.absolute_path) == tuple(error.absolute_path)
        ):
            expected = node.schema.get("x-expected")
    got = show(error.instance)
    if expected is None:
        return f"{error.message[:200]}"
    if error.validator == "minProperties" or got in ("", "null"):
        return f"expected {expected}, got {'nothing' if got in ('', 'null') else 'an empty mapping'}"
    return f"expected {expected}, got {got}"


def show(value: Any) -> str:
    """Print a value shortly, for a message."""
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list" if value else "an empty list"
    text = f"'{value}'" if isinstance(value, str) else dump_json(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 2] + "…'"
