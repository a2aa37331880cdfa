"""Cron: the instants that a text such as `30 2 * * MON-FRI` means in a time zone.

`text` parses a cron text into days (`days`) and times of the day (`daytime`). Both are wall times. `zones` describes a
time zone as stretches of constant offset, and `engine` computes the instants from both. The engine has no state: it
finds the next and the previous fire of any moment at the same cost. `words` and `changes` explain a text to people.

Text: five fields (minute, hour, day of month, month, day of week), or six with leading seconds; or one of `@yearly
@annually @monthly @weekly @daily @midnight @hourly`. `TZ=Zone` or `CRON_TZ=Zone` may precede them. `@every` with a
duration is an interval. croniter expands single items of a field; peerjob has these rules:

- A range of one value (`5-5`) means that value, as in every cron. croniter would expand it to the whole field.
- A day must match both day fields if one of them begins with `*` or is `?`. Otherwise it must match one of them.
  Debian's cron and cronsim have the same rule.
- Each reader must get the same times, so croniter's random items `H` and `R` are refused.

A *fixed time* is a job whose minute and hour do not begin with `*`. When clocks change, it runs once for each of its
wall times: of a repeated time, at the first; of skipped times, once, right after the gap. Other jobs follow the wall
clock: they do not run in a gap, and run twice in a repeated hour. Seconds make no difference.

A text without any matching day (`0 0 31 2 *`) is refused. 28 successive years without a skipped leap year contain every
kind of month, by length and first weekday. So a text that matches no day in them never matches.
"""
