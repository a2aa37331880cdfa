"""What tests of an outbox look at: its rows, and the runs of a job."""

from collections import Counter

from sqlalchemy import Engine, text

from peerjob import Job


def rows_in(engine: Engine, table: str = "peerjob_outbox") -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


class Noting:
    """A job that notes each run of it."""

    def __init__(self) -> None:
        self.runs: Counter[int] = Counter()
        # with no retention, only the marks of removed instances keep a row from running twice
        self.job = Job("note", self._note, retention="0s")

    async def _note(self, number: int) -> None:
        self.runs[number] += 1
