"""LoRA and its kin on a MODEL over two ranks: the same results as in one process."""

import pytest
import torch
from exact import assert_close, relative_error
from safetensors.torch import save_file


def differ(a, b):
    return relative_error(a, b) > 1e-2


def save_lora(small, name, weights):
    (small.models / "loras").mkdir(exist_ok=True)
    save_file({key: t.contiguous() for key, t in weights.items()}, small.models / "loras" / name)
    return name


@pytest.fixture(scope="module")
def adapters(small):
    """Files of the kinds that LoRA loaders know, by kind."""
    torch.manual_seed(5)
    lora, dora, lokr, full = {}, {}, {}, {}
    for name in ("blocks.0.attn.qkv_x", "blocks.1.mlp_x.w2", "t5_yproj"):
        out, into = small.network.get_submodule(name).weight.shape
        up, down = torch.randn(out, 2) * 0.3, torch.randn(2, into) * 0.3
        lora |= {f"{name}.lora_A": down, f"{name}.lora_B": up, f"{name}.alpha": torch.tensor(1.5)}
        full |= {f"diffusion_model.{name}.diff": torch.randn(out, into) * 0.1}
        dora |= {f"diffusion_model.{name}.lora_A.weight": down, f"diffusion_model.{name}.lora_B.weight": up}
        dora |= {f"diffusion_model.{name}.dora_scale": torch.rand(out, 1) + 0.5}
        lokr |= {f"diffusion_model.{name}.lokr_w1": torch.randn(2, 2)}
        lokr |= {f"diffusion_model.{name}.lokr_w2": torch.randn(out // 2, into // 2) * 0.1}
    files = {"lora": lora, "dora": dora, "lokr": lokr, "full": full}
    return {kind: save_lora(small, f"{kind}.safetensors", weights) for kind, weights in files.items()}


def with_adapter(call, model, name, strength=0.7):
    return call("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength)[0]


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "full"])
def test_patches_equal_one_process(call, model, remote, adapters, k_sampler, mochi_sampler, kind):
    patched, plain = with_adapter(call, remote, adapters[kind]), k_sampler(model)
    expected = k_sampler(with_adapter(call, model, adapters[kind]))
    assert len(patched.patches) == 3 and differ(expected, plain)
    assert_close(k_sampler(patched), expected)
    assert_close(mochi_sampler(patched), expected)
    assert_close(k_sampler(remote), plain)


def test_patches_on_patches(call, model, remote, adapters, k_sampler):
    def both(model):
        return with_adapter(call, with_adapter(call, model, adapters["lora"], 0.3), adapters["dora"], 0.5)

    assert_close(k_sampler(both(remote)), k_sampler(both(model)))


def test_another_strength_needs_no_reload(call, model, remote, adapters, k_sampler, requests):
    loads = remote.remote.loads
    for strength in (0.3, -0.5):
        one, other = (with_adapter(call, m, adapters["lora"], strength) for m in (remote, model))
        assert_close(k_sampler(one), k_sampler(other))
        k_sampler(one)
    assert requests.count("PatchWeights") == 2 and "LoadDiT" not in requests
    assert remote.remote.loads == loads


def test_merging_models(call, small, model, remote, adapters, k_sampler):
    """ModelMergeSimple reads the other model's weights, wherever they are."""
    pairs = ((remote, remote), (model, remote), (remote, model), (model, model))
    results = []
    for one, other in pairs:
        patched = with_adapter(call, other, adapters["lora"])
        results.append(k_sampler(call("ModelMergeSimple", model1=one, model2=patched, ratio=0.4)[0]))
    for result in results[:-1]:
        assert_close(result, results[-1])


def test_hooks_that_change_weights_say_what_to_do(call, remote, adapters, encode, k_sampler):
    (hooks,) = call("CreateHookLoraModelOnly", lora_name=adapters["lora"], strength_model=0.7)
    values = {"cond_NEW": encode("a red circle"), "strength": 1.0, "set_cond_area": "default", "hooks": hooks}
    with pytest.raises(ValueError, match="Load LoRA"):
        k_sampler(remote, call("ConditioningSetProperties", **values)[0])
    k_sampler(remote)


def test_saving_says_what_to_do(remote):
    with pytest.raises(ValueError, match="choose 1 GPU"):
        remote.model.state_dict_for_saving()


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_patches_on_shards(call, small, model, adapters, k_sampler, kind):
    values = {"gpus": "2", "guidance": "auto", "ulysses": 0, "timeout": 600.0}
    (settings,) = call("MochiParallelSettings", **values, weights="sharded")
    (sharded,) = call("MochiParallelLoadDiT", file=small.dit, dtype="auto", parallel=settings)
    one, other = (with_adapter(call, m, adapters[kind]) for m in (sharded, model))
    assert_close(k_sampler(one), k_sampler(other))


def test_bfloat16_weights_are_computed_alike(call, small, adapters, k_sampler):
    models = [call("MochiParallelLoadDiT", file=small.dit, dtype="bfloat16", gpus=gpus)[0] for gpus in ("2", "1")]
    assert_close(*map(k_sampler, models))
    assert_close(*(k_sampler(with_adapter(call, m, adapters["lora"])) for m in models))
    assert_close(*(k_sampler(with_adapter(call, m, adapters["dora"])) for m in models), within=1e-3)
