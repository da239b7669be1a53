"""The web page, for people who do not want a graph."""
