"""Acceptance on one GPU: `python -m benchmarks.gpu`. Is what runs there right, as fast as it should be, as large as
predicted? See __main__.py for how it runs, and the README beside this folder for what each section tells."""
