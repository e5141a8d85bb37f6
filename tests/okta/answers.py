"""Answers of an org, made by hand."""

import json
from datetime import UTC, datetime
from email.utils import format_datetime

from budget import budget
from hypothesis import settings
from multidict import CIMultiDict

from riskbatch.okta.http import Response

profile = settings(max_examples=budget(30, 150), deadline=None, derandomize=True)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW = format_datetime(NOON, usegmt=True)
RESET = str(int(NOON.timestamp()) + 42)


def answer(status, body=b"", headers=()):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return Response(status, CIMultiDict(headers), body)


def okta_error(code, summary="Api validation failed: riskEvents", causes=()):
    return {
        "errorCode": code,
        "errorSummary": summary,
        "errorLink": code,
        "errorId": "oaeHfmOAx1iRLa0H10DeMz5fQ",
        "errorCauses": [{"errorSummary": cause} for cause in causes],
    }


def rate(limit, remaining, reset=RESET):
    return [("X-Rate-Limit-Limit", limit), ("X-Rate-Limit-Remaining", remaining), ("X-Rate-Limit-Reset", reset)]
