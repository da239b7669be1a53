"""Our VAE in our nodes and in ComfyUI's own."""

import copy
import logging

import comfy.model_management as mm
import comfy.utils
import pytest
import torch

IN_FILE = "in the file itself"


@pytest.fixture(scope="module")
def vae(call, small):
    return call("MochiParallelLoadVAE", file=small.vae, encoder_file=IN_FILE, dtype="auto")[0]


@pytest.fixture(scope="module")
def latent():
    torch.manual_seed(2)
    return {"samples": torch.randn(1, 12, 3, 6, 8)}


@pytest.fixture(scope="module")
def video():
    torch.manual_seed(3)
    return torch.rand(13, 48, 64, 3)


def test_decode_equals_the_built_in_node(call, vae, latent):
    (ours,) = call("MochiParallelVAEDecode", vae=vae, samples=latent)
    (theirs,) = call("VAEDecode", vae=vae, samples=latent)
    assert ours.shape == (13, 48, 64, 3)
    assert torch.equal(ours, theirs)
    assert ours.min() >= 0 and ours.max() <= 1


def test_decode_equals_the_core(call, pack, small, vae, latent):
    decoder = pack.module("mochi.checkpoint").load_decoder(small.models / "vae" / small.decoder)
    with torch.inference_mode():
        expected = ((decoder(latent["samples"]) + 1) / 2).clamp(0, 1).movedim(1, -1)[0]
    (ours,) = call("MochiParallelVAEDecode", vae=vae, samples=latent)
    assert (ours - expected).abs().max() < 1e-5


def test_decode_of_a_batch_is_one_video_after_the_other(call, vae, latent):
    other = torch.roll(latent["samples"], 1, dims=-1)
    (both,) = call("MochiParallelVAEDecode", vae=vae, samples={"samples": torch.cat([latent["samples"], other])})
    (first,) = call("MochiParallelVAEDecode", vae=vae, samples=latent)
    assert both.shape[0] == 26
    assert (both[:13] - first).abs().max() < 1e-5


def test_encode_equals_the_built_in_node_and_the_core(call, pack, small, vae, video):
    (ours,) = call("MochiParallelVAEEncode", vae=vae, pixels=video)
    (theirs,) = call("VAEEncode", vae=vae, pixels=video)
    assert ours["samples"].shape == (1, 12, 3, 6, 8)
    assert torch.equal(ours["samples"], theirs["samples"])
    encoder = pack.module("mochi.checkpoint").load_encoder(small.models / "vae" / small.encoder)
    with torch.inference_mode():
        expected = encoder(video.movedim(-1, 0)[None] * 2 - 1).mean
    assert (ours["samples"] - expected).abs().max() < 1e-4


def test_tiled_nodes(call, vae, latent, video):
    tiles = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    (whole,) = call("VAEDecode", vae=vae, samples=latent)
    (tiled,) = call("VAEDecodeTiled", vae=vae, samples=latent, **tiles)
    assert tiled.shape == whole.shape and (tiled - whole).abs().max() < 1e-4  # one tile holds it all
    big = {"samples": torch.randn(1, 12, 2, 12, 16)}
    (tiled,) = call("VAEDecodeTiled", vae=vae, samples=big, **tiles)
    assert tiled.shape == (7, 96, 128, 3)
    (encoded,) = call("VAEEncodeTiled", vae=vae, pixels=video, **tiles)
    assert encoded["samples"].shape == (1, 12, 3, 6, 8)


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_chunks_change_nothing(call, vae, latent, chunk):
    (whole,) = call("MochiParallelVAEDecode", vae=vae, samples=latent)
    (ours,) = call("MochiParallelVAEDecode", vae=vae, samples=latent, chunk=chunk)
    assert (ours - whole).abs().max() < 1e-5


def test_tiles_of_our_node_are_those_of_the_built_in_one(call, vae):
    big = {"samples": torch.randn(1, 12, 2, 12, 16)}
    (ours,) = call("MochiParallelVAEDecode", vae=vae, samples=big, tile=64)
    (theirs,) = call("VAEDecodeTiled", vae=vae, samples=big, tile_size=64, overlap=16)
    (exact,) = call("MochiParallelVAEDecode", vae=vae, samples=big)
    assert torch.equal(ours, theirs)
    assert (ours - exact).abs().max() > 1e-3


def test_a_chunk_is_what_memory_and_pixels_allow(pack, vae, monkeypatch):
    """Of a device with memory of its own: none is here, so only the arithmetic is tested."""
    model, host = vae.first_stage_model, pack.module("nodes.host.sockets.vae")
    values = pack.module("mochi.vae.chunks").live_values

    def chunk(free: float, shape: tuple[int, ...]) -> int:
        monkeypatch.setattr(host.mm, "get_free_memory", lambda device: free)
        return model._chunk(torch.empty(shape, device="meta"))

    published, small = (1, 12, 28, 60, 106), (1, 12, 28, 16, 24)
    assert chunk(80e9, published) == 4
    assert chunk(80e9, small) == 28
    needed = {n: 2 * 4 * sum(values(model.decoder.config, n, *small[3:]).values()) for n in (1, 2, 3)}
    assert [chunk(needed[n], small) for n in (1, 2, 3)] == [1, 2, 3]
    assert [chunk(needed[n] - 1, small) for n in (1, 2, 3)] == [1, 1, 2]
    monkeypatch.setattr(host.mm, "get_free_memory", lambda device: needed[3])
    assert [model._chunk(torch.empty(small, device="meta"), wanted) for wanted in (2, 3, 9)] == [2, 3, 3]
    assert model._chunk(torch.empty(small)) == 1
    assert model._chunk(torch.empty(small), 7) == 7


def test_weights_that_cuda_wants_in_another_order_can_be_saved(pack, vae, tmp_path):
    model, path = copy.deepcopy(vae.first_stage_model), tmp_path / "vae.safetensors"
    on_cuda = copy.copy(vae)
    on_cuda.first_stage_model = pack.module("mochi.vae.layers").in_order(model, "cuda")
    convolutions = [p for p in model.parameters() if p.ndim == 5 and p[0, 0].numel() > 1]
    assert convolutions and not any(p.is_contiguous() for p in convolutions)
    comfy.utils.save_torch_file(on_cuda.get_sd(), str(path))
    saved, expected = comfy.utils.load_torch_file(str(path)), vae.get_sd()
    assert saved.keys() == expected.keys() and all(torch.equal(saved[name], expected[name]) for name in saved)


def test_a_device_that_is_too_small_says_what_to_do(vae, latent, monkeypatch):
    def full(*_):
        raise mm.OOM_EXCEPTION

    monkeypatch.setattr(vae.first_stage_model, "decode_into", full)
    with pytest.raises(ValueError, match="tile"):
        vae.decode_into(latent["samples"], print)


def test_two_files(call, small, vae, latent, video):
    (two,) = call("MochiParallelLoadVAE", file=small.decoder, encoder_file=small.encoder, dtype="auto")
    assert torch.equal(*(call("MochiParallelVAEDecode", vae=v, samples=latent)[0] for v in (two, vae)))
    assert torch.equal(*(call("MochiParallelVAEEncode", vae=v, pixels=video)[0]["samples"] for v in (two, vae)))


@pytest.mark.parametrize("node", ["MochiParallelVAEEncode", "VAEEncode", "VAEEncodeTiled"])
def test_a_decoder_alone_says_what_encoding_needs(call, small, latent, video, node):
    (vae,) = call("MochiParallelLoadVAE", file=small.decoder, encoder_file=IN_FILE, dtype="auto")
    assert call("MochiParallelVAEDecode", vae=vae, samples=latent)[0].shape[0] == 13
    tiles = {"tile_size": 64, "overlap": 16} if node == "VAEEncodeTiled" else {}
    with pytest.raises(ValueError, match=r"only decode.*encoder\.safetensors"):
        call(node, vae=vae, pixels=video, **tiles)


def test_an_encoder_alone_says_what_decoding_needs(call, small, latent, video):
    (vae,) = call("MochiParallelLoadVAE", file=small.encoder, encoder_file=IN_FILE, dtype="auto")
    assert call("MochiParallelVAEEncode", vae=vae, pixels=video)[0]["samples"].shape == (1, 12, 3, 6, 8)
    with pytest.raises(ValueError, match="no decoder"):
        call("VAEDecode", vae=vae, samples=latent)


def test_state_dict_is_the_layout_of_comfyui(pack, small, vae):
    file = pack.module("mochi.checkpoint").Checkpoint.open(small.models / "vae" / small.vae)
    assert set(vae.get_sd()) == set(file.tensors)


def test_memory_estimates_follow_the_size(vae):
    small_video, large_video = (1, 12, 3, 6, 8), (1, 12, 28, 60, 106)
    assert 0 < vae.memory_used_decode(small_video, torch.float32) < vae.memory_used_decode(large_video, torch.float32)
    assert vae.memory_used_encode((1, 3, 7, 64, 64), torch.float32) > 0


def test_loading_says_nothing_alarming(call, small, caplog):
    with caplog.at_level(logging.WARNING):
        call("MochiParallelLoadVAE", file=small.vae, encoder_file=IN_FILE, dtype="auto")
    assert not caplog.records
