"""The canvas: one file for each stage of a graph. A node reads widgets, calls the core, returns sockets."""
