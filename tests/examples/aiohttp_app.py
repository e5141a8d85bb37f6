"""
aiohttp.web: the client lives in a cleanup context, and handlers find it under a typed key.

    pip install .    # in a checkout of riskbatch
    export OKTA_CLIENT_ORGURL=https://acme.okta.com OKTA_CLIENT_TOKEN=...
    python aiohttp_app.py
    curl -d '{"ip": "203.0.113.7", "riskLevel": "HIGH"}' http://127.0.0.1:8080/signals
"""

from collections.abc import AsyncIterator

from aiohttp import web

import riskbatch as rb

RISK = web.AppKey("risk", rb.Client)


async def risk(app: web.Application) -> AsyncIterator[None]:
    async with rb.Client.from_env() as client:
        app[RISK] = client
        yield  # what follows happens after the last handler has returned: the block sends what still waits


async def report(request: web.Request) -> web.Response:
    try:
        receipts = await request.app[RISK].enqueue_many(rb.parse_signals(await request.json()))
    except ValueError as error:  # no JSON, or an InvalidSignal
        raise web.HTTPUnprocessableEntity(text=str(error)) from None
    return web.json_response({"admitted": len(receipts)}, status=202)


def make_app() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(risk)
    app.router.add_post("/signals", report)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=8080)
