"""How an event is written before it is embedded: as somebody would recall it.

A question about the past finds `On 8 May 2023, Caroline said: "…"` far more often than the bare
words, because who and when are part of what is asked. The wording is part of an embedding space's
identity: whoever changes it changes ``TEMPLATE`` too.
"""

import unicodedata
from datetime import UTC, datetime

TEMPLATE = "dated-1"

# The most tokens a WordPiece tokeniser makes of a wrapper; `passages` leaves this much room. A
# name is cut so that it is true of every name.
WRAPPER_TOKENS = 36
_NAME_LENGTH = 24

# Not strftime, whose names follow the locale of the process.
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def recall_text(text: str, *, speaker: str | None = None, timestamp: datetime | None = None) -> str:
    """Wrap an event's text, or one passage of it, with its speaker and its day (in UTC)."""
    name = _short_name(speaker) if speaker else ""
    if timestamp is None:
        return f'{name} said: "{text}"' if name else text
    day = f"On {written_day(timestamp)}"
    return f'{day}, {name} said: "{text}"' if name else f'{day}: "{text}"'


def written_day(timestamp: datetime) -> str:
    """A day as people write it, such as ``8 May 2023``, in UTC."""
    if timestamp.tzinfo is not None:
        timestamp = timestamp.astimezone(UTC)
    return f"{timestamp.day} {_MONTHS[timestamp.month - 1]} {timestamp.year}"


def _short_name(speaker: str) -> str:
    name = " ".join(speaker.split())
    if len(name) <= _NAME_LENGTH and name.isascii():
        return name
    # Tokenisers decompose characters: one Korean syllable can become three tokens.
    while len(unicodedata.normalize("NFD", name)) > _NAME_LENGTH:
        name = name[: _NAME_LENGTH if len(name) > _NAME_LENGTH else len(name) - 1]
    return name.rstrip()
