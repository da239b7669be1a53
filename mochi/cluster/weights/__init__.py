"""The same weights on every machine: which files are wanted, where each machine has them, and how they get there.

The machine that asks names its files by path, size and hash (`files_of_model`). Each machine looks for them (`locate`);
what is lacking on any is one error (`complain`), or is sent (`pieces`, `Receiver`). `link_tree` then gives each wanted
path a local one, from which everything loads as it does on the machine that asks.
"""

from .complain import complain
from .folders import VARIABLE
from .hashes import Hashes, Report
from .links import Tree, link_tree
from .locate import Located, locate
from .sending import PIECE, Receiver, check_room, pieces
from .wanted import WantedFile, absolute, files_of, files_of_model, is_built_in, wanted_files

__all__ = [
    "PIECE",
    "VARIABLE",
    "Hashes",
    "Located",
    "Receiver",
    "Report",
    "Tree",
    "WantedFile",
    "absolute",
    "check_room",
    "complain",
    "files_of",
    "files_of_model",
    "is_built_in",
    "link_tree",
    "locate",
    "pieces",
    "wanted_files",
]
