"""A worker of a group: how it starts, how it handles requests, what it keeps between them."""
