"""A worker's service that some prompts end, as a person's would not."""

import os
import signal
import time

from mochi.batch.requests import LoadPipeline, Made, MakeVideo
from mochi.batch.service import VideoMaker


class Faulty(VideoMaker):
    """The real service. Prompts: "poison" kills it, "raise" is an error of its code, "hang" never ends."""

    def handle(self, request: LoadPipeline | MakeVideo) -> str | Made:
        prompt = request.settings.prompt if isinstance(request, MakeVideo) else ""
        if prompt == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if prompt == "raise":
            raise RuntimeError("a planned failure")
        while prompt == "hang":
            time.sleep(0.1)
        return super().handle(request)
