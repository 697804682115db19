"""An interrupt comes at the worst moment: in a transaction, in a finaliser."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from sqlalchemy import event

import autoprune
from autoprune.interrupts import noted_interrupts, uninterrupted
from autoprune.search.outcome import Progress
from autoprune.search.storage import BatchedStorage
from tests.tiny import tiny_task

pytestmark = pytest.mark.system


@pytest.fixture(autouse=True)
def python_handles_ctrl_c() -> Iterator[None]:
    """Also where the tests run in the background, whose processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Finalised:
    """Python prints what its finaliser raises, and forgets it."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)
        [None for _ in range(3)]  # the interpreter looks for signals between two instructions


def test_an_interrupt_waits_for_the_end() -> None:
    steps: list[str] = []

    @uninterrupted()
    def work() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            steps.append("went on")
        steps.append("to the end")
    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["went on", "to the end"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # the handlers are the old ones


def test_an_interrupt_that_python_lost_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    with noted_interrupts() as interrupts:
        Finalised()
        assert interrupts == [signal.SIGINT]
    with pytest.raises(KeyboardInterrupt), noted_interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
    assert interrupts == [signal.SIGINT]


def test_threads_have_no_signals() -> None:
    seen: list[list[int]] = []

    def work() -> None:
        with uninterrupted(), noted_interrupts() as interrupts:
            seen.append(interrupts)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[]]


def test_what_hangs_is_left_by_a_second_interrupt() -> None:
    steps: list[str] = []

    @uninterrupted()
    def hang() -> None:
        signal.raise_signal(signal.SIGINT)
        steps.append("first")
        signal.raise_signal(signal.SIGINT)
        steps.append("second")
    with pytest.raises(KeyboardInterrupt):
        hang()
    assert steps == ["first"]


def test_a_signal_that_the_program_handles_itself_is_no_interrupt() -> None:
    handled: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: handled.append(number))
    try:
        with noted_interrupts() as interrupts:
            signal.raise_signal(signal.SIGTERM)
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (handled, interrupts) == ([signal.SIGTERM] * 2, [])


@pytest.mark.parametrize("write", ["attribute", "parameter", "state"])
def test_a_transaction_is_whole(write: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = BatchedStorage(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    if write == "parameter":
        trial.suggest_float("x", 0, 1)
    struck: list[str] = []

    @event.listens_for(storage.engine, "after_cursor_execute")
    def strike(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(("INSERT", "UPDATE")) and not struck:
            struck.append(statement)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        study.tell(trial, 0.5) if write == "state" else trial.set_user_attr("a", 1)
    assert struck
    again = optuna.load_study(study_name=study.study_name, storage=url)  # another connection: nothing is locked
    again.set_user_attr("b", 2)
    study.set_user_attr("c", 3)
    found = again.trials[0]
    assert {"attribute": found.user_attrs.get("a") == 1, "parameter": "x" in found.params,
            "state": found.values == [0.5]}[write]
    storage.close()


def test_a_search_ends_though_python_lost_the_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    struck: list[int] = []

    def strike(progress: Progress) -> None:
        if progress.done and not struck:
            struck.append(1)
            Finalised()
    front = autoprune.search(tiny_task(), "rpi4", "0.7x", trials=30, steps=1, run=str(tmp_path / "run"), workers=0,
                             on_progress=strike)
    assert struck
    assert len(front.candidates) == 1
