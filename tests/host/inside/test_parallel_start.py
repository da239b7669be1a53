"""Ranks that ComfyUI's process starts are not another ComfyUI."""

import sys
from pathlib import Path

import comfy.cli_args  # noqa: F401 (the host's modules are in this process)

SERVICE = (str(Path(__file__).parents[2] / "parallel" / "faulty_service.py"), "Faulty")


def test_no_module_of_the_host_is_in_a_rank(pack):
    hosts = {"comfy", "execution", "server", "folder_paths"}
    assert hosts <= set(sys.modules)
    group = pack.module("mochi.parallel.owner.group").Group(["cpu"] * 2, timeout=60.0, service=SERVICE, threads=1)
    try:
        for modules in group.run(("modules", {}), "telling modules"):
            assert not {name.split(".")[0] for name in modules} & {*hosts, "nodes", "main"}
            assert "mochi.parallel.worker.service" in modules
    finally:
        group.close()
