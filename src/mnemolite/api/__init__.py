"""The REST interface: parse a request, call Memory, render the answer."""

from mnemolite.api import context, events, feed, search, system

# The stream stands before the events: its address would be taken for an id.
ROUTERS = (feed.router, events.router, search.router, context.router, system.router)
OPEN_ROUTER = system.open_router
