"""The command line: `python -m mochi download --comfyui DIR`."""

import argparse
from pathlib import Path

from ..errors import MochiError
from ..hub.catalog import PUBLISHED, VARIANTS, Published, readable, source_of


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Adds the subcommand, which runs `download`."""
    parser = commands.add_parser(
        "download",
        description="Fetches published weights from the Hugging Face hub, after saying how much disk they need. "
        "What is there is not fetched again, and what was interrupted is resumed.",
    )
    parser.set_defaults(run=download)
    place = parser.add_mutually_exclusive_group(required=True).add_argument
    place("--comfyui", type=Path, metavar="DIR", help="a ComfyUI: into the folders below its `models`")
    place("--model-dir", type=Path, metavar="DIR", help="for `generate --model-dir`, one variant in each")
    what = parser.add_mutually_exclusive_group().add_argument
    what("--variant", choices=VARIANTS, default="bf16", help="of the weights (default: %(default)s)")
    what("--file", metavar="NAME", help="only one file, such as mochi_vae.safetensors")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be fetched, and whether it fits")


def download(options: argparse.Namespace) -> None:
    """Says what is needed, then fetches it. Raises MochiError, before anything is written if that can be known."""
    targets = {file: target_of(file, options) for file in chosen(options)}
    from ..hub.download import ask, check_disk, fetch  # imports huggingface_hub, which takes a while

    downloads = [ask(file, target) for file, target in targets.items()]
    for each in downloads:
        state = "is there" if each.done else f"{readable(each.missing)} from {each.file.repository}"
        print(f"{each.target}: {state}")
    missing = sum(each.missing for each in downloads)
    print(f"to fetch: {readable(missing) if missing else 'nothing'}", flush=True)
    check_disk(downloads)
    if not options.dry_run:
        for each in downloads:
            fetch(each)


def chosen(options: argparse.Namespace) -> tuple[Published, ...]:
    """The files that a command line asks for."""
    if options.file is None:
        return VARIANTS[options.variant]
    file = source_of(options.file)
    if file is None:
        raise MochiError(f"{options.file}: no published file of that name is known; known are {', '.join(PUBLISHED)}")
    return (file,)


def target_of(file: Published, options: argparse.Namespace) -> Path:
    """Where a file goes."""
    if options.model_dir is not None:
        return options.model_dir / file.name
    if not (options.comfyui / "models").is_dir():
        raise MochiError(f"{options.comfyui}: is not a ComfyUI, it has no folder `models`")
    return options.comfyui / "models" / file.folder / file.name
