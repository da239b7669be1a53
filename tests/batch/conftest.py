"""Fixtures of the tests of many videos."""

from tests.parallel.conftest import _one_thread, private_tmp

__all__ = ["_one_thread", "private_tmp"]
