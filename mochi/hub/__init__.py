"""Published weights: which file is where on the hub, and how it gets to where loaders look."""
