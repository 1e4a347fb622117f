"""Adoption of a foreign database: a table of events that another program has filled is taken over.

Offline it is copied and compared. Online a trigger keeps the source's changes while it is copied;
the cut-over blocks the source's writers for good, and until the adoption is finished what changes
here can be brought back. Every step can be interrupted, and goes on when it is run again.
"""

from mnemolite.adoption.copying import Show
from mnemolite.adoption.steps import adopt, cut_over, finish, preview, roll_back, status
from mnemolite.adoption.vectors import names_own_model

__all__ = [
    "Show",
    "adopt",
    "cut_over",
    "finish",
    "names_own_model",
    "preview",
    "roll_back",
    "status",
]
