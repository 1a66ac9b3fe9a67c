"""A real server that speaks vLLM's protocol around plain transformers and peft: none of embedrl's code is in it."""

import base64
import copy
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata


class RefusedError(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class RolloutServer(ThreadingHTTPServer):
    """Serves a checkpoint folder and the adapters it is told to load.

    Attributes:
        stale: Whether it takes adapters without using them.
        spoil: `spoil(handler, path, body)` may answer in its stead (by returning True), or raise `RefusedError`.
        change: `change(answer)` may alter the answer to a chat.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.processor = AutoProcessor.from_pretrained(folder)
        self.base = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.lock = threading.Lock()
        self.loaded, self.log, self.chats = {}, [], []
        self.stale, self.spoil, self.change = False, lambda *_: False, lambda answer: answer
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def close(self):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that left is what several tests are about."""

    def load_lora_adapter(self, body):
        name = body["lora_name"]
        if name in self.loaded:
            raise RefusedError(400, f"The lora adapter '{name}' has already been loaded.")
        model = PeftModel.from_pretrained(copy.deepcopy(self.base), body["lora_path"]).eval()
        self.loaded[name] = self.base if self.stale else model
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload_lora_adapter(self, body):
        if body["lora_name"] not in self.loaded:
            raise RefusedError(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        del self.loaded[body["lora_name"]]
        return "Success: removed."

    @torch.no_grad()
    def complete(self, body):
        if body["model"] not in self.loaded:
            raise RefusedError(404, f"The model `{body['model']}` does not exist.")
        self.chats.append(body)
        inputs = self.read(body)
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": self.processor.tokenizer.decode(tokens)},
                "token_ids": tokens,
                "logprobs": {"content": [{"token": "", "logprob": value, "top_logprobs": []} for value in values]},
                "finish_reason": reason,
            }
            for i, (tokens, values, reason) in enumerate(
                self.write(self.loaded[body["model"]], inputs, body, body["seed"] + i) for i in range(body["n"])
            )
        ]
        return self.change(
            {
                "object": "chat.completion",
                "model": body["model"],
                "choices": choices,
                "prompt_token_ids": inputs["input_ids"][0].tolist(),
            }
        )

    def read(self, body):
        """The chat by the checkpoint's own template and processor, resizing included."""
        images, videos, chat = [], [], []
        for message in body["messages"]:
            content = []
            for part in message["content"]:
                if part["type"] == "text":
                    content.append(part)
                    continue
                name = part["type"].removesuffix("_url")
                kind, _, data = part[part["type"]]["url"].partition(";base64,")
                pictures = [Image.open(io.BytesIO(base64.b64decode(piece))) for piece in data.split(",")]
                assert kind == {"image": "data:image/png", "video": "data:video/jpeg"}[name]
                (images if name == "image" else videos).append(pictures[0] if name == "image" else pictures)
                content.append({"type": name})
            chat.append({**message, "content": content})
        text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        visual = {"images": images} if images else {}
        if videos:
            kwargs = body["media_io_kwargs"]["video"]
            assert kwargs["num_frames"] == -1
            visual["videos"] = videos
            visual["do_sample_frames"] = kwargs["do_sample_frames"]
            visual["video_metadata"] = [
                VideoMetadata(total_num_frames=len(v), fps=kwargs["fps"], frames_indices=list(range(len(v))))
                for v in videos
            ]
        return self.processor(text=[text], return_mm_token_type_ids=True, return_tensors="pt", **visual)

    def write(self, model, inputs, body, seed):
        """One reply, the whole row computed anew for every token."""
        assert (body["top_k"], body["min_p"]) == (-1, 0.0)
        assert body["include_stop_str_in_output"]
        generator = torch.Generator().manual_seed(seed)
        eos = self.processor.tokenizer.eos_token_id
        bias = torch.zeros(model.config.text_config.vocab_size)
        for token, value in body["logit_bias"].items():
            bias[int(token)] = value
        tokens, values = [], []
        while len(tokens) < body["max_tokens"]:
            row = dict(inputs)
            new = torch.tensor([tokens], dtype=torch.long)
            row["input_ids"] = torch.cat([row["input_ids"], new], 1)
            row["attention_mask"] = torch.ones_like(row["input_ids"])
            row["mm_token_type_ids"] = torch.cat([row["mm_token_type_ids"], torch.zeros_like(new)], 1)
            logits = model(**row, use_cache=False).logits[0, -1].float() + bias
            logprobs = (logits / (body["temperature"] or 1.0)).log_softmax(-1)
            likeliest = logprobs.sort(descending=True)
            before = likeliest.values.exp().cumsum(0) - likeliest.values.exp()
            logprobs[likeliest.indices[before > body["top_p"]]] = -torch.inf
            logprobs = logprobs.log_softmax(-1)  # `--logprobs-mode processed_logprobs`
            token = int(torch.multinomial(logprobs.exp(), 1, generator=generator))
            token = int(logits.argmax()) if body["temperature"] == 0 else token
            tokens.append(token)
            values.append(float(logprobs[token]))
            text = self.processor.tokenizer.decode(tokens)
            if token == eos or any(stop in text for stop in body["stop"]):
                return tokens, values, "stop"
        return tokens, values, "length"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.removeprefix("/v1/")
        server = self.server
        with server.lock:
            server.log.append(path)
        try:
            if server.spoil(self, path, body):
                return
            answers = {
                "chat/completions": server.complete,
                "load_lora_adapter": server.load_lora_adapter,
                "unload_lora_adapter": server.unload_lora_adapter,
            }
            with server.lock:
                answer = answers[path](body)
        except RefusedError as problem:
            self.send(problem.status, {"error": {"message": str(problem)}})
        else:
            self.send(200, answer)

    def send(self, status, content):
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        """Not on the screen."""
