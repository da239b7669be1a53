"""A cluster that ends while a process uses it: an error that says so, and nothing is started in its place."""

import subprocess
import sys
from pathlib import Path

from tests.raylets import needs_ray

pytestmark = needs_ray

PROJECT = Path(__file__).parents[2]

LOSE_IT = """
import psutil
from mochi.cluster.attach import attach, detach
from mochi.errors import GroupError, MochiError
from mochi.model_dir import find_model
from mochi.parallel.settings import ParallelSettings
from mochi.pipeline import GenerateSettings, load_pipeline
from tests.raylets import raylets

settings = GenerateSettings.of(find_model(None).config.defaults, prompt="a red circle", steps=1, seed=1, frames=7)
with raylets(1) as cluster:
    address = cluster.address
    pipeline = load_pipeline(None, parallel=ParallelSettings(cluster=address, timeout=60.0))
    pipeline.denoise(settings)
for attempt in range(2):
    try:
        pipeline.denoise(settings)
    except (GroupError, MochiError) as error:
        print(f"{type(error).__name__}: {error}".replace(chr(10), " "))
pipeline.close()
detach()
try:
    attach(address)
except MochiError as error:
    print(str(error))
print("started:", [child.name() for child in psutil.Process().children(recursive=True)])
"""


def test_a_cluster_that_ends_is_said_and_none_is_started():
    done = subprocess.run([sys.executable, "-c", LOSE_IT], cwd=PROJECT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second, third, started = done.stdout.strip().splitlines()
    assert all("Ray" in line or "does not answer" in line for line in (first, second)), done.stdout
    assert "No Ray cluster answers" in third and "ray start --head" in third
    assert started == "started: []"
