"""The REST interface: parse a request, call Memory, render the answer."""

from mnemolite.api import context, events, search, system

ROUTERS = (events.router, search.router, context.router, system.router)
OPEN_ROUTER = system.open_router
