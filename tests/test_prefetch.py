"""Items come in their order, an error where its item would, and no thread is left."""

import threading

import pytest

from tomopicker.prefetch import one_ahead


def test_the_next_item_is_made_while_this_one_is_used():
    made, second = [], threading.Event()

    def items():
        for number in range(3):
            made.append(threading.get_ident())
            if number == 1:
                second.set()
            yield number

    seen = []
    for number in one_ahead(items()):
        if number == 0:
            assert second.wait(10)
        seen.append(number)
    assert seen == [0, 1, 2]
    assert threading.get_ident() not in made


def test_an_error_comes_where_its_item_would_have():
    def items():
        yield 1
        raise ValueError("unreadable")

    ahead = one_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="unreadable"):
        next(ahead)


def test_no_thread_is_left_when_it_ends_or_is_closed_early():
    before = threading.active_count()
    ahead = one_ahead(range(5))
    next(ahead)
    assert threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before
    assert list(one_ahead(range(5))) == [0, 1, 2, 3, 4]
    assert threading.active_count() == before
