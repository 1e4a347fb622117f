"""The root of all errors: a stable code, an HTTP status, a field and a remedy.

A class's docstring is its default message; ``detail`` replaces it, ``field`` names the input at
fault, ``remedy`` says what to do, and ``retry_after`` (seconds) says when trying again makes sense.
"""

from typing import ClassVar


class MnemoliteError(Exception):
    """Something went wrong inside MnemoLite."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    usual_remedy: ClassVar[str | None] = None  # where nothing more special is said

    def __init__(
        self,
        detail: str | None = None,
        *,
        field: str | None = None,
        remedy: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "").split("\n", 1)[0]
        self.field = field
        self.remedy = remedy or self.usual_remedy
        self.retry_after = retry_after
        super().__init__(self.detail)

    @property
    def title(self) -> str:
        """The class's own message, the same for every error of this code."""
        return (type(self).__doc__ or "").split("\n", 1)[0].rstrip(".")

    def __str__(self) -> str:
        named = f"{self.field}: {self.detail}" if self.field else self.detail
        return f"{named} {self.remedy}" if self.remedy else named
