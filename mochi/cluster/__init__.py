"""A running Ray cluster: attaching to it, its machines, and code, weights and networks on each of them.

Ray is optional. It is imported when a cluster is asked for, and not before.
"""
