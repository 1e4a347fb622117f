"""Cursors: where a page of events ended, as a text that says nothing to a client."""

import base64
import json
from datetime import datetime
from uuid import UUID

from mnemolite.errors import InvalidCursorError

Position = tuple[datetime, UUID]


def encode_cursor(position: Position, *, order: str) -> str:
    """The cursor of the page that ends with the event of that timestamp and id."""
    timestamp, event_id = position
    parts = [order, timestamp.isoformat(), str(event_id)]
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


def decode_cursor(cursor: str, *, order: str) -> Position:
    """Where the page before ended. Raises InvalidCursorError."""
    try:
        made_for, timestamp, event_id = json.loads(base64.urlsafe_b64decode(cursor))
        position = datetime.fromisoformat(timestamp), UUID(event_id)
    except (ValueError, TypeError, AttributeError):
        raise InvalidCursorError(
            field="cursor", remedy="Pass meta.next_cursor as it came, or leave it out."
        ) from None
    if made_for != order or position[0].utcoffset() is None:
        raise InvalidCursorError("The cursor belongs to another order.", field="cursor")
    return position
