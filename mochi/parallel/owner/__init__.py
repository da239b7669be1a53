"""The process that asks: it starts the workers, sends them requests, hears them and ends them."""
