"""The table of verbs: it fits the service that carries them out, and says how each is written."""

from __future__ import annotations

import inspect

import pytest

from helios.admin.service import AdminService
from helios.errors import InvalidInput
from helios.model.verbs import VERBS, Verb, preview_of

PREVIEWED = ("addnode", "removenode", "migrate", "rebalance", "reweight", "drain", "undrain")
PREVIEWS = [preview_of(name) for name in PREVIEWED]
CARRIED_OUT = [verb for verb in (*VERBS.values(), *PREVIEWS) if verb.name != "preview"]


@pytest.mark.parametrize("verb", CARRIED_OUT, ids=lambda verb: verb.name)
def test_the_service_takes_what_a_verb_gives_it(verb: Verb) -> None:
    """With all that it can have, and with as little as it must have."""
    words = ["1"] * len(verb.arguments.split())
    options = [option for group in verb.options for option in group]
    for option in options:
        words += [option.word.lower(), "1"] if option.shown else [option.word.lower()]
    if verb.name == "setting":
        words.pop()  # to change one is another method
    signature = inspect.signature(getattr(AdminService, verb.method))
    for some in (words, ["1"] * (abs(verb.arity) - 1)):
        given, named = verb.parse(some)
        signature.bind(None, *given, **named, **({"by": "somebody"} if verb.noted else {}))
    assert set(verb.parse(words)[1]) == {option.parameter for option in options}


@pytest.mark.parametrize(
    ("name", "usage", "arity"),
    [
        ("addnode", "ADDNODE ID ADDRESS [WEIGHT w] [ZONE z] [IMPORT | FLUSH | ADOPT]", -3),
        ("migrate", "MIGRATE SOURCE TARGET [PATTERN [VERIFY]]", -3),
        ("reweight", "REWEIGHT ID WEIGHT", 3),
        ("history", "HISTORY [COUNT]", -1),
        ("listnodes", "LISTNODES", 1),
        ("preview", "PREVIEW VERB [ARGUMENTS]", -2),
    ],
)
def test_usage_and_arity(name: str, usage: str, arity: int) -> None:
    assert (VERBS[name].usage, VERBS[name].arity) == (usage, arity)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["n"], "write PREVIEW REWEIGHT ID WEIGHT"),
        (["n", "2", "3"], "'3' is no option of PREVIEW REWEIGHT: PREVIEW REWEIGHT ID WEIGHT"),
    ],
)
def test_too_few_and_too_many_words(words: list[str], message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        preview_of("reweight").parse(words)
    assert str(refused.value) == message
