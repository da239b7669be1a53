"""An image classifier of toy size, trained here in a second: red frames are "nsfw", blue ones "normal"."""

from pathlib import Path

import torch
from torch import Tensor

LABELS = {0: "normal", 1: "nsfw"}
RED, BLUE = (220, 30, 30), (30, 30, 220)


def plain(colour: tuple[int, int, int], frames: int = 1, height: int = 32, width: int = 32) -> Tensor:
    """Frames of one colour, (F, H, W, 3) in uint8."""
    return torch.tensor(colour, dtype=torch.uint8).expand(frames, height, width, 3).contiguous()


def write_toy(folder: Path, labels: dict[int, str] = LABELS) -> Path:
    """Train it, and write its files as transformers does."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        numbers = {name: number for number, name in labels.items()}
        config = ViTConfig(image_size=16, patch_size=8, id2label=labels, label2id=numbers, **sizes)
        model, processor = ViTForImageClassification(config), ViTImageProcessor(size={"height": 16, "width": 16})
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(80):
            kinds = torch.randint(2, (16,))
            colours = torch.where(kinds[:, None] == 1, torch.tensor(RED), torch.tensor(BLUE)) / 127.5 - 1
            pictures = colours[:, :, None, None] + 0.3 * torch.randn(16, 3, 1, 1) + 0.2 * torch.randn(16, 3, 16, 16)
            loss = torch.nn.functional.cross_entropy(model(pixel_values=pictures.clamp(-1, 1)).logits, kinds)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder
