"""llama.cpp in a process of its own, run as a script by `engine`: python -I llama_process.py FILE CONTEXT THREADS.

A line of JSON on stdin is a request, a line of JSON on stdout its answer. A request with "texts" is for their tokens;
any other is one of the engine's completions. Apart, because an engine in native code may abort, and because this one's
server now and then waits for ever when it is stopped: this process just ends.
"""

from __future__ import annotations

import json
import os
import sys
from http.client import HTTPConnection
from typing import Any, TextIO

from xllamacpp import CommonParams, Server


def main(path: str, context: int, threads: int) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever native code prints is no answer
    settings = CommonParams()
    settings.model.path = path
    settings.n_ctx = context
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.n_gpu_layers = 0
    settings.n_parallel = 1
    settings.warmup = settings.ui = False
    settings.verbosity = 1  # errors
    try:
        server = Server(settings)
    except RuntimeError as error:
        _say(answers, {"error": str(error)})
    else:
        _say(answers, {"ready": True})
        for line in sys.stdin:
            request = json.loads(line)
            _say(
                answers, _tokens(server, request["texts"]) if "texts" in request else server.handle_completions(request)
            )
    os._exit(0)


def _tokens(server: Any, texts: list[str]) -> dict[str, list[list[int]]]:
    """By the file's own tokenizer, which the engine offers on its loopback address alone."""
    connection = HTTPConnection(server.listening_address.removeprefix("http://"))
    found = []
    for text in texts:
        body = json.dumps({"content": text, "add_special": False, "parse_special": True})
        connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
        found.append(json.loads(connection.getresponse().read())["tokens"])
    return {"tokens": found}


def _say(answers: TextIO, answer: Any) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
