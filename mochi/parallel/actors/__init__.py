"""Workers that are actors of a Ray cluster, so that a group can span machines."""
