"""Import and export: files and streams in, files and streams out."""

from mnemolite.import_export.exports import export_lines, write_export, write_parquet
from mnemolite.import_export.formats import AUTO, FORMATS
from mnemolite.import_export.imports import import_events
from mnemolite.import_export.lines import open_lines
from mnemolite.import_export.mapping import LineMapping
from mnemolite.import_export.report import BadLine, ImportReport

__all__ = [
    "AUTO",
    "FORMATS",
    "BadLine",
    "ImportReport",
    "LineMapping",
    "export_lines",
    "import_events",
    "open_lines",
    "write_export",
    "write_parquet",
]
