"""Times as the relay writes them: ISO 8601 in UTC with milliseconds, days and hours in its zone."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from ..database import InvalidInputError, InvalidTypeError


def utc_text(when: datetime) -> str:
    """As JavaScript's `toISOString` writes it; a time without a zone is local time."""
    try:
        text = _checked(when).astimezone(timezone.utc).isoformat(timespec="milliseconds")
    except OverflowError:
        raise InvalidInputError(f"a time that UTC can tell is expected, not {when}") from None
    return text.replace("+00:00", "Z")


def _checked(when: datetime) -> datetime:
    if not isinstance(when, datetime):
        raise InvalidTypeError(f"a time is a datetime, not {when!r}")
    return when


# As `utc_text` writes it, but for days and hours that there are not.
_is_exact = re.compile(r"\d{4}-\d\d-\d\dT\d\d:[0-5]\d:[0-5]\d\.\d{3}Z", re.ASCII).fullmatch


def is_exact(text: str) -> bool:
    """Whether a time is written as `utc_text` does, so that it can be compared as text."""
    return _is_exact(text) is not None


def utc_now() -> str:
    """The time now."""
    return utc_text(datetime.now(timezone.utc))


def parse(text: str) -> datetime | None:
    """The time that a text tells, in UTC unless it says otherwise; None if it tells none."""
    try:
        when = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except (ValueError, OverflowError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=timezone.utc)


def in_utc(text: str) -> str:
    """The same time as `utc_text` writes it."""
    when = parse(text)
    return text if when is None else utc_text(when)


def epoch_ms(text: str) -> int:
    """Milliseconds since 1970 of a time as text; 0 for none, as the relay's indexes have it."""
    when = parse(text)
    return 0 if when is None else round(when.timestamp() * 1000)


def cutoff(older_than: timedelta | datetime) -> datetime:
    """The time before which something is older."""
    if isinstance(older_than, datetime):
        return older_than
    if not isinstance(older_than, timedelta):
        raise InvalidTypeError(f"older_than is a timedelta or a datetime, not {older_than!r}")
    if older_than < timedelta(0):
        raise InvalidInputError("older_than must not be negative")
    try:
        return datetime.now(timezone.utc) - older_than
    except OverflowError:
        return datetime.min.replace(tzinfo=timezone.utc)


class Buckets:
    """The hour, the day and the month that a time falls into, in the relay's time zone."""

    def __init__(self, offset_hours: float) -> None:
        if not -24 < offset_hours < 24:
            raise InvalidInputError("the time zone's offset is a number of hours from -23 to 23")
        self._zone = timezone(timedelta(hours=offset_hours))
        self._known: dict[str, tuple[str, str, str]] = {}

    def of(self, timestamp: str) -> tuple[str, str, str]:
        """As 2026-11-21T03, 2026-11-21, 2026-11; raises InvalidInputError for what is no time."""
        return self.of_exact(timestamp) if _is_exact(timestamp) else self._look(timestamp)

    def of_exact(self, timestamp: str) -> tuple[str, str, str]:
        """The same, of a time that `is_exact`."""
        # All times of an hour in UTC fall into one hour, where the zone is whole hours away.
        return self._known.get(timestamp[:13]) or self._look(timestamp)

    def _look(self, timestamp: str) -> tuple[str, str, str]:
        when = parse(timestamp)
        if when is None:
            raise InvalidInputError(f"a timestamp is ISO 8601 text, not {timestamp!r:.80}")
        hour = self.name(when, "hour")
        found = (hour, hour[:10], hour[:7])
        offset = self._zone.utcoffset(None)
        if is_exact(timestamp) and offset.total_seconds() % 3600 == 0:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[timestamp[:13]] = found
        return found

    def name(self, when: datetime, period: str) -> str:
        """The name of the hour, the day or the month of a time."""
        return self._local(when).isoformat()[: {"hour": 13, "day": 10, "month": 7}[period]]

    def begin(self, when: datetime, period: str) -> datetime:
        """When the hour, the day or the month of a time began."""
        coarse = {"hour": {}, "day": {"hour": 0}, "month": {"hour": 0, "day": 1}}[period]
        fine = {"minute": 0, "second": 0, "microsecond": 0}
        return self._local(when).replace(**fine, **coarse)  # type: ignore[arg-type]

    def last_begin(self, until: datetime, period: str) -> datetime:
        """When the last hour, day or month began that did so before a time."""
        return self.begin(_moved(self._local(until), -datetime.resolution), period)

    def end(self, begin: datetime, period: str) -> datetime:
        """When an hour, a day or a month ends that began then."""
        length = {"hour": timedelta(hours=1), "day": timedelta(1), "month": timedelta(32)}[period]
        return self.begin(_moved(begin, length), period)

    def _local(self, when: datetime) -> datetime:
        try:
            return _checked(when).astimezone(self._zone)
        except OverflowError:
            raise _out_of_range(when) from None


def _moved(when: datetime, step: timedelta) -> datetime:
    try:
        return when + step
    except OverflowError:
        raise _out_of_range(when) from None


def _out_of_range(when: datetime) -> InvalidInputError:
    return InvalidInputError(f"a time of this age is expected, not {when}")
