"""What an Idempotency-Key costs a POST, beside the same POST without one, in one run.

    python -m benchmarks.idempotency

Eight clients post single events to a server without a worker. Each of them takes turns: without a
key, with a new key, and that request once more; so whatever else the machine does slows all alike.
"""

import http.client
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median
from urllib.parse import urlsplit
from uuid import uuid4

from tests.acceptance.server import running_server

CLIENTS = 8
TURNS = 600
WARM_UP = 50
TEXT = "Our ferry to Naxos leaves at seven, and the hotel is by the old harbour."


def milliseconds(connection: http.client.HTTPConnection, key: str | None) -> float:
    """How long one POST takes."""
    headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
    body = json.dumps({"namespace": "bench", "content": TEXT})
    started = time.perf_counter()
    connection.request("POST", "/v1/events", body, headers)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 201, text
    return (time.perf_counter() - started) * 1000


def client(url: str) -> list[tuple[float, float, float]]:
    """The times of each turn: without a key, with one, once more."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    turns = []
    for _ in range(WARM_UP + TURNS):
        key = uuid4().hex
        turns.append(tuple(milliseconds(connection, each) for each in (None, key, key)))
    connection.close()
    return turns[WARM_UP:]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variables = {"EMBEDDING_MODE": "mock", "MNEMO_WORKER_IN_SERVER": "false"}
        arguments = ("--data-dir", str(folder / "data"))
        with (
            running_server(folder, *arguments, variables=variables) as server,
            ThreadPoolExecutor(CLIENTS) as pool,
        ):
            turns = [turn for of in pool.map(client, [server.url] * CLIENTS) for turn in of]
    plain, keyed, again = zip(*turns, strict=True)
    for name, times in (("without a key", plain), ("with a key", keyed), ("once more", again)):
        print(
            f"{name:14} median {median(times):6.2f} ms, mean {mean(times):6.2f} ms, "
            f"{median(times) / median(plain):.2f} of the median without"
        )


if __name__ == "__main__":
    main()
