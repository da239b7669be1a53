"""One video over all GPUs: a group of processes that compute it together. See docs/parallel.md."""
