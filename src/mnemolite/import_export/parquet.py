"""Exports as Parquet, for programs that analyse: needs pyarrow, the extra ``parquet``."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mnemolite.errors import InvalidInputError
from mnemolite.import_export.header import ExportHeader
from mnemolite.snapshot import Row

_COLUMNS = ("id", "namespace", "session", "timestamp", "created_at", "content", "metadata")


class ParquetFile:
    """A Parquet file that is being written, a row group for each batch."""

    def __init__(self, table: Any, writer: Any) -> None:
        self._table = table
        self._writer = writer

    @classmethod
    @contextmanager
    def create(cls, path: Path, header: ExportHeader) -> Iterator["ParquetFile"]:
        """Begin a file; the header goes into its metadata. Raises InvalidInputError."""
        arrow, parquet = _pyarrow()
        about = {"mnemolite": header.model_dump_json()}
        schema = _schema(arrow, header.space["dimension"] if header.space else None).with_metadata(
            about
        )
        with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            yield cls(arrow.Table, writer)

    def write(self, rows: Sequence[Row], languages: Mapping[str, str]) -> None:
        """Append events."""
        columns = {name: [row[name] for row in rows] for name in _COLUMNS}
        columns["id"] = [str(event_id) for event_id in columns["id"]]
        columns["language"] = [languages.get(row["namespace"]) for row in rows]
        if "vectors" in self._writer.schema.names:
            columns["vectors"] = [_passages(row["vectors"]) for row in rows]
        self._writer.write_table(self._table.from_pydict(columns, schema=self._writer.schema))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InvalidInputError(
            "Parquet needs pyarrow, which is not installed.",
            field="--format",
            remedy="Install it with: pip install 'mnemolite[parquet]'.",
        ) from None
    return pyarrow, parquet


def _schema(arrow: Any, dimension: int | None) -> Any:
    stamp = arrow.timestamp("us", tz="UTC")
    kinds = [
        ("id", arrow.string()),
        ("namespace", arrow.string()),
        ("session", arrow.string()),
        ("timestamp", stamp),
        ("created_at", stamp),
        ("content", arrow.string()),
        ("metadata", arrow.string()),
        ("language", arrow.string()),
    ]
    if dimension is not None:
        vector = arrow.list_(arrow.float32(), dimension)
        span = [("start", arrow.int32()), ("end", arrow.int32()), ("vector", vector)]
        kinds.append(("vectors", arrow.list_(arrow.struct(span))))
    return arrow.schema(kinds)


def _passages(text: str | None) -> list[dict[str, Any]]:
    return [
        {"start": start, "end": end, "vector": _floats(packed)}
        for start, end, packed in json.loads(text or "[]")
    ]


def _floats(packed: str) -> Any:
    return np.frombuffer(base64.b64decode(packed), dtype=">f4").astype(np.float32)
