"""Errors in what the operator set or gave."""

from mnemolite.errors.requests import InvalidInputError
from mnemolite.errors.root import MnemoliteError


class SettingsError(MnemoliteError):
    """A setting is not valid."""

    code = "invalid_setting"


class InvalidFileError(InvalidInputError):
    """The file cannot be read."""

    code = "invalid_file"
