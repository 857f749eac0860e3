"""The form of an answer: the fields that its schema asks for, and what a typed text means in each of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from matterstack.core.suggestions import did_you_mean
from matterstack.deferred import dataclass
from matterstack.errors import UsageError


@dataclass(frozen=True)
class Field:
    """One field of a form: a property of an object's JSON Schema, or the whole answer if it is not an object."""

    name: str
    schema: Mapping[str, Any]
    required: bool = False

    @property
    def about(self) -> str:
        return str(self.schema.get("description") or self.schema.get("title") or "")

    @property
    def is_fixed(self) -> bool:
        """Whether the schema leaves no choice (`const`), so that nobody is asked."""
        return "const" in self.schema

    @property
    def default(self) -> str | None:
        """The default as it would be typed, None without one."""
        return as_typed(self.schema["default"]) if "default" in self.schema else None

    @property
    def takes_empty_text(self) -> bool:
        return self.schema.get("type") in ("string", "array")

    @property
    def choices(self) -> list[Any] | None:
        inner = self.schema.get("items")
        found = self.schema.get("enum") or (inner.get("enum") if isinstance(inner, Mapping) else None)
        return found if isinstance(found, list) else None

    @property
    def numbered(self) -> list[str]:
        """The choices as they are listed, each of which its number stands for; none where a number may be meant itself."""
        choices = self.choices or []
        return [as_typed(item) for item in choices] if all(isinstance(item, str) for item in choices) else []

    def _by_number(self, text: str) -> str:
        """Return a typed text with the choices that its numbers stand for; a text that is a choice itself stays."""
        names = self.numbered
        if not names or text in names:
            return text
        words = text.split(",") if self.schema.get("type") == "array" else [text]
        found = [word.strip() for word in words]
        meant = [
            names[int(word) - 1] if word.isdigit() and word not in names and 0 < int(word) <= len(names) else word
            for word in found
        ]
        return ", ".join(meant)

    def hint(self) -> str:
        """Return what may be typed, in a few words, "" if anything may."""
        choices, kind = self.choices, self.schema.get("type")
        parts = []
        if choices is not None:
            numbered = self.numbered
            listed = "" if numbered else ": " + ", ".join(as_typed(item) for item in choices)
            what = f"1 to {len(numbered)}, or the name" if numbered else "one of these"
            parts.append(f"{self._how_many()} of these, with commas{listed}" if kind == "array" else f"{what}{listed}")
        elif isinstance(kind, str) and kind != "string":
            parts.append({"boolean": "yes or no", "array": "values, with commas"}.get(kind, kind))
        if kind in ("number", "integer") and ("minimum" in self.schema or "maximum" in self.schema):
            parts.append(f"{self.schema.get('minimum', '…')} to {self.schema.get('maximum', '…')}")
        if not self.required and "default" not in self.schema:
            parts.append("may be left empty")
        return "; ".join(parts)

    def _how_many(self) -> str:
        least, most = self.schema.get("minItems"), self.schema.get("maxItems")
        if most is not None:
            return f"{least or 0} to {most}"
        return f"at least {least}" if least else "some"

    def read(self, text: str) -> Any:
        """Return the value of a typed text. Raises UsageError if it is not a value by the field's schema."""
        from matterstack.core.validation import SchemaError, schema_violation

        if self.default is not None and text == self.default:
            return self.schema["default"]
        text = self._by_number(text)
        value = _yes_or_no(text) if self.schema.get("type") == "boolean" else value_of(self.name, text, self.schema)
        try:
            problem = self._not_a_choice(value) or schema_violation(self.schema, value)
        except SchemaError as error:
            problem = str(error)
        if problem:
            raise UsageError(problem)
        return value

    def _not_a_choice(self, value: Any) -> str:
        if self.schema.get("type") == "boolean" and not isinstance(value, bool):
            return "type yes or no"
        choices = self.choices
        if choices is None:
            return ""
        wrong = [as_typed(item) for item in (value if isinstance(value, list) else [value]) if item not in choices]
        return f"'{wrong[0]}' is none of the choices{did_you_mean(wrong[0], choices)}" if wrong else ""


def fields_of(schema: Mapping[str, Any] | None) -> list[Field]:
    """Return the fields that the schema of an object names, in its order; none for any other schema."""
    properties = (schema or {}).get("properties")
    if not isinstance(properties, Mapping):
        return []
    required = (schema or {}).get("required", [])
    return [
        Field(name, each if isinstance(each, Mapping) else {}, name in required) for name, each in properties.items()
    ]


def read_fields(words: Iterable[str], schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Read words NAME=VALUE by the fields of a schema; a field that is a string stays one. Raises UsageError."""
    fields = {field.name: field for field in fields_of(schema)}
    out: dict[str, Any] = {}
    wrong = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            wrong.append(f"--data {word}: expected NAME=VALUE")
        elif name in out:
            wrong.append(f"--data {name} is given twice")
        elif name not in fields and (near := did_you_mean(name, fields)):
            wrong.append(f"--data {name}: no such field{near}; there are {', '.join(map(str, fields))}")
        else:
            try:
                out[name] = value_of(name, text, fields[name].schema if name in fields else {})
            except UsageError as error:
                wrong.append(str(error))
    if wrong:
        raise UsageError("; ".join(wrong))
    return out


def value_of(name: str, text: str, schema: Mapping[str, Any]) -> Any:
    """Return the value of a typed text, without checking it against its schema. Raises UsageError."""
    from matterstack.spec.load import parse_value

    kind = schema.get("type")
    if kind == "string":
        return text
    choices = schema.get("enum")
    if isinstance(choices, list) and text in choices:
        return text
    if kind == "array" and not text.lstrip().startswith("["):
        inner = schema.get("items")
        items = [item.strip() for item in text.split(",")] if text.strip() else []
        return [value_of(name, item, inner if isinstance(inner, Mapping) else {}) for item in items]
    return parse_value(f"--data {name}", text)


def as_typed(value: Any) -> str:
    """Return a value as somebody would type it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)


def _yes_or_no(text: str) -> Any:
    words = {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}
    return words.get(text.strip().lower(), text)
