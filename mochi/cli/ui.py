"""The command `ui`: a web page for those who do not want a graph."""

from __future__ import annotations

import argparse
import gc
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, MochiError

if TYPE_CHECKING:
    from ..batch.job import Job
    from ..model_dir import ModelDir
    from ..ui.maker import Workshop
    from ..ui.owner import Page
    from ..ui.shown import Offer

OLDEST = 6
"""Of gradio."""

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    gc.disable()  # until the model is loaded: it would look through all that is imported, again and again, for a second
    page = _begin()
    from ..video import DEFAULT_QUALITY
    from . import model_options, safety, signing

    parser = commands.add_parser(
        "ui",
        description="Serves a web page to make videos with: for this machine alone, unless --listen is given. Videos "
        "and their settings are kept in a folder.",
    )
    parser.set_defaults(run=partial(serve, page))
    add = parser.add_argument
    add("--folder", type=Path, default=Path("outputs"), metavar="DIR", help="for videos (default: %(default)s)")
    add("--quality", type=int, default=DEFAULT_QUALITY, help="of videos, 0 to 100 (default: %(default)s)")
    add("--port", type=int, help="(default: the first one that is free from 7860 on)")
    add(
        "--listen",
        nargs="?",
        const=EVERYWHERE,
        metavar="ADDRESS",
        help="let other machines in, at this address of the machine (without one: at all of them); needs --auth",
    )
    add(
        "--auth",
        action="append",
        default=[],
        metavar="NAME:PASSWORD",
        help="who may come in; can be given several times. @FILE: a file with one a line, so that the machine's list "
        "of processes does not show them",
    )
    signing.add_option(add)
    model_options.add_options(parser)
    safety.add_option(parser)


def _begin() -> Page | None:
    """The page's process, started before anything else, since its imports take as long as ours; None without gradio."""
    try:
        if int(version("gradio").partition(".")[0]) < OLDEST:
            return None
    except PackageNotFoundError:
        return None
    from ..ui.owner import Page

    return Page()


def serve(page: Page | None, options: argparse.Namespace) -> None:
    """Serves the page until it is interrupted. All that can be checked is checked before weights are read."""
    try:
        if page is None:
            raise MochiError("the page needs gradio 6 or newer, which is not installed: pip install 'gradio>=6'")
        with closing(page), suppress(KeyboardInterrupt), _ended_by_signal():
            run(page, options)
    finally:
        gc.enable()


def run(page: Page, options: argparse.Namespace) -> None:
    """Checks the options, and makes what visitors ask for until it is interrupted."""
    host, users = options.listen or LOOPBACK, users_of(options.auth)
    if options.listen and not users:
        raise MochiError("--listen lets everybody in who reaches this machine: add --auth NAME:PASSWORD")
    check_address(host, options.port)
    workshop, offer = prepare(options)
    from ..ui.desk import Desk
    from ..ui.maker import make_runs

    desk = Desk(offer, workshop.defaults, options.folder, check_of(workshop))
    page.serve(desk, options.folder, host, options.port, users)
    make_runs(desk, workshop, page.check)


def check_of(workshop: Workshop) -> Callable[[Job], None]:
    """Raises MochiError on what cannot be made, and on a prompt that is blocked."""
    from . import given, safety

    checks = given.check_of(workshop.model, workshop.recipe.variant), safety.check_of(workshop.checks)

    def check(job: Job) -> None:
        for each in checks:
            each(job)

    return check


def prepare(options: argparse.Namespace) -> tuple[Workshop, Offer]:
    """What videos are made with, and what the page offers."""
    from ..batch.record import Recipe
    from ..batch.requests import LoadPipeline
    from ..config import pusa_defaults
    from ..lora.apply import read_loras
    from ..provenance import Signer
    from ..ui.maker import Workshop
    from ..ui.shown import Offer
    from ..variant import PUSA
    from ..video import check_writable
    from . import given, safety
    from .lora import named_loras
    from .model_options import DTYPES, check_device, check_gpus, open_model

    checks, signer = safety.chosen(options), Signer.chosen(options.sign)
    device, parallel = check_device(options.device), check_gpus(options)
    if not 0 <= options.quality <= 100:
        raise MochiError(f"quality is {options.quality}, but must be between 0 and 100")
    check_writable(options.folder / "mochi.mp4", "mp4")
    options.folder.mkdir(parents=True, exist_ok=True)
    model = open_model(options)
    variant, reason = given.chosen_variant(options.variant, model)
    named = named_loras(options.lora)
    name = str(options.model_dir or model.config.name)
    defaults = pusa_defaults(model.config.defaults) if variant == PUSA else model.config.defaults
    files = options.model_dir, DTYPES.get(options.dtype)
    handled = signer and signer.name, checks.of_frames if checks is not None else ()
    how = device, options.attention, options.compile, parallel, variant
    workshop = Workshop(
        model,
        defaults,
        LoadPipeline(*files, *how, offload=options.cpu_offload, t5=model.t5),
        Recipe(name, variant, options.dtype, (), options.quality, *handled),
        read_loras(named, model.config.dit),
        [file for file, _ in named],
        checks,
        signer,
    )
    shown = [(Path(file).stem, strength) for file, strength in named]
    shown_name = str(options.model_dir or "the tiny model that is built in")
    offer = Offer(shown_name, asdict(defaults), has_encoder(model), "\n\n".join(given.about(variant, reason)), shown)
    return workshop, offer


def has_encoder(model: ModelDir) -> bool:
    """Whether the model can be given images."""
    try:
        return bool(model.encoder)
    except CheckpointError:
        return False


def users_of(values: Sequence[str]) -> list[tuple[str, str]]:
    """Names and passwords of --auth. Raises MochiError on what is none; it does not repeat passwords."""
    users = []
    for number, line in enumerate(_lines_of(values), 1):
        name, sign, password = line.partition(":")
        if not (name and sign and password):
            raise MochiError(f"--auth: user {number} is not written NAME:PASSWORD")
        users.append((name, password))
    return users


def _lines_of(values: Sequence[str]) -> Iterator[str]:
    for value in values:
        if not value.startswith("@"):
            yield value
            continue
        try:
            text = Path(value[1:]).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise MochiError(f"--auth {value}: the file cannot be read ({error})") from error
        lines = [line.strip() for line in text.splitlines()]
        if not any(lines):
            raise MochiError(f"--auth {value}: there is nobody in the file")
        yield from filter(None, lines)


def check_address(host: str, port: int | None) -> None:
    """Raise MochiError where nothing can be served there."""
    if port is not None and not 0 < port < 2**16:
        raise MochiError(f"port is {port}, but must be between 1 and {2**16 - 1}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            if sys.platform != "win32":  # where it would let two listen at once
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        where = host if port is None else f"{host}, port {port}"
        raise MochiError(f"{where}: the page cannot be served there: {error.strerror}") from error


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Inside, SIGTERM ends the page as Ctrl+C does, so that nothing stays."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
