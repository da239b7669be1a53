"""ComfyUI's own loader takes the pack in, and what it took in is whole."""

import nodes


def test_nodes_are_registered_under_their_ids(pack):
    for node_id, node in pack.nodes.items():
        assert nodes.NODE_CLASS_MAPPINGS[node_id] is node


def test_schemas_agree_with_the_table(pack):
    for node_id, node in pack.nodes.items():
        if hasattr(node, "define_schema"):
            assert node.GET_SCHEMA().node_id == node_id


def test_every_widget_has_a_tooltip(pack):
    for node_id, node in pack.nodes.items():
        for group in node.INPUT_TYPES().values():
            for name, definition in group.items():
                options = definition[1] if isinstance(definition, tuple) and len(definition) > 1 else {}
                if isinstance(options, dict) and not isinstance(definition[0], type(None)):
                    hidden = name in ("prompt", "extra_pnginfo", "unique_id") and not options
                    assert hidden or options.get("tooltip"), f"{node_id}.{name}"


def test_call_runs_a_built_in_node(call):
    (latent,) = call("EmptyMochiLatentVideo", width=64, height=64, length=7, batch_size=2)
    assert latent["samples"].shape == (2, 12, 2, 8, 8)
