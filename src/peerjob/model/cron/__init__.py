"""Cron: which instants a text such as `30 2 * * MON-FRI` means in a time zone.

A text is read once (`text`) into the days it names (`days`) and the times of such a day (`daytime`). Those are wall
times; what the wall clocks of a zone do is told by stretches of constant offset (`zones`), and `engine` joins the two.
So a schedule keeps no state: any moment can be asked about, forwards and backwards, at the same cost.

Text: five fields (minute, hour, day of month, month, day of week), or six with leading seconds; or one of `@yearly
@annually @monthly @weekly @daily @midnight @hourly`; before them `TZ=Zone` or `CRON_TZ=Zone`, if wanted. `@every` and a
duration is an interval in cron's clothes. croniter expands the items of a field, one at a time, and we decide:

- A range of one value (`5-5`) is that value, as in every cron. croniter takes it for the whole field.
- A day must match both day fields if one of them begins with `*` or is `?`, else it may match either. This is the rule
  of Debian's cron, and of cronsim.
- Nothing may depend on who reads it: croniter's `H` and `R` items, which it fills in at random, are refused.

Where clocks change, a job of a *fixed time*, with neither minute nor hour beginning with `*`, runs once for each of its
wall times: at the first of two, and right after the gap where clocks skip it (several that are skipped run once).
Any other job follows the wall clock through: nothing in a gap, and twice in the hour that comes twice. Seconds do not
matter for which of the two a job is.

A text that means no day at all (`0 0 31 2 *`) is refused. 28 years in a row, away from a century, hold all kinds of
month there are (its length, and its first day of the week), so a text that names none of their days names none ever.
"""
