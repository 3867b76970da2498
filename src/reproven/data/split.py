"""The one record for data that come with an official division into training and test part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class TrainTest(Generic[T]):
    """Two data sets of one kind, divided as their publisher divided them."""

    train: T
    test: T
