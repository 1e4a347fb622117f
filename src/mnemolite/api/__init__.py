"""The REST interface: parse a request, call Memory, render the answer."""

from mnemolite.api import events, search, system

ROUTERS = (events.router, search.router, system.router)
OPEN_ROUTER = system.open_router
