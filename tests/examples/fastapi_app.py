"""
FastAPI (or Starlette): the client lives as long as the application, and a request never waits for Okta.

    pip install . fastapi uvicorn    # in a checkout of riskbatch
    export OKTA_CLIENT_ORGURL=https://acme.okta.com OKTA_CLIENT_TOKEN=...
    uvicorn fastapi_app:app
    curl -X POST 'http://127.0.0.1:8000/signals?ip=203.0.113.7&risk_level=HIGH'
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request

import riskbatch as rb


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Leaving the block sends what still waits, for up to close_timeout seconds: keep it under your platform's grace.
    async with rb.Client.from_env(close_timeout=20.0) as client:
        app.state.risk = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/signals", status_code=202)
async def report(request: Request, ip: str, risk_level: str) -> dict[str, str]:
    client: rb.Client = request.app.state.risk
    try:
        receipt = await client.enqueue(rb.RiskSignal(ip, risk_level), timeout=1.0)
    except rb.InvalidSignal as error:
        raise HTTPException(422, str(error)) from None
    except (rb.QueueFull, rb.ClientClosed) as error:
        raise HTTPException(503, str(error)) from None
    return {"admitted": receipt.signal.ip}


@app.get("/health")
async def health(request: Request) -> dict[str, object]:
    client: rb.Client = request.app.state.risk
    statistics = client.statistics()
    return {"status": repr(client), "paused": statistics.paused, "waiting": statistics.waiting}
