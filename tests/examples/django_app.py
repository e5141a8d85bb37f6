"""
Django, or any synchronous program: the client has an event loop in a thread of its own, and views hand signals over.

    pip install . django    # in a checkout of riskbatch
    export OKTA_CLIENT_ORGURL=https://acme.okta.com OKTA_CLIENT_TOKEN=...
    python django_app.py runserver --noreload 8000
    curl -d 'ip=203.0.113.7' http://127.0.0.1:8000/lockout

A process that gets SIGTERM ends without `atexit`, unless somebody catches the signal: this program does, and so does
gunicorn in its workers. Otherwise what still waits would be lost.

Each worker process has its own client: make them a fleet with store=rb.ValkeyStore(...), or give each its share of the
budget, as in limit=rb.RateLimit(10, 60.0) for three. Under a server that forks (gunicorn), start it in the worker, as
here at the first use, and not before the fork.
"""

import asyncio
import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

import riskbatch as rb


@cache
def risk() -> rb.Client:
    """Start the client in its thread, once a process; at its exit the thread sends what still waits."""
    started: Future[tuple[rb.Client, Callable[[], object]]] = Future()

    async def live() -> None:
        stop = asyncio.Event()
        async with rb.Client.from_env() as client:
            loop = asyncio.get_running_loop()
            started.set_result((client, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(live())
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="riskbatch", daemon=True)
    thread.start()
    client, stop = started.result()
    atexit.register(thread.join)
    atexit.register(stop)  # runs before the join: atexit goes backwards
    return client


def lockout(request: HttpRequest) -> HttpResponse:
    try:
        seen = rb.RiskSignal(request.POST.get("ip", ""), "HIGH", message="Too many failed logins")
        future = risk().enqueue_threadsafe(seen)  # never waits
    except rb.InvalidSignal as error:
        return HttpResponse(str(error), status=422)
    except (rb.QueueFull, rb.ClientClosed) as error:
        return HttpResponse(str(error), status=503)
    if "wait" in request.GET:  # a view that must know: first that it is admitted, then what became of it
        return JsonResponse({"outcome": repr(future.result(1.0).wait_threadsafe(10.0))})
    return HttpResponse(status=202)


urlpatterns = [path("lockout", lockout)]

settings.configure(
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "of-this-example-only"),
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1"],
)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # or the exit would run no `atexit`, and lose what waits
    execute_from_command_line(sys.argv)
