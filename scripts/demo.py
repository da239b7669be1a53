"""From a bare machine to a video: `make demo`, or `python3 -m scripts.demo [API_WORKFLOW.json]`."""

import json
import signal
import sys
from pathlib import Path

from scripts import setup_env
from scripts.client import ComfyClient, PromptFailed, PromptRejected
from scripts.comfyui import CACHE, OUTPUT, PROJECT, HostError, find_or_fetch_comfyui, prepare_base
from scripts.server import ComfyServer, ServerError

WORKFLOW = PROJECT / "workflows" / "api" / "tiny_text_to_video.json"
VIDEOS = (".mp4", ".webm", ".gif", ".png")


class Progress:
    """Prints the node that runs and, on one line, how far it is."""

    def __init__(self, prompt: dict):
        self._prompt = prompt
        self._open_line = False

    def __call__(self, kind: str, data) -> None:
        if kind == "executing" and data.get("node") in self._prompt:
            node = self._prompt[data["node"]]
            self.end_line()
            print(f"  {node.get('_meta', {}).get('title') or node['class_type']}", flush=True)
        elif kind == "progress" and data.get("max", 0) > 1:
            filled = round(30 * data["value"] / data["max"])
            bar = "#" * filled + "-" * (30 - filled)
            # A terminal shows one moving line; a log file gets each step on its own.
            print(f"{chr(13)}    [{bar}] {data['value']}/{data['max']}", end="", flush=True)
            self._open_line = True
            if not sys.stdout.isatty():
                self.end_line()

    def end_line(self) -> None:
        if self._open_line:
            print()
            self._open_line = False


def main() -> None:
    setup_env.enter()
    # A polite kill must unwind, so that the server is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else WORKFLOW
    try:
        prompt = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {file} cannot be read as a workflow: {error}")
    editor = file.parent.parent / file.name
    workflow = json.loads(editor.read_text(encoding="utf-8")) if file.parent.name == "api" and editor.exists() else None

    OUTPUT.mkdir(exist_ok=True)
    base = prepare_base(CACHE / "comfyui-base")
    try:
        host = find_or_fetch_comfyui()
        print(f"Starting ComfyUI ({host}) ...", flush=True)
        with ComfyServer(host, base, extra=["--output-directory", str(OUTPUT)]) as server:
            progress = Progress(prompt)
            print(f"Running {file.name} on {server.url}", flush=True)
            try:
                result = ComfyClient(server.url).run(prompt, progress, timeout=3600, workflow=workflow)
            finally:
                progress.end_line()
    except (HostError, ServerError, PromptRejected, PromptFailed, TimeoutError) as error:
        sys.exit(f"error: {error}\nThe server's log: {base / 'server.log'}")
    except KeyboardInterrupt:
        sys.exit("stopped")

    paths = [path for path in result.paths(OUTPUT) if path.suffix in VIDEOS]
    if not paths:
        sys.exit(f"error: the workflow finished but saved no video. Its outputs: {result.history['outputs']}")
    print(f"From queue to {paths[-1].suffix[1:]}: {result.seconds:.1f} s")
    print(paths[-1].resolve())


if __name__ == "__main__":
    main()
