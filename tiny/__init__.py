"""The trainer of the built-in tiny model: its clips and captions, its training, and the judge of the result."""
