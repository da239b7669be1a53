"""The first lines of a worker, which runs this file: see Worker in owner/process.py for its arguments.

In order: what Python does with signals and warnings; the package, under its plain name, from where it lies; signs of
life, before the seconds that torch takes, so that a start that hangs is noticed; and then the loop.
"""

import faulthandler
import importlib.util
import logging
import resource
import signal
import sys
import warnings
from multiprocessing.connection import Connection
from pathlib import Path


def main(descriptor: str, rank: str, owner: str, *folders: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    warnings.simplefilter("ignore", FutureWarning)  # torch's warnings for developers would fill the log
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # tensors cross as open files
    # Ctrl-C reaches the whole terminal, and a service manager's SIGTERM the whole service. The owner decides what they
    # mean. If it ends, the watchdog removes the group's folder, and then this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stay)  # not SIG_IGN: programs that a rank starts would inherit it
    signal.siginterrupt(signal.SIGTERM, False)
    import_package("mochi", Path(__file__).parents[2])

    from mochi.parallel.wire import Board, Channel
    from mochi.parallel.worker.watchdog import Watchdog

    board, connection = Board(Path.cwd()), Connection(int(descriptor))
    watchdog = Watchdog(int(rank), board, connection, int(owner), folders)
    watchdog.start()

    from mochi.parallel.worker.loop import work

    try:
        work(Channel(connection, Path.cwd()), board)
    finally:
        watchdog.leave()


def _stay(*_: object) -> None:
    """What a rank does about a signal that is its owner's to answer."""


def import_package(name: str, folder: Path) -> None:
    """Import a package from its folder, without the folders around it becoming places to import from."""
    here = str(Path(__file__).parent)  # put there by Python, since it runs this file
    sys.path[:] = [entry for entry in sys.path if entry not in ("", here)]
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None  # it is a Python file
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    main(*sys.argv[1:])
