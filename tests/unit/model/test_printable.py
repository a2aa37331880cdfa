"""Texts for people: numbers of things, and articles."""

import pytest

from peerjob.model.printable import counted, with_article


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "node", "0 nodes"),
        (1, "node", "1 node"),
        (1_000, "node", "1,000 nodes"),
        (1, "crash", "1 crash"),
        (2, "crash", "2 crashes"),
        (2, "process", "2 processes"),
        (2, "branch", "2 branches"),
        (2, "index", "2 indexes"),
    ],
)
def test_a_number_of_things_has_the_plural_of_the_noun(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text


@pytest.mark.parametrize(("noun", "text"), [("list", "a list"), ("int", "an int"), ("Account", "an Account")])
def test_a_noun_has_its_article(noun: str, text: str) -> None:
    assert with_article(noun) == text
