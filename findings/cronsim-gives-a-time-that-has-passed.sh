#!/usr/bin/env bash
# cronsim 2.8, tzdata 2025.2, seen 2026-12-01 (croniter 7.0.0 beside it)
#
# Expected: the next time of a cron expression is later than the start that was given, also on the night
#   when clocks are put back.
# Seen: from a start in the second pass of the repeated hour (02:10, fold=1), `30 2 * * *` gives 02:30 of
#   the *first* pass: 40 minutes before the start. From a start in the first pass all is well, and
#   expressions that match every hour are right from both. croniter gives the second pass's 02:30.
# What follows for users of face classifiers: a loop "sleep until next, work, ask again" that starts or
#   wakes in that hour runs without a pause until the hour is over: dozens of retrainings instead of none.
# For dxray: orchestrator/hardening/schedule.py (--cron) must ask again until the time is later than now,
#   also when it hands aware datetimes over.
#
# Run: bash findings/cronsim-gives-a-time-that-has-passed.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install cronsim==2.8 croniter==7.0.0 tzdata==2025.2

run_python <<'PY'
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from zoneinfo import ZoneInfo

from croniter import croniter
from cronsim import CronSim

paris = ZoneInfo("Europe/Paris")  # 31 October 2027: at 03:00 summer time it is 02:00 again
libraries = {
    f"cronsim {version('cronsim')}": lambda text, start: next(CronSim(text, start)),
    f"croniter {version('croniter')}": lambda text, start: croniter(text, start).get_next(datetime),
}
print("expected: every next time is later than its start")
passed = []
for library, next_time in libraries.items():
    for fold in (0, 1):
        start = datetime(2027, 10, 31, 2, 10, fold=fold, tzinfo=paris)
        for text in ("30 2 * * *", "*/20 * * * *"):
            found = next_time(text, start)
            minutes = (found.astimezone(UTC) - start.astimezone(UTC)).total_seconds() / 60
            print(f"seen: {library}: '{text}' from {start:%H:%M%z} gives {found:%d %b %H:%M%z}, {minutes:+.0f} minutes")
            if minutes <= 0:
                passed.append((library.split()[0], fold, text))
sys.exit(0 if passed == [("cronsim", 1, "30 2 * * *")] else 1)
PY
