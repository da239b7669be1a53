"""One error about the weights of all machines."""

from collections.abc import Mapping, Sequence

from ...errors import MochiError
from .folders import VARIABLE
from .locate import Located

FILES = 4
"""How many files are named of those that a machine lacks."""

MACHINES = 8
"""How many machines are named of those with the same to be said about."""


def complain(by_machine: Mapping[str, Located]) -> None:
    """Raise MochiError where a machine lacks files; it lists what each has and lacks, and says what to do.

    by_machine: what `locate` found, by the names of the machines.
    """
    lacking = {machine: located for machine, located in by_machine.items() if located.missing}
    if not lacking:
        return
    alike: dict[str, list[str]] = {}  # machines about which the same is to be said
    for machine, located in by_machine.items():
        alike.setdefault(_says(located), []).append(machine)
    reports = [f"- {_names(machines)}: {says}" for says, machines in alike.items()]
    raise MochiError(
        f"{len(lacking)} of {len(by_machine)} machines {'lack' if len(lacking) > 1 else 'lacks'} weights:\n"
        + "\n".join(reports)
        + "\nPut these files there under the same paths; or name a folder that has them, below it and under any names, "
        f"in the environment variable {VARIABLE} where Ray is started on that machine; or have them sent: "
        "--send-weights, on the canvas `send_weights`."
    )


def _says(located: Located) -> str:
    if not located.missing:
        return f"all {len(located.files)} files are there"
    lines = [f"{len(located.missing)} of {len(located.files)} files are missing"]
    lines += [f"  {path} {there}" for path, there in list(located.missing.items())[:FILES]]
    if len(located.missing) > FILES:
        lines.append(f"  and {len(located.missing) - FILES} more")
    searched = ", ".join(located.searched)
    lines.append(f"  searched: {searched}" if searched else f"  {VARIABLE} names no folder there")
    return "\n".join(lines)


def _names(machines: Sequence[str]) -> str:
    more = f" and {len(machines) - MACHINES} more" if len(machines) > MACHINES else ""
    return ", ".join(machines[:MACHINES]) + more
