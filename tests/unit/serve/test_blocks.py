"""Blocks of KV memory: who uses them, what they still hold, where they lie."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandem_serve.engine.blocks import BlockPool, blocks_for, digest


def test_blocks_round_up() -> None:
    assert [blocks_for(tokens) for tokens in (0, 1, 16, 17)] == [0, 1, 1, 2]


def test_a_block_is_known_by_all_that_stands_before_it() -> None:
    assert digest(b"", (1, 2)) == digest(b"", (1, 2))
    assert digest(digest(b"", (1,)), (2,)) != digest(digest(b"", (3,)), (2,))


def test_blocks_that_are_taken_together_are_neighbours() -> None:
    pool = BlockPool(10)
    first, second = pool.allocate(3), pool.allocate(2)
    assert (first, second) == ([0, 1, 2], [3, 4])
    pool.release([0, 1, 2])
    assert pool.allocate(4) == [5, 6, 7, 8]


def test_in_broken_memory_the_longest_gaps_serve() -> None:
    pool = BlockPool(8)
    taken = pool.allocate(8)
    assert taken is not None
    pool.release([1, 4, 5])
    assert pool.allocate(3) == [4, 5, 1]
    assert pool.allocate(1) is None


def test_a_shared_block_is_free_after_its_last_user() -> None:
    pool = BlockPool(2)
    (block,) = pool.allocate(1) or []
    pool.hold([block])
    pool.release([block])
    assert pool.used == 1
    pool.release([block])
    assert pool.used == 0


def test_the_longest_unused_text_is_forgotten_first_and_its_end_before_its_beginning() -> None:
    pool = BlockPool(6)
    texts = {}
    for text in ("old", "new"):
        blocks = pool.allocate(3) or []
        texts[text] = [f"{text}{number}".encode() for number in range(3)]
        for block, name in zip(blocks, texts[text], strict=True):
            pool.register(block, name)
        pool.release(blocks)
    assert pool.allocate(2) == [1, 2]
    assert [pool.find(name) for name in (*texts["old"], *texts["new"])] == [0, None, None, 3, 4, 5]


def test_memory_that_holds_nothing_is_taken_before_memory_that_does() -> None:
    pool = BlockPool(3)
    (block,) = pool.allocate(1) or []
    pool.register(block, b"text")
    pool.release([block])
    assert pool.allocate(2) == [1, 2]
    assert pool.find(b"text") == block


def test_what_two_compute_at_once_is_known_once() -> None:
    pool = BlockPool(2)
    pool.register((pool.allocate(1) or [])[0], b"same")
    pool.register((pool.allocate(1) or [])[0], b"same")
    assert pool.find(b"same") == 0
    pool.release([1])
    assert pool.find(b"same") == 0


@given(steps=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=60), count=st.integers(1, 12))
def test_random_histories_never_give_a_block_twice_nor_lose_one(steps: list[tuple[int, int]], count: int) -> None:
    pool = BlockPool(count)
    held: list[list[int]] = []
    for size, choice in steps:
        if size > 0:
            blocks = pool.allocate(size)
            assert (blocks is None) == (size > count - sum(map(len, held)))
            if blocks is not None:
                held.append(blocks)
                for block in blocks[::2]:
                    pool.register(block, bytes([choice, block]))
        elif held:
            pool.release(held.pop(choice % len(held)))
        in_use = [block for blocks in held for block in blocks]
        assert len(set(in_use)) == len(in_use) == pool.used
