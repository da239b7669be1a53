"""Programs around the pack: its environment, a ComfyUI to run it in, the demo, the tests."""
