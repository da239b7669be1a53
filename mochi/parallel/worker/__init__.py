"""A process of the group: how it starts, what it can be asked, what it keeps between requests."""
