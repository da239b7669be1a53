"""How long it takes from `python -m mochi ui` to the page, and to a video that plays in a browser.

`python -m benchmarks.page`: with the tiny model on a CPU, and a headless Chromium. `--picture FILE` keeps how it looks.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from urllib.error import URLError
from urllib.request import urlopen

from scripts.comfyui import PROJECT
from scripts.editor import chromium

PORT = 7861
PLAYS = "() => document.querySelector('#video video')?.readyState >= 3"
PATIENCE = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", metavar="FILE", help=".png or .jpg")
    picture = parser.parse_args().picture
    url = f"http://127.0.0.1:{PORT}/"
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        page = browser.new_page(viewport={"width": 1200, "height": 800})  # a person has a browser already
        started = time.monotonic()
        command = [sys.executable, "-m", "mochi", "ui", f"--port={PORT}", f"--folder={folder}", "--device=cpu"]
        with subprocess.Popen(command, cwd=PROJECT) as process:
            try:
                wait_for(url)
                print(f"the page is served   {time.monotonic() - started:5.1f} s")
                page.goto(url)
                page.fill("#prompt textarea", "a red circle moves left")
                print(f"the prompt is typed  {time.monotonic() - started:5.1f} s")
                page.click("#ask:not([disabled])")
                page.wait_for_function(PLAYS, timeout=1000 * PATIENCE)
                print(f"the video plays      {time.monotonic() - started:5.1f} s")
                if picture is not None:
                    page.wait_for_selector("#gallery video")
                    page.screenshot(path=picture)
            finally:
                process.terminate()


def wait_for(url: str) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            urlopen(url)
            return
        except URLError:
            time.sleep(0.05)
    raise SystemExit(f"{url} is not there after {PATIENCE:.0f} s")


if __name__ == "__main__":
    main()
