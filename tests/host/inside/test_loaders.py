"""The loaders: what they list, what they load, what they refuse."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def small(pack):
    return pack.module("tests.host.inside.small").write(pack.base)


def test_lists(pack, small):
    inputs = {node_id: pack.nodes[node_id].INPUT_TYPES()["required"] for node_id in pack.nodes}
    assert inputs["MochiLoadT5"]["file"][1]["options"][:2] == ["tiny (built in)", "small_t5/"]
    assert small.dit in inputs["MochiLoadDiT"]["file"][1]["options"]
    assert small.vae in inputs["MochiLoadVAE"]["file"][1]["options"]


def test_load(call, small):
    (model,) = call("MochiLoadDiT", file=small.dit, dtype="auto")
    names = {key.removeprefix("diffusion_model.") for key in model.model_state_dict()}
    assert names == set(small.network.state_dict())
    (clip,) = call("MochiLoadT5", file=small.t5, dtype="auto", device="default")
    (vae,) = call("MochiLoadVAE", file=small.vae, encoder_file="in the file itself", dtype="auto")
    print(model, clip, vae)
