"""The tiny pipeline that the attacks' tests use."""

from tests.attacks.conftest import pipeline

__all__ = ["pipeline"]
