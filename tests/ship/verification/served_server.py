"""A real HTTP server with OpenAI's API around a real model, in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ModelServer:
    """Serves greedy completions on a free port of this machine.

    Args:
        model: Anything that gives logits.
        tokenizer: With a chat template.
        logprobs: Whether it tells them; ``"refused"`` answers 400 to whoever asks.
        names: The models it says it has.
        fault: What it does instead: a status or a text that is no JSON.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        logprobs: bool | str = True,
        names: tuple[str, ...] = ("tiny",),
        fault: int | str | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.logprobs, self.names, self.fault = logprobs, names, fault
        self.requests: list[dict[str, Any]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def _handler(outer: ModelServer) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send({"data": [{"id": name} for name in outer.names]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append({**body, "path": self.path, "headers": self.headers})
                if outer.fault is not None:
                    self.send(outer.fault, outer.fault if isinstance(outer.fault, int) else 200)
                elif body.get("logprobs") and outer.logprobs == "refused":
                    self.send({"error": "unexpected field logprobs"}, 400)
                else:
                    self.send(outer.answer(body))

            def send(self, content: Any, status: int = 200) -> None:
                text = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    @torch.no_grad()
    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The most likely tokens, each from a forward over everything before it."""
        chat = "messages" in body
        if chat:
            text = self.tokenizer.apply_chat_template(
                body["messages"], add_generation_prompt=True, tokenize=False
            )
        else:
            text = body["prompt"]
        ids = self.tokenizer(text).input_ids
        found: list[int] = []
        logprobs: list[float] = []
        while len(found) < body["max_tokens"]:
            log_p = self.model(torch.tensor([ids + found])).logits[0, -1].log_softmax(-1)
            found.append(int(log_p.argmax()))
            logprobs.append(log_p.max().item())
            if found[-1] == self.tokenizer.eos_token_id:
                break
        stopped = found[-1] == self.tokenizer.eos_token_id
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop" if stopped else "length",
        }
        text = self.tokenizer.decode(found, skip_special_tokens=True)
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if body.get("logprobs") and self.logprobs is True:
            shown = logprobs[: len(found) - stopped]
            content = [{"token": "", "logprob": value} for value in shown]
            choice["logprobs"] = {"content": content} if chat else {"token_logprobs": shown}
        return {"choices": [choice]}


@contextmanager
def serving(*args: Any, **options: Any) -> Iterator[ModelServer]:
    """The server, in a thread."""
    server = ModelServer(*args, **options)
    thread = threading.Thread(target=server.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()
        thread.join()
