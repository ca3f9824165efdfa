"""Progress: live lines in a terminal, plain lines in a log, and time told from work."""

import io
import re
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
from rich.console import Console

from dxray.orchestrator.progress import Bar, Board, now_and_then


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the board's clock on."""
    now = [100.0]
    monkeypatch.setattr("dxray.orchestrator.progress.time.monotonic", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def row(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "loss": 0.5, "validation_accuracy": 0.75}


def plain(work: float, *, every: float = 0.0) -> tuple[Board, io.StringIO]:
    text = io.StringIO()
    return Board(Console(file=text, width=200), 2, work, every=every), text


def test_time_left_is_told_from_work_and_not_from_the_number_of_trainings(clock: Callable[[float], None]) -> None:
    board, text = plain(work=100)
    with board:
        board.start(0, "small", 2, work=10)
        clock(10)
        board.epoch(0, row(1))
        assert "about 190 s left" in text.getvalue().replace("3 min", "190 s")
        board.epoch(0, row(2))
        board.end(0, "done: small")
        board.start(1, "large", 2, work=90)
        clock(45)
        board.epoch(1, row(1))
    last = text.getvalue().splitlines()[-1]
    assert last == "1 of 2 nets (55%), 55 s, about 45 s left; large: 50%, epoch 1/2, loss 0.500, validation 75.0%"


def test_epochs_of_an_earlier_run_are_not_taken_for_speed(clock: Callable[[float], None]) -> None:
    board, text = plain(work=100)
    with board:
        board.start(0, "resumed", 10, work=100)
        clock(10)
        board.epoch(0, row(9))  # the first that was trained in this run; one more is to come
    assert "about 10 s left" in text.getvalue()


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_training_that_fails_or_is_stopped_counts_as_done(clock: Callable[[float], None], epochs: int) -> None:
    board, text = plain(work=100)
    with board:
        board.start(0, "bad", 4, work=50)
        clock(20)
        for epoch in range(epochs):
            board.epoch(0, row(epoch + 1))
        board.end(0, "KO: bad: it raises")
    lines = text.getvalue().splitlines()
    assert "KO: bad: it raises" in lines
    assert lines[-1].startswith("1 of 2 nets (50%), 20 s, about 20 s left")


def test_a_long_epoch_is_told_while_it_lasts(clock: Callable[[float], None]) -> None:
    board, text = plain(work=100)
    with board:
        board.start(0, "large", 2, work=100)
        clock(10)
        board.share(0, 0.1)  # the first that is heard: it may have been done before
        clock(10)
        board.share(0, 0.3)
        board.epoch(0, row(1))
        board.share(0, 0.2)  # an older word, read late
    lines = text.getvalue().splitlines()
    assert lines[1] == "0 of 2 nets (22%), 20 s, about 70 s left; large: 30%, epoch 1/2"
    assert lines[-1].endswith("large: 50%, epoch 1/2, loss 0.500, validation 75.0%")


def test_a_training_that_begins_again_elsewhere_is_counted_once(clock: Callable[[float], None]) -> None:
    board, text = plain(work=40)
    with board:
        board.start(0, "tta_shift", 4, work=40)
        clock(10)
        board.epoch(0, row(1))
        board.start(0, "tta_shift", 4, work=40)
        clock(10)
        board.epoch(0, row(2))
        board.epoch(0, row(3))
    assert text.getvalue().splitlines()[-1].startswith("0 of 2 nets (75%), 20 s, about 7 s left")


def test_a_log_has_a_line_now_and_then_and_one_for_each_training_that_ends(clock: Callable[[float], None]) -> None:
    board, text = plain(work=100, every=30)
    with board:
        board.start(0, "net", 100, work=100)
        for epoch in range(1, 100):
            clock(1)
            board.epoch(0, row(epoch))
        board.end(0, "done: net")
    lines = text.getvalue().splitlines()
    assert [line for line in lines if "epoch" in line] == lines[:3]
    assert lines[3:] == ["done: net"]


def test_a_terminal_shows_a_live_line_for_each_training_that_runs() -> None:
    text = io.StringIO()
    console = Console(file=text, width=140, force_terminal=True, color_system=None)
    with Board(console, 2, 20.0) as board:
        board.start(0, "filters=8", 4, work=10)
        board.start(1, "filters=16", 4, work=10)
        board.epoch(0, row(1))
        board.epoch(1, row(2))
        board._live.refresh()  # type: ignore[union-attr]  # as it does ten times a second
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
        assert re.search(r"0 of 2 nets .* left", shown)
        assert re.search(r"filters=8 .* epoch 1/4, loss 0.500, validation 75.0%", shown)
        assert re.search(r"filters=16 .* epoch 2/4", shown)
        board.end(0, "done: filters=8")
    assert "done: filters=8" in text.getvalue()


def bar(total: float | None, unit: str = "images", **how: Any) -> tuple[Bar, io.StringIO]:
    text = io.StringIO()
    return Bar(Console(file=text, width=200), "judging", total, unit, **{"every": 1e9} | how), text


def test_a_bar_in_a_log_says_what_is_done_the_share_the_time_and_the_figures(clock: Callable[[float], None]) -> None:
    judging, text = bar(200, every=20)
    with judging:
        clock(19)
        judging.advance(49)
        clock(1)
        judging.advance(1, "12 images/s")
    assert text.getvalue() == "judging: 50/200 images (25%), 20 s, about 60 s left, 12 images/s\n"


def test_what_was_done_before_is_not_taken_for_speed(clock: Callable[[float], None]) -> None:
    judging, text = bar(12, "epochs", every=10)
    with judging:
        judging.at(6, "epoch 6/12")
        clock(10)
        judging.at(7.5)
    assert text.getvalue() == "judging: 7/12 epochs (62%), 10 s, about 30 s left, epoch 6/12\n"


def test_a_step_that_takes_long_is_seen_in_a_log() -> None:
    judging, text = bar(2, "nets", every=0.01)
    with judging:
        judging.part(0)(0.5)
        before, waited = text.getvalue().count("\n"), Event()
        while text.getvalue().count("\n") < before + 3:  # nobody tells anything meanwhile
            assert not waited.wait(0.01)
    assert text.getvalue().splitlines()[-1].startswith("judging: 0/2 nets (25%)")


def test_the_end_is_told_once_and_of_what_ends_at_once_nothing() -> None:
    for brief, lines in ((False, 1), (True, 0)):
        judging, text = bar(3, brief=brief)
        with judging:
            assert list(judging.over("abc")) == ["a", "b", "c"]
            judging.at(3)
        assert text.getvalue().count("\n") == lines


def test_of_an_unknown_total_only_the_count_is_told(clock: Callable[[float], None]) -> None:
    judging, text = bar(None, every=10)
    with judging:
        clock(10)
        judging.advance(4_000)
    assert text.getvalue() == "judging: 4,000 images, 10 s\n"


def test_a_terminal_shows_a_live_bar_but_not_of_what_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(*, brief: bool) -> str:
        text = io.StringIO()
        console = Console(file=text, width=140, force_terminal=True, color_system=None)
        with Bar(console, "reading", 2, "images", brief=brief) as reading:
            reading.advance()
            while brief and not seconds and "reading" not in text.getvalue():
                Event().wait(0.01)
        return text.getvalue()

    for seconds, brief in ((60.0, False), (0.0, True)):
        monkeypatch.setattr("dxray.orchestrator.progress.BRIEF", seconds)
        assert re.search(r"reading .* 1/2 .*50%", shown(brief=brief))
    seconds = 60.0
    monkeypatch.setattr("dxray.orchestrator.progress.BRIEF", seconds)
    assert shown(brief=True) == ""


def test_what_happens_often_is_told_now_and_then(clock: Callable[[float], None]) -> None:
    heard: list[float] = []
    tell = now_and_then(heard.append, every=3)
    for second in range(7):
        tell(second)
        clock(1)
    assert heard == [0, 3, 6]
