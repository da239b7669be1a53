"""A ComfyUI with this pack in it, left running: `make serve`, or `python3 -m scripts.serve [--port 8188]`."""

import argparse
import signal
import sys

from scripts import setup_env
from scripts.comfyui import CACHE, OUTPUT, HostError, find_or_fetch_comfyui, models_of, prepare_base
from scripts.server import ComfyServer, ServerError


def main() -> None:
    setup_env.enter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description="Other options are passed on to ComfyUI's main.py.")
    parser.add_argument("--port", type=int, default=8188)
    options, extra = parser.parse_known_args()

    OUTPUT.mkdir(exist_ok=True)
    base = prepare_base(CACHE / "comfyui-base")
    try:
        host = find_or_fetch_comfyui()
        print(f"Starting ComfyUI ({host}) ...", flush=True)
        arguments = ["--output-directory", str(OUTPUT), *models_of(host, base), *extra]
        with ComfyServer(host, base, port=options.port, extra=arguments) as server:
            print(f"The editor: {server.url}\nModels go into {base / 'models'}, videos into {OUTPUT}.", flush=True)
            print(f"The log: {server.log_file}\nCtrl-C stops it.", flush=True)
            status = server.wait()
            sys.exit(f"error: ComfyUI ended with status {status}; see {server.log_file}")
    except (HostError, ServerError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\nstopped")


if __name__ == "__main__":
    main()
