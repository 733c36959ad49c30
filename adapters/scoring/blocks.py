"""Which pairs may share a batch: a rule that the list alone decides, so that every engine forms the same batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import TypeVar

Item = TypeVar("Item")

#: Pairs after which batches begin anew. Many enough that the last, smaller batches cost nothing to speak of.
BLOCK = 128


def in_blocks(pairs: Iterable[Item], reference: Callable[[Item], object]) -> Iterator[list[list[Item]]]:
    """Sorted pairs in blocks of whole references, each block a list of lists of pairs of one reference.

    A block ends with the reference that brings it to :data:`BLOCK` pairs; a reference with more than these counts as several.
    A batch never reaches beyond its block. So scores do not depend on who computes which blocks: batches of another size give
    other last digits.

    Example:
        >>> pairs = [("a", number) for number in range(130)] + [("b", 0)]
        >>> [[len(group) for group in block] for block in in_blocks(pairs, lambda pair: pair[0])]
        [[128], [2, 1]]
    """
    block: list[list[Item]] = []
    for _, pairs_of_one in groupby(pairs, reference):
        while group := list(islice(pairs_of_one, BLOCK)):
            block.append(group)
            if sum(map(len, block)) >= BLOCK:
                yield block
                block = []
    if block:
        yield block
