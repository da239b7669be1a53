"""MODEL, CLIP and VAE: ComfyUI's own objects around our networks, in this process."""
