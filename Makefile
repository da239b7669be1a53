# Each target is one script; without make, call it as it stands here: python3 -m scripts.demo
PYTHON ?= python3
ARGS ?=

.PHONY: help demo quick test test-oldest serve lint bench
help:
	@echo "make demo         install what is needed, bring up a ComfyUI with this pack, make a video"
	@echo "make serve        the same ComfyUI, left running: open the editor in a browser"
	@echo "make quick        the tests for the loop while writing: networks and files, under 3 minutes"
	@echo "make test         the tests, including those in a real ComfyUI (ARGS='-k name' to choose)"
	@echo "make test-oldest  those of the networks and ranks, with the oldest torch that is supported"
	@echo "make lint         rules, formatting, types and import contracts"
	@echo "make bench        this pack against its peers, in the environment of make test"
demo:
	@$(PYTHON) -m scripts.demo $(ARGS)
quick:
	@$(PYTHON) -m scripts.test -m "not slow and not host" $(ARGS)
test:
	@$(PYTHON) -m scripts.test $(ARGS)
test-oldest:
	@$(PYTHON) -m scripts.test_oldest $(ARGS)
serve:
	@$(PYTHON) -m scripts.serve $(ARGS)
lint:
	@$(PYTHON) -m scripts.lint $(ARGS)
bench:
	@.venv/bin/python -m benchmarks.vae decode $(ARGS)
	@.venv/bin/python -m benchmarks.vae encode $(ARGS)
	@.venv/bin/python -m benchmarks.dit $(ARGS)
	@.venv/bin/python -m benchmarks.pipeline latents $(ARGS)
