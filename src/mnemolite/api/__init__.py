"""The REST interface: parse a request, call Memory, render the answer."""

from mnemolite.api import (
    context,
    events,
    feed,
    import_export,
    partitions,
    search,
    system,
    webhooks,
)

# Before the events, one of whose routes takes whatever stands in the place of an id.
ROUTERS = (
    feed.router,
    import_export.router,
    events.router,
    search.router,
    context.router,
    partitions.router,
    webhooks.router,
    system.router,
)
OPEN_ROUTER = system.open_router
