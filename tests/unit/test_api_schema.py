"""The REST interface against its own OpenAPI document, with generated requests."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.fake_gateway import Gateway

schema = schemathesis.openapi.from_asgi("/openapi.json", Gateway().app)


# A body with two values or none is refused, which the document says in words only.
KV_BODIES: list[Any] = [positive_data_acceptance]


@schema.parametrize()
@settings(max_examples=10, deadline=None, derandomize=True)
def test_every_answer_is_one_that_the_document_lists(case: schemathesis.Case[Any]) -> None:
    case.call_and_validate(excluded_checks=KV_BODIES if case.path.startswith("/api/v1/kv/") else [])
