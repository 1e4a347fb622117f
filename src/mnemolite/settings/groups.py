"""What the groups of settings are made of: a frozen group, and fields that name their variable."""

from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def blank_is_unset(value: object) -> object:
    """``NAME=`` in a ``.env`` file means "not set", as people expect."""
    return None if value == "" else value


OptionalText = Annotated[str | None, BeforeValidator(blank_is_unset)]
OptionalCount = Annotated[int | None, BeforeValidator(blank_is_unset)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(blank_is_unset)]


def env(name: str, default: Any, description: str, **constraints: Any) -> Any:  # noqa: PLR0917
    """A field that is read from the environment variable of that name."""
    return Field(
        default,
        validation_alias=AliasChoices(name),
        description=description,
        json_schema_extra={"env": name},
        **constraints,
    )


class Group(BaseSettings):
    """Settings that belong together, read from the environment and a ``.env`` file."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        populate_by_name=True,
    )
