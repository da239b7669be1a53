"""A small client of ComfyUI's HTTP and websocket interface, for the demo and the tests."""

import asyncio
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Event = Callable[[str, Any], None]


class PromptRejected(RuntimeError):
    """The server's validation refused the prompt. `details` is its answer: `error` and `node_errors`."""

    def __init__(self, details: dict):
        self.details = details
        lines = [_sentence(details.get("error", details))]
        for node, problem in (details.get("node_errors") or {}).items():
            lines += [f"{problem.get('class_type')} ({node}): {_sentence(e)}" for e in problem.get("errors", [])]
        super().__init__("\n".join(lines))


class PromptFailed(RuntimeError):
    """A node raised, or the run was interrupted. `details` is the server's execution_error message."""

    def __init__(self, details: dict, interrupted: bool = False):
        self.details, self.interrupted = details, interrupted
        text = "interrupted" if interrupted else str(details.get("exception_message", details)).strip()
        super().__init__(f"{details.get('node_type', 'prompt')}: {text}")


@dataclass(frozen=True)
class Result:
    """A finished prompt: its id, its history entry, and the files that its nodes say they saved."""

    prompt_id: str
    history: dict
    seconds: float

    @property
    def files(self) -> list[dict]:
        """Each as {filename, subfolder, type}, in the order of the output nodes."""
        shown = [entry for ui in self.history["outputs"].values() for entries in ui.values() for entry in entries]
        return [entry for entry in shown if isinstance(entry, dict) and "filename" in entry]

    def paths(self, output: Path) -> list[Path]:
        """The files that lie in the output folder, as paths on this machine."""
        return [output / file["subfolder"] / file["filename"] for file in self.files if file["type"] == "output"]


class ComfyClient:
    """The requests of ComfyUI's own editor. All calls block."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex
        # No proxy: a proxy of the environment must not see requests to the loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def queue(self, prompt: dict, workflow: dict | None = None) -> str:
        """Queue a graph in API format and return its id. `workflow` is the editor's graph, embedded in saved files."""
        body: dict[str, Any] = {"prompt": prompt, "client_id": self.client_id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            return self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise PromptRejected(json.loads(error.read())) from None

    def run(
        self, prompt: dict, on_event: Event | None = None, timeout: float = 600, workflow: dict | None = None
    ) -> Result:
        """Queue a graph and follow it to its end over the websocket.

        on_event(kind, data) gets every message of this prompt, from this thread: kind "executing" ({"node"}),
        "progress" ({"node", "value", "max"}), "preview" (the bytes of an image), ... It may call `interrupt`.
        Raises PromptRejected, PromptFailed, TimeoutError.
        """
        follow = self._follow(prompt, on_event or (lambda kind, data: None), workflow)
        try:
            return asyncio.run(asyncio.wait_for(follow, timeout))
        except asyncio.TimeoutError:  # not the built-in one before Python 3.11
            raise TimeoutError(f"the prompt did not finish within {timeout:.0f} s") from None

    def wait(self, prompt_id: str, timeout: float = 600) -> dict:
        """Wait for a queued prompt without a websocket. Returns its history entry, whatever its outcome."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.history(prompt_id)
            if entry is not None:
                return entry
            time.sleep(0.1)
        raise TimeoutError(f"prompt {prompt_id} did not finish within {timeout:.0f} s")

    def history(self, prompt_id: str) -> dict | None:
        """The entry of a finished prompt (`outputs`, `status`), None while it waits or runs."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def interrupt(self) -> None:
        """Stop the prompt that runs now."""
        self.post("/interrupt", {})

    def free(self, unload_models: bool = True, free_memory: bool = True) -> None:
        """Unload models and forget cached results, once the server is between prompts."""
        self.post("/free", {"unload_models": unload_models, "free_memory": free_memory})

    def object_info(self, node: str | None = None) -> dict:
        """The description of all node types, or of one."""
        return self.get(f"/object_info/{urllib.parse.quote(node)}" if node else "/object_info")

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """The bytes of a file in the server's output, temp or input folder."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": type})
        return self.request("GET", f"/view?{query}")

    def get(self, path: str) -> Any:
        """GET, with a JSON answer."""
        return json.loads(self.request("GET", path))

    def post(self, path: str, body: Any) -> Any:
        """POST of JSON; the answer's JSON, None when it is empty."""
        answer = self.request("POST", path, json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        """One HTTP request. Raises urllib.error.HTTPError for an error status."""
        headers = {"Content-Type": "application/json"} if data is not None else {}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        with self._opener.open(request, timeout=60) as answer:
            return answer.read()

    async def _follow(self, prompt: dict, on_event: Event, workflow: dict | None) -> Result:
        import aiohttp  # one of ComfyUI's own requirements, so it is there wherever a server is

        address = f"{self.url}/ws?clientId={self.client_id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            started = time.monotonic()
            prompt_id = self.queue(prompt, workflow)
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    if int.from_bytes(message.data[:4], "big") == 1:  # a preview: its kind, its format, the image
                        on_event("preview", message.data[8:])
                    continue
                if message.type != aiohttp.WSMsgType.TEXT:
                    break
                event = json.loads(message.data)
                kind, data = event["type"], event.get("data") or {}
                if data.get("prompt_id") != prompt_id:
                    continue
                on_event(kind, data)
                if kind in ("execution_error", "execution_interrupted"):
                    raise PromptFailed(data, interrupted=kind == "execution_interrupted")
                if kind == "execution_success":
                    return Result(prompt_id, self.wait(prompt_id, 30), time.monotonic() - started)
        raise PromptFailed({"exception_message": "the server closed the connection"})


def _sentence(error: dict) -> str:
    return ": ".join(str(part) for part in (error.get("message"), error.get("details")) if part) or str(error)
