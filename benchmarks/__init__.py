"""This pack against its peers, and against itself on one device: same work, same weights, one run, as ratios."""
