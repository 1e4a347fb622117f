"""The layout of the events and their vectors in time: what is asked for, and what was done."""

from typing import Literal

from pydantic import Field

from mnemolite.models.values import Frozen

PartitionInterval = Literal["day", "week", "month", "quarter", "year"]


class LayoutWish(Frozen):
    """What somebody asks for when partitions are turned on; None: as it is, or the default."""

    interval: PartitionInterval | None = Field(None, description="Of the events; month.")
    embeddings_interval: PartitionInterval | Literal["none"] | None = Field(
        None, description="Of the vectors; year. none: each space stays one table."
    )
    premake: int | None = Field(
        None, ge=1, le=100, description="Partitions ahead of the current one; 4."
    )
    retention: str | None = Field(
        None, min_length=1, max_length=100, description="How long events are kept; for ever."
    )
    manager: Literal["auto", "native", "pg_partman"] | None = Field(
        None, description="Who makes later partitions; auto."
    )


class LayoutChange(Frozen):
    """What a change of the layout did."""

    operation: Literal["enable", "split", "undo-split", "disable"]
    tables: list[str] = Field(description="Those that were laid out anew; none: it was so already.")
    rows: int = Field(description="Rows that were copied.")
