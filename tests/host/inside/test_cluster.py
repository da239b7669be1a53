"""A model over two machines of a Ray cluster among ComfyUI's own nodes: the same results as in one process."""

import comfy.model_management as mm
import comfy.utils
import pytest
import torch
from exact import assert_close
from raylets import needs_ray, raylets
from safetensors.torch import save_file

IN_FILE = "in the file itself"
LAYERS = ("blocks.0.attn.qkv_x", "blocks.2.mlp_x.w2")
pytestmark = needs_ray


@pytest.fixture(scope="module")
def cluster(pack, groups):
    """Two raylets, and this process attached to them until the last of these tests has run."""
    attach = pack.module("mochi.cluster.attach")
    with raylets(2) as running:
        yield running
        for manager in list(groups._managers.values()):
            manager.close()
        groups.running = None
        attach.detach()


@pytest.fixture(scope="module")
def settings(cluster):
    """The widgets of Mochi Parallel Settings."""
    values = {"gpus": "all", "guidance": "auto", "ulysses": 0, "weights": "auto", "timeout": 60.0}
    return {**values, "cluster": cluster.address, "machines": 0, "interface": ""}


@pytest.fixture(scope="module")
def parallel(call, settings):
    return call("MochiParallelSettings", **settings)[0]


@pytest.fixture(scope="module")
def remote(call, small, parallel):
    """The MODEL over both machines."""
    return call("MochiParallelLoadDiT", file=small.dit, dtype="auto", parallel=parallel)[0]


@pytest.fixture(scope="module")
def vaes(call, small, parallel):
    """Over both machines, and in this process."""
    load = {"file": small.vae, "encoder_file": IN_FILE, "dtype": "auto"}
    return [call("MochiParallelLoadVAE", **load, **more)[0] for more in ({"parallel": parallel}, {})]


@pytest.fixture(scope="module")
def loras(small):
    """Two files of small LoRAs."""
    (small.models / "loras").mkdir(exist_ok=True)
    generator, names = torch.Generator().manual_seed(6), []
    for number in range(2):
        state = {}
        for layer in LAYERS:
            rows, columns = small.network.get_submodule(layer).weight.shape
            state[f"diffusion_model.{layer}.lora_A.weight"] = 0.3 * torch.randn(3, columns, generator=generator)
            state[f"diffusion_model.{layer}.lora_B.weight"] = 0.3 * torch.randn(rows, 3, generator=generator)
        names.append(f"cluster_{number}.safetensors")
        save_file(state, small.models / "loras" / names[-1])
    return names


@pytest.mark.parametrize("batch", [1, 2])
def test_latents_equal_those_of_one_process(model, remote, k_sampler, mochi_sampler, batch):
    expected = k_sampler(model, batch=batch)
    assert_close(k_sampler(remote, batch=batch), expected)
    assert_close(mochi_sampler(remote, batch=batch), expected)


@pytest.mark.parametrize("node", ["MochiParallelVAEDecode", "VAEDecode"])
def test_frames_equal_those_of_one_process(call, vaes, model, remote, k_sampler, node):
    frames, expected = (
        call(node, vae=vae, samples={"samples": k_sampler(network)})[0] for vae, network in zip(vaes, (remote, model))
    )
    assert frames.shape == expected.shape and (frames - expected).abs().max() <= 1e-5


def test_pictures_are_encoded(call, vaes):
    video = torch.rand(7, 48, 64, 3, generator=torch.Generator().manual_seed(3))
    ours, expected = (call("VAEEncode", vae=vae, pixels=video)[0]["samples"] for vae in vaes)
    assert (ours - expected).abs().max() <= 1e-4


def test_lora_is_loaded_changed_and_removed(call, model, remote, loras, k_sampler):
    def with_lora(model, file, strength):
        return call("MochiParallelLoadLoRA", model=model, file=file, strength=strength)[0]

    plain = k_sampler(model)
    for file, strength in ((loras[0], 1.0), (loras[0], 0.5), (loras[1], 1.0)):
        expected = k_sampler(with_lora(model, file, strength))
        assert (expected - plain).norm() / plain.norm() > 0.02
        assert_close(k_sampler(with_lora(remote, file, strength)), expected)
    assert_close(k_sampler(remote), plain)


@pytest.mark.parametrize("sampler", ["k_sampler", "mochi_sampler"])
def test_cancel_leaves_the_actors(remote, groups, k_sampler, mochi_sampler, monkeypatch, sampler):
    run = {"k_sampler": k_sampler, "mochi_sampler": mochi_sampler}[sampler]
    expected = run(remote)
    pids, loads = groups.running.use().pids, remote.remote.loads

    def told(value, total, preview, node_id=None):
        if value == 2:
            mm.interrupt_current_processing()

    with monkeypatch.context() as cancelling:
        cancelling.setattr(comfy.utils, "PROGRESS_BAR_HOOK", told)
        with pytest.raises(mm.InterruptProcessingException):
            run(remote)
    assert_close(run(remote), expected)
    assert groups.running.use().pids == pids and remote.remote.loads == loads


def test_unload_releases_and_the_next_use_loads(remote, groups, k_sampler, protocol):
    expected, loads = k_sampler(remote), remote.remote.loads
    pids = groups.running.use().pids
    mm.unload_all_models()
    assert all(not status.models for status in groups.running.use().run(protocol.GetStatus()))
    assert_close(k_sampler(remote), expected)
    assert remote.remote.loads == loads + 1 and groups.running.use().pids == pids


def test_status_names_machines(call, remote, groups, k_sampler, cluster):
    k_sampler(remote)
    (text,) = call("MochiParallelGroupStatus")
    names = [machine.name for machine in groups.running._cluster.machines()]
    assert len(set(names)) == 2
    for rank, (name, pid) in enumerate(zip(names, groups.running.use().pids)):
        assert f"rank {rank}: cpu of {name}, process {pid}, " in text
        assert cluster.number_of(pid) == rank
    assert "guidance 2 x Ulysses 1" in text


def test_one_machine_of_the_cluster(call, small, settings, model, k_sampler):
    """Asked for by number, and it takes turns with the two."""
    (parallel,) = call("MochiParallelSettings", **(settings | {"machines": 1}))
    (one,) = call("MochiParallelLoadDiT", file=small.dit, dtype="auto", parallel=parallel)
    assert_close(k_sampler(one), k_sampler(model))
    assert len(call("MochiParallelGroupStatus")[0].split("rank ")) == 2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"cluster": "ray://10.0.0.1:10001"}, r"cluster's address is 'ray://10.0.0.1:10001', but must be auto or HOST"),
        ({"cluster": "10.0.0.1"}, "but must be auto or HOST:PORT"),
        ({"gpus": "0,1"}, "gpus is '0,1', but on a cluster must be 'all' or how many of each machine"),
        ({"gpus": "many"}, "gpus is 'many', but on a cluster"),
    ],
)
def test_widgets_that_cannot_be_are_refused_when_queued(pack, settings, change, words):
    validate = pack.nodes["MochiParallelSettings"].validate_inputs
    assert validate(**settings) is True
    with pytest.raises(ValueError, match=words):
        raise ValueError(validate(**(settings | change)))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"machines": 3}, r"3 machines are asked for, but 2 are in the cluster. It has: .+ \(0 GPUs\); .+ \(0 GPUs\)"),
        ({"cluster": "127.0.0.1:1"}, "is attached to the cluster at .+ and cannot use the one at 127.0.0.1:1 too"),
    ],
)
def test_what_the_cluster_has_not_is_said_in_the_node_of_the_settings(call, settings, parallel, change, words):
    with pytest.raises(ValueError, match=words):
        call("MochiParallelSettings", **(settings | change))


def test_an_interface_that_is_not_there(call, small, settings, k_sampler):
    (parallel,) = call("MochiParallelSettings", **(settings | {"interface": "none0"}))
    (model,) = call("MochiParallelLoadDiT", file=small.dit, dtype="auto", parallel=parallel)
    with pytest.raises(Exception, match=r"^No worker could .* has no network interface 'none0'$"):
        k_sampler(model)
