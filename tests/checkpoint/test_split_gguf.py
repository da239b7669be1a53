"""GGUF in several files: read by any one of them, or one sentence that says which are missing."""

import shutil

import gguf
import pytest
import torch

from mochi.checkpoint import Checkpoint, load_dit
from mochi.errors import CheckpointError
from tests.checkpoint import toys, writers
from tests.checkpoint.slots import t5

SPLITS = {"by tensors": {"split_max_tensors": 12}, "by size": {"split_max_size": 40_000}}
SPLITS["first without tensors"] = {"split_max_tensors": 12, "small_first_shard": True}


@pytest.fixture(scope="module")
def network():
    return toys.dit()


def write(folder, network, **split):
    """The files that the library's own writer makes of a model, in order."""
    name = "x_embedder.proj.weight"  # its shape is in the first file, wherever the tensor is
    weights = network.state_dict()
    shapes = {name: weights[name].shape}
    writers.gguf(folder, weights | {name: weights[name].reshape(-1, 256)}, "Q8_0", shapes, **split)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module", params=SPLITS)
def parts(request, network, tmp_path_factory):
    files = write(tmp_path_factory.mktemp("split"), network, **SPLITS[request.param])
    assert len(files) > 2
    return files


def test_any_part_is_the_whole_model(parts, network, tmp_path):
    (whole,) = write(tmp_path, network)
    expected = load_dit(whole, torch.float32).state_dict()
    for file in (parts[0], parts[1], parts[-1], parts[0].parent):
        found = load_dit(file, torch.float32).state_dict()
        assert found.keys() == expected.keys() and all(value.equal(expected[name]) for name, value in found.items())
        assert Checkpoint.open(file).files == tuple(parts)


def test_missing_parts_are_named(parts, tmp_path):
    there, missing = [parts[0], *parts[2:]], parts[1].name
    for file in there:
        shutil.copy(file, tmp_path)
    for file in there:
        with pytest.raises(CheckpointError, match=f"{file.name}: part .* of {len(parts)} .*but {missing} is not"):
            Checkpoint.open(tmp_path / file.name)
    (tmp_path / parts[2].name).unlink()
    with pytest.raises(CheckpointError, match=f"{missing}, {parts[2].name}.* are not beside it"):
        Checkpoint.open(tmp_path / parts[0].name)


def test_a_renamed_part_says_what_it_is(parts, tmp_path):
    shutil.copy(parts[1], tmp_path / "mochi.gguf")
    with pytest.raises(CheckpointError, match=rf"mochi.gguf: part 2 of {len(parts)} .* NAME-00002-of-"):
        Checkpoint.open(tmp_path / "mochi.gguf")


def test_parts_that_do_not_belong_together(parts, tmp_path):
    for file in parts:
        shutil.copy(file, tmp_path)
    shutil.copy(parts[0], tmp_path / parts[1].name)
    with pytest.raises(CheckpointError, match=f"{parts[1].name}: not part 2 of {len(parts)}"):
        Checkpoint.open(tmp_path / parts[0].name)


def test_parts_with_too_few_tensors(tmp_path):
    weights = toys.dit().state_dict()
    writers.gguf(tmp_path, weights, "Q8_0", split_max_tensors=20)
    expected = sorted(tmp_path.iterdir())
    shorter = tmp_path / "shorter"
    shorter.mkdir()
    writers.gguf(shorter, dict(list(weights.items())[:-1]), "Q8_0", split_max_tensors=20)
    assert len(sorted(shorter.iterdir())) == len(expected)
    shutil.copy(sorted(shorter.iterdir())[-1], expected[-1])
    with pytest.raises(CheckpointError, match="should have"):
        Checkpoint.open(expected[0])


def test_a_text_encoder_in_several_files(tmp_path):
    weights = {n: w for n, w in t5().state_dict().items() if n != "encoder.embed_tokens.weight"}
    writers.gguf(tmp_path, weights, "Q8_0", architecture="t5", split_max_tensors=7)
    for file in sorted(tmp_path.iterdir()):
        Checkpoint.open(file).check("t5")


def test_one_file_that_was_never_divided(tmp_path):
    path = tmp_path / "one.gguf"
    writer = gguf.GGUFWriter(path, "mochi")
    writer.add_uint16("split.no", 0)
    writer.add_uint16("split.count", 1)
    for name, weight in toys.dit().state_dict().items():
        writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    Checkpoint.open(path).check("dit")
