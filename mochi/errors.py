"""Errors meant to be read by the person who runs the model."""

from __future__ import annotations


class MochiError(ValueError):
    """A setting or an input that cannot work; the message says what to change."""


class CheckpointError(MochiError):
    """A weight file that cannot be used; the message names the file and what it seems to be."""


class Cancelled(Exception):
    """The caller asked a run to stop; raised between two steps, nothing was written."""


class GroupError(Exception):
    """A rank of a group failed, and the group with it; the message names the rank, its device and what it was doing."""
