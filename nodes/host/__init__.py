"""The only room that talks to ComfyUI's internals: models, files, sampling, progress, output."""
