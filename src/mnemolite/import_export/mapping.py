"""Where the keys of a JSON line go in an event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mnemolite.errors import InvalidInputError
from mnemolite.import_export.report import ImportReport
from mnemolite.models import NewEvent

_EVENT_KEYS = frozenset(NewEvent.model_fields)
# The words of the vocabulary that live inside an event's content.
_CONTENT_KEYS = frozenset({"text", "speaker", "role", "name"})
_ROOTS = ("content", "metadata")


@dataclass(frozen=True, slots=True)
class LineMapping:
    """Where the keys of a line go, and what holds for lines that do not say."""

    targets: Mapping[str, str] = field(default_factory=dict)
    namespace: str | None = None
    zone: tzinfo = UTC

    @classmethod
    def parse(
        cls, pairs: Sequence[str], *, namespace: str | None = None, zone: str = "UTC"
    ) -> "LineMapping":
        """Read ``key=target`` pairs. Raises InvalidInputError that names the pair at fault."""
        targets = dict(_parse_pair(pair) for pair in pairs)
        try:
            return cls(targets, namespace, ZoneInfo(zone))
        except (ZoneInfoNotFoundError, ValueError, OSError):  # "Europe" is a folder of zones
            raise InvalidInputError(
                f"{zone!r} is not a time zone.", field="--timezone", remedy="Use Europe/Paris, say."
            ) from None

    def to_event(self, row: Mapping[str, Any], report: ImportReport) -> NewEvent:
        """Sort a row's keys into an event; keys nobody asked for are kept in its metadata."""
        fields: dict[str, Any] = {}
        for key, value in row.items():
            target = self.targets.get(key) or _natural_target(key)
            if target.startswith("metadata.") and key not in self.targets:
                report.kept_in_metadata.add(key)
            _put(fields, target, value=value)
        if fields.get("namespace") is None:
            fields.pop("namespace", None)
            fields |= {"namespace": self.namespace} if self.namespace else {}
        if type(fields.get("session")) is int:  # a bool is none
            fields["session"] = str(fields["session"])
        if "timestamp" in fields:
            fields["timestamp"] = self.with_zone(fields["timestamp"], report)
        return NewEvent.model_validate(fields)

    def with_zone(self, stamp: object, report: ImportReport) -> object:
        """A time of day without a zone is one in the mapping's zone; a date is its midnight."""
        if not isinstance(stamp, str):
            return stamp
        try:
            moment = datetime.fromisoformat(stamp)
        except ValueError:
            return stamp  # the model says what is wrong with it
        if moment.utcoffset() is not None:
            return moment
        report.zoneless += 1
        return moment.replace(tzinfo=self.zone)


def _natural_target(key: str) -> str:
    """Where a key goes that no mapping names."""
    if key in _EVENT_KEYS:
        return key
    return f"content.{key}" if key in _CONTENT_KEYS else f"metadata.{key}"


def _parse_pair(pair: str) -> tuple[str, str]:
    key, separator, target = pair.partition("=")
    root, _, rest = target.partition(".")
    valid = target in _EVENT_KEYS or (root in _ROOTS and rest)
    if not separator or not key or not valid:
        raise InvalidInputError(
            f"{pair!r} does not say where a key goes.",
            field="--map",
            remedy="Write key=target with a target such as namespace, session, timestamp, id, "
            "content.text or metadata.doc_id.",
        )
    return key, target


def _put(fields: dict[str, Any], target: str, *, value: Any) -> None:
    """Set ``content.text`` and the like; a whole ``content`` or ``metadata`` is merged in.

    Raises ValueError when two keys go to one place: one of them would be lost.
    """
    if target == "content" and isinstance(value, str):
        target = "content.text"  # what a string means as content; a speaker beside it stays
    elif target == "content" and isinstance(value, list):
        target = "content.content"  # a message of several parts
    root, _, rest = target.partition(".")
    if root not in _ROOTS:
        _put_one(fields, root, value=value)
        return
    place = fields.setdefault(root, {})
    if rest and isinstance(place, dict):
        _put_one(place, rest, value=value)
    elif isinstance(value, dict) and isinstance(place, dict):
        for key, inner in value.items():
            _put_one(place, key, value=inner)
    else:
        fields[root] = value


def _put_one(place: dict[str, Any], key: str, *, value: Any) -> None:
    if key in place:
        raise ValueError(f"two keys go to {key!r}: name a place for one of them with --map")
    place[key] = value
