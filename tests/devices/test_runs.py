from __future__ import annotations

import pytest

from autoprune.devices.runs import broadcast_kind, broadcast_run, copied_run, reduce_kind, transpose_kind


@pytest.mark.parametrize(("shapes", "out", "run"), [
    ([(2, 3, 4), (2, 3, 4)], (2, 3, 4), 24), ([(2, 3, 4), (4,)], (2, 3, 4), 4), ([(2, 3, 4, 4), (3, 1, 1)],
                                                                                 (2, 3, 4, 4), 16),
    ([(2, 3, 4), ()], (2, 3, 4), 24), ([(2, 3, 4), (1, 3, 4)], (2, 3, 4), 12), ([(2, 1, 4), (1, 3, 1)], (2, 3, 4), 4)])
def test_runs_of_a_broadcast(shapes, out, run):
    assert broadcast_run(shapes, out) == run


def test_runs_of_a_copy():
    assert copied_run([(1, 8, 4, 4)], (1, 16, 4, 4)) == 128
    assert copied_run([(1, 7, 192)], (1, 7, 96)) == 96
    assert copied_run([(5,)], (5,)) == 5
    assert copied_run([(1, 8, 4, 4), (1, 2, 4, 4), ()], (1, 10, 4, 4)) == 32
    assert copied_run([(), ()], ()) == copied_run([], (3,)) == 0


@pytest.mark.parametrize(("cls", "shapes", "found"), [
    ("add", [(2, 3, 4), (2, 3, 4)], ("add", 24)), ("add", [(2, 3, 4), ()], ("add", 24)),
    ("add", [(2, 3, 4), (4,)], ("broadcast", 4)), ("where", [(3, 4), (2, 3, 4), ()], ("where", 12))])
def test_kinds_of_broadcasts(cls, shapes, found):
    assert broadcast_kind(cls, shapes, (2, 3, 4)) == found


def test_kinds_of_reductions():
    assert reduce_kind((1, 7, 96), (1, 1, 96)) == "reduce_middle"
    for read, out in (((1, 7, 96), (1, 7, 1)), ((1, 7, 1), (1, 1, 1)), ((7, 96), ()), ((), ())):
        assert reduce_kind(read, out) == "reduce"


@pytest.mark.parametrize(("shape", "perm", "found"), [
    ((1, 400, 1, 32), (0, 2, 1, 3), ("copy", 12800)), ((1, 49, 2, 24), (0, 2, 1, 3), ("transpose_rows", 24)),
    ((1, 4, 7, 4, 7, 48), (0, 1, 3, 2, 4, 5), ("transpose_rows", 336)), ((1, 64, 49), (0, 2, 1), ("transpose", 1)),
    ((1, 14, 14, 48), (0, 3, 1, 2), ("transpose", 1)), ((1, 64, 64, 4), (0, 3, 2, 1), ("transpose_any", 1)),
    ((512, 2, 8, 2), (0, 2, 1, 3), ("transpose_pairs", 2))])
def test_kinds_of_transposes(shape, perm, found):
    assert transpose_kind(shape, perm) == found
