"""The owner of a group: it starts the workers, sends them requests, hears them and ends them."""
