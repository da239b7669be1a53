"""The loaders that a weight file can be given to, each with a network of test size that it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models
from torch import nn
from transformers import T5Config, T5EncoderModel

from mochi.checkpoint import load_decoder, load_dit, load_encoder
from mochi.text import load_prompt_encoder
from tests.checkpoint import toys
from tests.checkpoint.toys import Weights
from tests.peers.diffusers import diffusers_dit, diffusers_vae


@dataclass(frozen=True)
class Slot:
    """title: what it takes. weights: a whole file's, by name. theirs: the same as a model of another library, which
    writes folders and shards. sample: the name of a weight from which no size of the network follows."""

    title: str
    load: Callable[[Path], Any]
    weights: Weights
    theirs: nn.Module
    sample: str


def t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=40, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return T5EncoderModel(config)


def slots(folder: Path) -> dict[str, Slot]:
    """All of them; the text encoder's takes the tokenizer that is written to the folder."""
    tokenizer = folder / "tokenizer.json"
    Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -1.0)], unk_id=2)).save(
        str(tokenizer)
    )
    dit, vae, text = toys.dit(toys.DIFFUSERS_DIT), toys.vae(), t5()
    their_vae = diffusers_vae(vae["decoder"], vae["encoder"])
    text_weights = {n: w for n, w in text.state_dict().items() if n != "encoder.embed_tokens.weight"}
    return {
        "dit": Slot("Mochi AsymmDiT", load_dit, dit.state_dict(), diffusers_dit(dit), "blocks.1.mlp_x.w1.weight"),
        "decoder": Slot(
            "Mochi AsymmVAE decoder",
            load_decoder,
            vae["decoder"].state_dict(),
            their_vae,
            "blocks.0.1.stack.2.weight",
        ),
        "encoder": Slot(
            "Mochi AsymmVAE encoder", load_encoder, vae["encoder"].state_dict(), their_vae, "layers.1.stack.2.weight"
        ),
        "t5": Slot(
            "T5 text encoder",
            lambda path: load_prompt_encoder(path, tokenizer),
            text_weights,
            text,
            "encoder.block.1.layer.1.DenseReluDense.wo.weight",
        ),
    }
