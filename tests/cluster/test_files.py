"""Whatever a model's files are: another machine that has them under other names loads the same from a tree of links."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mochi.checkpoint import Checkpoint
from mochi.cluster.weights import absolute, files_of, files_of_model, is_built_in, link_tree, locate
from mochi.config import TINY, TINY_WEIGHTS
from mochi.errors import CheckpointError
from mochi.lora import read_lora
from mochi.model_dir import ModelDir, find_model
from mochi.pipeline import GenerateSettings, load_pipeline
from mochi.text import PromptTokenizer
from mochi.text.layout import find_tokenizer
from tests.checkpoint import toys, writers
from tests.checkpoint.slots import t5
from tests.checkpoint.toys import with_weights
from tests.peers.diffusers import diffusers_dit, diffusers_vae

DIT = load_file(TINY_WEIGHTS / "dit.safetensors")
VAE = {part: dict(network.state_dict()) for part, network in toys.vae().items()}


def published(folder: Path) -> None:
    """As it is built in: a file a network, a folder t5, and statistics of latents that are this model's own."""
    shutil.copytree(TINY_WEIGHTS, folder, dirs_exist_ok=True)
    own_statistics(folder)


def own_statistics(folder: Path) -> None:
    stored = json.loads((TINY_WEIGHTS / "latents.json").read_text())
    (folder / "latents.json").write_text(json.dumps({name: [2 * x for x in values] for name, values in stored.items()}))


def comfyui(folder: Path) -> None:
    """ComfyUI's files: T5 in one, its tokenizer in a folder beside it."""
    shutil.copy(TINY_WEIGHTS / "dit.safetensors", folder / "mochi_preview_bf16.safetensors")
    save_file(
        {f"{part}.{name}": value for part, vae in VAE.items() for name, value in vae.items()},
        folder / "mochi_vae.safetensors",
    )
    shutil.copy(TINY_WEIGHTS / "t5" / "model.safetensors", folder / "t5xxl_fp16.safetensors")
    (folder / "tokenizer").mkdir()
    shutil.copy(TINY_WEIGHTS / "t5" / "tokenizer.json", folder / "tokenizer")


def beside(folder: Path) -> None:
    """The same, the tokenizer in the model's folder, and files of other models and of other things there too."""
    comfyui(folder)
    shutil.move(folder / "tokenizer" / "tokenizer.json", folder)
    (folder / "tokenizer").rmdir()
    toys.save(folder / "another.safetensors", {"a.weight": torch.ones(2)})
    (folder / "notes.json").write_text("{}")


def sharded(folder: Path) -> None:
    """Hugging Face's folders, T5 and the denoiser in several files; a sharded file of ComfyUI's is the same."""
    shutil.copytree(TINY_WEIGHTS / "t5", folder / "tokenizer")
    for name in ("config.json", "model.safetensors"):
        (folder / "tokenizer" / name).unlink()
    diffusers_dit(with_weights(TINY.dit, DIT)).save_pretrained(folder / "transformer", max_shard_size="4MB")
    from transformers import T5EncoderModel

    T5EncoderModel.from_pretrained(TINY_WEIGHTS / "t5").save_pretrained(folder / "text_encoder", max_shard_size="1MB")
    shutil.copy(TINY_WEIGHTS / "decoder.safetensors", folder)
    shutil.copy(TINY_WEIGHTS / "encoder.safetensors", folder)
    assert len(list(folder.glob("*/*.safetensors"))) > 4


def gguf(folder: Path) -> None:
    """A denoiser in GGUF, in several files."""
    comfyui(folder)
    (folder / "mochi_preview_bf16.safetensors").unlink()
    writers.gguf(folder, DIT, "Q8_0", split_max_tensors=40)
    assert len(list(folder.glob("*.gguf"))) > 2


def all_in_one(folder: Path) -> None:
    """All networks in one file."""
    text = load_file(TINY_WEIGHTS / "t5" / "model.safetensors")
    writers.all_in_one(folder, DIT, **VAE, t5=text)
    (folder / "old_scaled.safetensors").unlink()
    shutil.copy(TINY_WEIGHTS / "t5" / "tokenizer.json", folder)


LAYOUTS = [published, comfyui, beside, sharded, gguf, all_in_one]


def contents(model: ModelDir) -> tuple[object, ...]:
    """What a model loads: sizes and statistics, variant, all stored values, and the ids of a prompt."""
    checkpoints = [model.dit, model.decoder, model.text_encoder, model.encoder]
    tokenizer = PromptTokenizer(find_tokenizer(model.text_encoder.path))
    values = [values_of(each) for each in checkpoints]
    return model.config, model.variant[0], tokenizer("a red circle moves").ids.tolist(), values


def values_of(checkpoint: Checkpoint) -> dict[str, tuple[object, ...]]:
    """Shapes and values, by name, to be compared."""
    read = {name: tensor.read() for name, tensor in checkpoint.tensors.items()}
    return {name: (value.shape, hashlib.sha256(value.double().numpy()).hexdigest()) for name, value in read.items()}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_model_whose_files_are_elsewhere(layout, tmp_path, carried_off):
    """The folder has a variant in its name, which the tree must keep."""
    origin = tmp_path / "studio" / "my-pusa"
    origin.mkdir(parents=True)
    layout(origin)
    model = find_model(origin)
    wanted, expected = files_of_model(model, encoder=True), contents(model)
    assert not {"another.safetensors", "notes.json"} & {Path(file.path).name for file in wanted}
    located = locate(wanted, [carried_off(wanted, origin)])
    assert not located.missing
    tree = link_tree(located, tmp_path / "links")
    for file in wanted:
        assert tree.local(file.path).read_bytes() == Path(located.found[file.path]).read_bytes()
    assert contents(find_model(tree.local(absolute(origin)))) == expected


def test_each_file_of_a_model_is_needed(tmp_path, carried_off):
    """Nothing is wanted in vain: without any one of the files, something else is loaded, or nothing."""
    origin = tmp_path / "model"
    origin.mkdir()
    sharded(origin)
    own_statistics(origin)
    model = find_model(origin)
    wanted, expected = files_of_model(model, encoder=True), contents(model)
    tree = link_tree(locate(wanted, [carried_off(wanted, origin)]), tmp_path / "links")

    def loads_the_same() -> bool:
        try:
            return contents(find_model(tree.local(absolute(origin)))) == expected
        except CheckpointError:
            return False

    for file in wanted:
        link = tree.local(file.path)
        target = link.readlink()
        link.unlink()
        assert not loads_the_same(), file.path
        link.symlink_to(target)
    assert loads_the_same()


def test_the_encoder_is_wanted_where_pictures_are_given(tmp_path):
    published(tmp_path)
    model = find_model(tmp_path)
    names = [{Path(file.path).name for file in files_of_model(model, encoder)} for encoder in (False, True)]
    assert names[1] - names[0] == {"encoder.safetensors"}
    (tmp_path / "encoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match="pictures need an AsymmVAE encoder"):
        files_of_model(find_model(tmp_path), encoder=True)


def test_the_built_in_model_comes_with_the_code(tmp_path):
    assert files_of_model(find_model(), encoder=True) == ()
    (tmp_path / "link").symlink_to(TINY_WEIGHTS)
    assert is_built_in(find_model(tmp_path / "link")) and files_of_model(find_model(tmp_path / "link")) == ()
    published(tmp_path / "copy")
    assert not is_built_in(find_model(tmp_path / "copy"))


def test_a_video_from_a_tree_of_links(tmp_path, carried_off):
    origin = tmp_path / "model"
    shutil.copytree(TINY_WEIGHTS, origin)
    settings = GenerateSettings.of(TINY.defaults, prompt="a red circle", width=32, height=32, frames=7, steps=2, seed=1)
    wanted = files_of_model(find_model(origin))
    expected = torch.cat(list(load_pipeline(origin, device="cpu").generate(settings)))
    tree = link_tree(locate(wanted, [carried_off(wanted, origin)]), tmp_path / "links")
    made = torch.cat(list(load_pipeline(tree.local(absolute(origin)), device="cpu").generate(settings)))
    assert made.equal(expected)


def test_t5_from_elsewhere(tmp_path, carried_off):
    """A folder without any, and T5 at a place of its own."""
    origin, t5 = tmp_path / "studio" / "model", tmp_path / "studio" / "encoders" / "t5"
    published(origin)
    t5.parent.mkdir()
    (origin / "t5").rename(t5)
    model = find_model(origin, t5)
    wanted, expected = files_of_model(model, encoder=True), contents(model)
    tree = link_tree(locate(wanted, [carried_off(wanted, origin)]), tmp_path / "links")
    assert model.t5 == t5
    assert contents(find_model(tree.local(absolute(origin)), tree.local(absolute(model.t5)))) == expected


def shards(folder: Path) -> list[Path]:
    diffusers_dit(toys.dit(toys.DIFFUSERS_DIT)).save_pretrained(folder, max_shard_size="400KB")
    return sorted(folder.glob("*.safetensors"))


def split_gguf(folder: Path) -> list[Path]:
    writers.gguf(folder, toys.dit().state_dict(), "Q4_0", split_max_tensors=12)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("way", ["folder", "index", "any part"])
@pytest.mark.parametrize("write", [shards, split_gguf], ids=lambda write: write.__name__)
def test_a_checkpoint_in_several_files(write, way, tmp_path, carried_off):
    origin = tmp_path / "dit"
    origin.mkdir()
    parts = write(origin)
    index = next(iter(origin.glob("*.index.json")), parts[0])
    opened = {"folder": origin, "index": index, "any part": parts[1]}[way]
    checkpoint = Checkpoint.open(opened)
    wanted, expected = files_of(checkpoint), values_of(checkpoint)
    assert {Path(file.path) for file in wanted} >= {*parts, index}
    tree = link_tree(locate(wanted, [carried_off(wanted, origin)]), tmp_path / "links")
    assert values_of(Checkpoint.open(tree.local(absolute(opened)))) == expected


def test_a_vae_of_diffusers_and_a_text_encoder(tmp_path, carried_off):
    origin = tmp_path / "pipe"
    vae = toys.vae()
    diffusers_vae(vae["decoder"], vae["encoder"]).save_pretrained(origin / "vae")
    t5().save_pretrained(origin / "text_encoder")
    (origin / "tokenizer").mkdir()
    shutil.copy(TINY_WEIGHTS / "t5" / "tokenizer.json", origin / "tokenizer")
    checkpoints = [Checkpoint.open(origin / name) for name in ("vae", "text_encoder")]
    expected = [values_of(each) for each in checkpoints]
    wanted = [file for each in checkpoints for file in files_of(each)]
    names = {str(Path(file.path).relative_to(origin)) for file in wanted}
    assert names >= {"text_encoder/config.json", "tokenizer/tokenizer.json"} and "vae/config.json" not in names
    tree = link_tree(locate(wanted, [carried_off(wanted, origin)]), tmp_path / "links")
    here = [Checkpoint.open(tree.local(each.path.as_posix())) for each in checkpoints]
    assert [values_of(each) for each in here] == expected
    assert here[1].config("t5").d_ff == 64 and find_tokenizer(here[1].path).name == "tokenizer"


def lora(path: Path) -> Path:
    stem = "transformer_blocks.0.attn1.to_q"
    return toys.save(path, {f"{stem}.lora_B.weight": torch.ones(96, 4), f"{stem}.lora_A.weight": torch.ones(4, 96)})


def scale(path: Path) -> float:
    ((patch,),) = read_lora(path).patches.values()
    return patch.scale


def test_a_lora_and_what_says_its_alpha(tmp_path, carried_off):
    origin = tmp_path / "loras"
    origin.mkdir()
    path = lora(origin / "my.safetensors")
    (origin / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 12, "target_modules": ["to_q"]}))
    wanted = files_of(path)
    assert [Path(file.path).name for file in wanted] == ["my.safetensors", "adapter_config.json"]
    tree = link_tree(locate(wanted, [carried_off(wanted, origin)]), tmp_path / "links")
    assert scale(tree.local(absolute(path))) == 3


def test_settings_of_another_lora_are_not_wanted(tmp_path):
    path = lora(tmp_path / "my.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 9, "lora_alpha": 12, "target_modules": ["to_q"]}))
    assert [Path(file.path).name for file in files_of(path)] == ["my.safetensors"]


def test_a_single_text_encoder_without_tokenizer(tmp_path):
    """ComfyUI brings its own."""
    shutil.copy(TINY_WEIGHTS / "t5" / "model.safetensors", tmp_path / "t5.safetensors")
    assert [Path(file.path).name for file in files_of(tmp_path / "t5.safetensors")] == ["t5.safetensors"]


@pytest.mark.parametrize("name", ["weights", "./weights", "../{here}/weights", "link/../weights", "weights/"])
def test_paths_that_other_machines_know(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`link` leads to another folder, where `..` goes up from."""
    here = tmp_path / "here"
    for folder in (here / "weights", tmp_path / "far" / "inner", tmp_path / "far" / "weights"):
        folder.mkdir(parents=True)
    (here / "link").symlink_to(tmp_path / "far" / "inner")
    monkeypatch.chdir(here)
    chosen = name.format(here="here")
    found = absolute(chosen)
    assert Path(found).is_absolute() and ".." not in Path(found).parts and Path(found).samefile(chosen)
