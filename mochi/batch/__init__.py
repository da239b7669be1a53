"""Many videos: made by workers on any number of machines, each with a pipeline of its own."""
