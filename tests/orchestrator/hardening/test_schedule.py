"""Schedules by a clock that is told what time it is."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dxray.models.data.faces import FacesError
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import Busy, UserError
from dxray.orchestrator.hardening.schedule import Cron, Every, cron, every, keep
from dxray.orchestrator.runs.buckets import ObjectPath
from dxray.orchestrator.runs.store import locked, read_json

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # a Monday
HOUR = timedelta(hours=1)


class Over(Exception):
    """The time that the test looks at has passed."""


class FakeClock:
    """Sleeping takes no time, and goes on until `end`."""

    def __init__(self, start: datetime, end: datetime) -> None:
        self.time, self.end = start, end

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += timedelta(seconds=seconds)
        if self.time >= self.end:
            raise Over


Looks = Callable[..., list[datetime]]


@pytest.fixture
def looks(tmp_path: Path, console: Console) -> Looks:
    """When a schedule looks between two times; each look takes so long, and does what is given."""

    def found(
        schedule: Any, hours: float, *, start: datetime = START, takes: timedelta = timedelta(0), work: Any = None
    ) -> list[datetime]:
        clock, begun = FakeClock(start, start + hours * HOUR), []

        def look() -> None:
            begun.append(clock.now())
            if takes:
                clock.sleep(takes.total_seconds())
            if work:
                work()

        with pytest.raises(Over):
            keep(tmp_path, schedule, look, console, clock=clock)
        return begun

    return found


def test_every_so_long_and_not_before(looks: Looks) -> None:
    assert looks(Every(3600), 2.9) == [START, START + HOUR, START + 2 * HOUR]


def test_a_process_that_is_started_again_waits_until_it_is_due(looks: Looks) -> None:
    assert looks(Every(3600), 0.5) == [START]
    assert looks(Every(3600), 0.4, start=START + 0.5 * HOUR) == []
    assert looks(Every(3600), 0.5, start=START + 0.9 * HOUR) == [START + HOUR]


def test_times_that_were_missed_are_made_up_for_once(looks: Looks) -> None:
    assert looks(Every(3600), 0.5) == [START]
    late = START + 50 * HOUR
    assert looks(Every(3600), 1.5, start=late) == [late, late + HOUR]


def test_times_that_pass_while_it_works_are_made_up_for_once(looks: Looks) -> None:
    assert looks(Every(3600), 6.9, takes=2.5 * HOUR) == [START, START + 2.5 * HOUR, START + 5 * HOUR]


def test_what_was_killed_at_work_is_due_again_at_once(tmp_path: Path, looks: Looks, console: Console) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path, Every(3600), killed, console, clock=FakeClock(START, START + HOUR))
    assert looks(Every(3600), 0.1, start=START + 0.1 * HOUR) == [START + 0.1 * HOUR]


@pytest.mark.parametrize("wrong", [UserError("the net is gone"), FacesError("the folder has vanished")])
def test_what_goes_wrong_is_recorded_and_the_next_time_is_tried_again(
    looks: Looks, tmp_path: Path, wrong: Exception
) -> None:
    def fail() -> None:
        raise wrong

    assert looks(Every(3600), 1.5, work=fail) == [START, START + HOUR]
    assert read_json(tmp_path / "schedule" / "schedule.json")["failed"] == str(wrong)
    assert looks(Every(3600), 0.6, start=START + 1.5 * HOUR) == [START + 2 * HOUR]
    assert read_json(tmp_path / "schedule" / "schedule.json")["failed"] is None


def test_a_time_at_which_another_process_works_on_the_run_is_passed_over(looks: Looks, tmp_path: Path) -> None:
    def overlap() -> None:
        raise Busy("another dxray process works")

    assert looks(Every(3600), 1.5, work=overlap) == [START, START + HOUR]
    assert read_json(tmp_path / "schedule" / "schedule.json")["failed"].startswith("passed over: another")


def test_two_processes_never_keep_the_schedule_of_one_run(looks: Looks, tmp_path: Path, console: Console) -> None:
    (tmp_path / "schedule").mkdir()
    with locked(tmp_path / "schedule"), pytest.raises(Busy, match="another dxray process"):
        keep(tmp_path, Every(3600), lambda: None, console, clock=FakeClock(START, START))
    assert looks(Every(3600), 0.5) == [START]


@pytest.mark.usefixtures("bucket", "short_lease")
def test_a_schedule_is_kept_in_a_bucket_as_in_a_folder(console: Console) -> None:
    run = ObjectPath("s3://lab/kept")
    looks: list[str] = []
    for _ in range(2):
        with pytest.raises(Over):
            keep(run, Every(3600), lambda: looks.append("at once"), console, clock=FakeClock(START, START + HOUR / 2))
    assert looks == ["at once"]  # and not again before the hour is over


def test_cron_waits_for_its_time_and_makes_up_for_one_that_it_missed(looks: Looks) -> None:
    pytest.importorskip("cronsim", reason="cron expressions need the extra 'schedule'")
    at_three = Cron("0 3 * * *")
    three = (START.astimezone() + timedelta(days=1)).replace(hour=3).astimezone(UTC)
    assert looks(at_three, 1) == []
    assert looks(at_three, 20, start=START + HOUR) == [three]
    late = three + timedelta(days=10, hours=2)
    assert looks(at_three, 2, start=late) == [late]


def test_cron_missed_before_it_ever_looked_is_known_from_when_it_was_started(looks: Looks) -> None:
    pytest.importorskip("cronsim", reason="cron expressions need the extra 'schedule'")
    assert looks(Cron("0 3 * * *"), 1) == []
    late = START + timedelta(days=3)
    assert looks(Cron("0 3 * * *"), 1, start=late) == [late]


def test_what_a_person_writes() -> None:
    assert [every(text).seconds for text in ("90s", "5m", "24h", "2d", "1w")] == [90, 300, 86_400, 172_800, 604_800]
    for wrong in ("24", "h", "0h", "-1h", "1.5h", "1y"):
        with pytest.raises(UserError, match="expected a number and one of"):
            every(wrong)
    pytest.importorskip("cronsim", reason="cron expressions need the extra 'schedule'")
    assert cron("0 3 * * 1") == Cron("0 3 * * 1")
    for wrong in ("0 3 * *", "61 3 * * 1", "0 3 31 2 *", "hello"):
        with pytest.raises(UserError, match="is no cron expression with a time to come"):
            cron(wrong)


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets this machine's zone; whatever it was is set again."""

    def move(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("zone", "expression", "start", "hours", "expected"),
    [
        ("Europe/Paris", "30 2 * * *", "2027-03-27T12:00+01:00", 40, ["28T03:00+02:00", "29T02:30+02:00"]),
        (
            "Europe/Paris",
            "0 * * * *",
            "2027-03-28T00:30+01:00",
            3,
            ["28T01:00+01:00", "28T03:00+02:00", "28T04:00+02:00"],
        ),
        ("Europe/Paris", "30 2 * * *", "2027-10-30T12:00+02:00", 40, ["31T02:30+02:00", "01T02:30+01:00"]),
        (
            "Europe/Paris",
            "0 * * * *",
            "2027-10-31T01:30+02:00",
            3,
            ["31T02:00+02:00", "31T02:00+01:00", "31T03:00+01:00"],
        ),
        ("Europe/Paris", "30 2 * * *", "2027-10-31T02:10+01:00", 25, ["01T02:30+01:00"]),  # begun in the second pass
        ("Australia/Lord_Howe", "10 2 * * *", "2027-10-02T03:00+10:30", 48, ["03T02:30+11:00", "04T02:10+11:00"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2027-04-03T12:00+11:00", 40, ["04T01:45+11:00", "05T01:45+10:30"]),
        ("Asia/Kathmandu", "15 0 * * *", "2027-01-01T00:00+05:45", 25, ["01T00:15+05:45", "02T00:15+05:45"]),
    ],
)
def test_cron_looks_once_at_each_time_where_clocks_change(
    in_zone: Callable[[str], None],
    looks: Looks,
    zone: str,
    expression: str,
    start: str,
    hours: int,
    expected: list[str],
) -> None:
    pytest.importorskip("cronsim", reason="cron expressions need the extra 'schedule'")
    in_zone(zone)
    begun = looks(Cron(expression), hours, start=datetime.fromisoformat(start))
    assert [when.astimezone().isoformat(timespec="minutes")[8:] for when in begun] == expected
