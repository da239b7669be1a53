"""The first lines of a rank's process, run as a file (see spawn.py); `start` is among its globals.

In order: the environment, before anything reads it; output into the rank's log; the package, under its plain name, from
where it lies; signs of life, before the seconds that torch takes, so that a start that hangs is noticed.
"""

import faulthandler
import importlib.util
import logging
import os
import resource
import signal
import sys
import warnings
from pathlib import Path


def begin(start: dict) -> None:
    os.environ.clear()
    os.environ.update(start["environment"])
    log = os.open(start["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    warnings.simplefilter("ignore", FutureWarning)  # torch's to developers, which would fill the log people see
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # tensors cross as open files
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the owner decides

    sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]
    package = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location(
        "mochi", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    sys.modules["mochi"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    from mochi.parallel.worker.watchdog import Watch

    watch = Watch(start["rank"], start["beats"], start["folders_of_owner"], start["owner"])
    watch.start()

    from mochi.parallel.worker.loop import work

    work(start)


begin(start)  # noqa: F821 (given by runpy.run_path)
