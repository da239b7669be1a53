"""The process with the page: `python -m mochi.ui.web`, started by the one that makes videos. It needs no torch.

It reads from its standard input, as JSON, how to serve; when that input ends, the other process is gone, and it ends.
"""

import gc
import inspect
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.managers import BaseManager
from typing import Any

from .shown import Counter, Serving


class Desks(BaseManager):
    """The door to the desk in the other process."""

    desk: Callable[[], Counter]


Desks.register("desk")


def main() -> None:
    """Serve the page until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches both processes: the other one ends this one
    gc.disable()
    with _without_interface_files():
        from gradio.themes import Default
    gc.enable()
    line = sys.stdin.readline()
    if not line:
        _end()  # the other process found that it cannot go on
    threading.Thread(target=_end_with_owner, daemon=True).start()
    serving = Serving(**json.loads(line))
    os.chdir(serving.output)  # gradio shows files of this folder, each under a name that nobody can guess
    host, port = serving.address
    desks = Desks((host, port), bytes.fromhex(serving.key))
    desks.connect()

    from .page import STYLE, build

    fonts = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # no other host is asked for any
    _, url, _ = build(desks.desk()).launch(
        server_name=f"[{serving.host}]" if ":" in serving.host else serving.host,
        server_port=serving.port,
        auth=[(name, password) for name, password in serving.users] or None,
        theme=Default(font=fonts[0], font_mono=fonts[1]),
        css=STYLE,
        quiet=True,
        prevent_thread_lock=True,
        share=False,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        max_file_size="64mb",
    )
    print(f"the page: {url}", flush=True)
    threading.Event().wait()


def _end_with_owner() -> None:
    sys.stdin.read()
    _end()


def _end() -> None:
    shutil.rmtree(os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)  # where nobody else is left to do it
    os._exit(0)


@contextmanager
def _without_interface_files() -> Iterator[None]:
    """Inside, gradio can be imported without the interface files that it writes for editors, which takes half the time.

    It writes none for a class whose file is not known.
    """
    getfile = inspect.getfile

    def unknown_for_gradio(thing: Any) -> str:
        if str(getattr(thing, "__module__", "")).startswith("gradio."):
            raise OSError("not needed")
        return getfile(thing)

    inspect.getfile = unknown_for_gradio
    try:
        yield
    finally:
        inspect.getfile = getfile


if __name__ == "__main__":
    main()
