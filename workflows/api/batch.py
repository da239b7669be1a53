"""Make a video of each line of a JSONL file on a ComfyUI.

    python batch.py tiny_text_to_video.json prompts.jsonl --folder videos

A line has a `prompt`, and any widget of the sampler that is to differ: {"prompt": "...", "seed": 7, "steps": 30}. Lines
run one after the other, since a run has the machine to itself; one that fails is reported, and the others go on.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

import aiohttp
from client import changed, run


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow", type=Path, help="a file of this folder")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    parser.add_argument("--folder", type=Path, default=Path("."), help="where the videos go (default: here)")
    options = parser.parse_args()
    graph = json.loads(options.workflow.read_text(encoding="utf-8"))
    lines = [line for line in options.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    failed = 0
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            paths = await run(options.server, changed(graph, **values), options.folder, lambda text: None)
            print(f"{number} of {len(lines)}: {', '.join(map(str, paths))}", flush=True)
        except (ValueError, TypeError, KeyError, RuntimeError, OSError, aiohttp.ClientError) as error:
            failed += 1
            print(f"{number} of {len(lines)}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
