"""A VAE over two ranks in our nodes and in ComfyUI's own: the same frames and latents as in one process."""

import comfy.model_management as mm
import comfy.utils
import pytest
import torch

IN_FILE = "in the file itself"
TILES = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
pytestmark = pytest.mark.skipif(torch.cuda.device_count() == 1, reason="two ranks need no GPU, or two")


@pytest.fixture(scope="module")
def load(call, small, groups):
    return lambda file=small.vae, **inputs: call("MochiParallelLoadVAE", file=file, encoder_file=IN_FILE, **inputs)[0]


@pytest.fixture(scope="module")
def vaes(load):
    """Over two ranks, and in this process."""
    return load(dtype="auto", gpus="2"), load(dtype="auto")


@pytest.fixture
def latent():
    torch.manual_seed(2)
    return {"samples": torch.randn(2, 12, 3, 6, 8)}


@pytest.fixture
def video():
    torch.manual_seed(3)
    return torch.rand(13, 48, 64, 3)


def assert_close(a, b, bound=1e-5):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= bound


@pytest.mark.parametrize("node", ["MochiParallelVAEDecode", "VAEDecode"])
def test_decode(call, vaes, latent, node):
    assert_close(*(call(node, vae=vae, samples=latent)[0] for vae in vaes))


@pytest.mark.parametrize("node", ["MochiParallelVAEEncode", "VAEEncode"])
def test_encode(call, vaes, video, node):
    assert_close(*(call(node, vae=vae, pixels=video)[0]["samples"] for vae in vaes), bound=1e-4)


def test_tiled(call, vaes, video):
    big = {"samples": torch.randn(1, 12, 2, 12, 16)}
    assert_close(*(call("VAEDecodeTiled", vae=vae, samples=big, **TILES)[0] for vae in vaes))
    assert_close(*(call("VAEEncodeTiled", vae=vae, pixels=video, **TILES)[0]["samples"] for vae in vaes), bound=1e-4)


def test_progress_by_frames(call, vaes, latent, monkeypatch):
    told = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *now, node_id=None: told.append(now[:2]))
    call("MochiParallelVAEDecode", vae=vaes[0], samples=latent)
    assert told == [(2, 3), (3, 3)]  # as many latent frames at a time as there are ranks


def test_cancel(call, vaes, latent, groups, monkeypatch):
    expected = call("MochiParallelVAEDecode", vae=vaes[0], samples=latent)[0]
    pids, loads = groups.running.use().pids, vaes[0].patcher.remote.loads
    with monkeypatch.context() as patch:
        patch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *_, node_id=None: mm.interrupt_current_processing())
        with pytest.raises(mm.InterruptProcessingException):
            call("MochiParallelVAEDecode", vae=vaes[0], samples=latent)
    assert_close(call("MochiParallelVAEDecode", vae=vaes[0], samples=latent)[0], expected, bound=0)
    assert groups.running.use().pids == pids and vaes[0].patcher.remote.loads == loads


def test_unload_releases_and_the_next_use_reloads(call, vaes, latent, groups, protocol):
    vae = vaes[0]
    expected, remote = call("VAEDecode", vae=vae, samples=latent)[0], vae.patcher.remote
    assert vae.patcher.loaded_size() == vae.patcher.model_size() == vae.model_size()
    mm.unload_all_models()
    assert not remote.loaded and not groups.running.use().run(protocol.GetStatus())[0].models
    loads = remote.loads
    assert_close(call("VAEDecode", vae=vae, samples=latent)[0], expected, bound=0)
    assert remote.loads == loads + 1


def test_half_a_vae_says_what_is_missing(call, small, load, latent, video):
    decoder, encoder = load(small.decoder, dtype="auto", gpus="2"), load(small.encoder, dtype="auto", gpus="2")
    assert call("MochiParallelVAEDecode", vae=decoder, samples=latent)[0].shape == (26, 48, 64, 3)
    with pytest.raises(ValueError, match="only decode"):
        call("VAEEncode", vae=decoder, pixels=video)
    with pytest.raises(ValueError, match="no decoder"):
        call("VAEDecode", vae=encoder, samples=latent)


def test_status(call, vaes, latent, small):
    call("MochiParallelVAEDecode", vae=vaes[0], samples=latent)
    assert f"{small.vae}: " in call("MochiParallelGroupStatus")[0]


def test_frames_are_taken_as_they_come(vaes, latent):
    lots = [[], []]
    with torch.inference_mode():
        for vae, taken in zip(vaes, lots, strict=True):
            vae.decode_into(latent["samples"], taken.append)
    ours, one = (torch.cat(taken) for taken in lots)
    assert [len(frames) for frames in lots[0]] == [7, 6] * 2  # strips of two latent frames at a time
    # One video after the other: a batch is added up in another order on some processors.
    whole = torch.cat([vaes[1].decode(z).flatten(0, 1) for z in latent["samples"].split(1)])
    assert torch.equal(one, (whole * 255).round().to(torch.uint8))
    assert (ours.int() - one.int()).abs().max() <= 1  # a float that lies on the border of two levels
