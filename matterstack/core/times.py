"""Times as text: UTC, ISO 8601, with microseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

_RECENT = 256  # times of which text and number are kept: one is printed and read several times within a step


@lru_cache(_RECENT)
def to_text(seconds: float) -> str:
    """Return `2026-11-21T09:14:03.123456Z` for POSIX seconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_text(text: object) -> float | None:
    """Return POSIX seconds of an ISO 8601 time, None for anything else, also what `to_text` could not print."""
    return _from_text(text) if isinstance(text, str) else None


@lru_cache(_RECENT)
def _from_text(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        to_text(seconds)
    except (ValueError, OverflowError, OSError):
        return None
    return seconds if seconds >= 0 else None


def rounded(seconds: float) -> float:
    """Return the time that its text says: the ledger and the journal hold the same one."""
    return from_text(to_text(seconds)) or 0.0
