"""Rollouts by a server that holds the policy's base and takes its adapter anew at every step: vLLM, over HTTP."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from peft import PeftModel

from embedrl.data.inputs import ModelInputs
from embedrl.distributed.collectives import gather_objects, rank
from embedrl.distributed.unshard import unsharded
from embedrl.errors import ConfigError, EndpointError
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.models.sampling import SampledReply
from embedrl.rl.rollout import RolloutOptions, draw_seed
from embedrl.rl.vllm.protocol import SEED_BITS, read_replies, to_request
from embedrl.types import Chat
from embedrl.utils.chat_client import ChatClient, Endpoint, NoAnswer, run
from embedrl.utils.run_seed import run_seed


@dataclass(frozen=True, kw_only=True)
class RolloutEndpoint(Endpoint):
    """See `Endpoint`; an attempt is all replies to a prompt, or loading the adapter."""

    slot: ClassVar[str] = "engine"

    timeout: float = 600.0
    concurrency: int = 64


class ServerRollout:
    """Writes with a vLLM server; implements `RemoteEngine`. Needs LoRA: only the adapter is sent.

    Before each step rank 0 writes the adapter to a folder that the server reads too, and lets the server forget the
    last one and load this one under a new name: nothing kept of an older policy can be taken for the new one's. Then
    every rank asks for its own prompts. Token ids and log-probabilities come back as they were drawn; whatever is
    missing or does not fit is an error on all ranks. vLLM itself is not imported.

    Args:
        base_url: Address up to and with the version, e.g. `http://127.0.0.1:8000/v1`.
        adapter_dir: Folder for the adapters; only the current one stays in it.
        server_dir: The same folder as the server sees it; None means the same path.
        name: What the adapters' names on the server begin with.
        max_mismatch: Stop training if the log-probabilities of server and policy differ by more than this in the mean
            over a step's tokens, in nats; None never stops.
        **endpoint: How it is asked: see `Endpoint`. `extra` may hold `{mm_processor_kwargs: {...}}`.

    Raises:
        ConfigError: If an option is out of its range.
    """

    def __init__(
        self,
        base_url: str,
        adapter_dir: str,
        server_dir: str | None = None,
        name: str = "embedrl",
        max_mismatch: float | None = 0.1,
        **endpoint: Any,
    ) -> None:
        self.endpoint = RolloutEndpoint(base_url=base_url, **endpoint)
        if max_mismatch is not None and not max_mismatch > 0:
            raise ConfigError(f"engine.max_mismatch is {max_mismatch}: give nats above 0, such as 0.1, or null")
        self.base_url, self.adapter_dir, self.server_dir, self.name = base_url, adapter_dir, server_dir, name
        self.max_mismatch = max_mismatch

    def bind(self, generator: PolicyGenerator, options: RolloutOptions) -> None:
        """See `RemoteEngine.bind`.

        Raises:
            ConfigError: If the policy has no adapter.
        """
        if not isinstance(generator.network, PeftModel):
            raise ConfigError("model.engine: a server takes the policy's adapter alone: set generator.lora")
        self._generator, self._options = generator, options
        self._forbidden = frozenset(generator.suppressed)
        self._run, self._pushes = secrets.token_hex(4), 0
        self._served: str | None = None

    def generate(
        self,
        prompts: Sequence[Chat],
        n: int,
        keys: Sequence[str],
        step: int = 0,
        inputs: Sequence[ModelInputs] | None = None,
    ) -> list[list[SampledReply]]:
        """See `RolloutEngine.generate`; the server is given the policy as it is now.

        Raises:
            EndpointError: If the server does not answer, or with something else than replies to these prompts; on all
                ranks, whichever met it.
            ValueError: If a key occurs twice: both prompts would draw by the same numbers.
        """
        if len(set(keys)) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many different keys, not {list(keys)}")
        self._push()
        # Token by token what the policy reads.
        preprocessor = self._generator.preprocessor()
        rows = preprocessor.prompt_rows(prompts) if inputs is None else inputs
        tokens: list[list[int]] = [row["input_ids"][0].tolist() for row in rows]
        seed = run_seed(self._options.seed, "rollout.seed")
        seeds = [draw_seed(seed, step, key) >> (63 - SEED_BITS) for key in keys]
        problem, samples = None, []
        try:
            samples = run(self._ask_all(list(zip(prompts, tokens, seeds, strict=True)), n))
        except EndpointError as error:
            problem = error
        _raise_together(problem)
        return samples

    # ---------------------------------------------------------------- the adapter

    def _push(self) -> None:
        """Let the server load the policy's adapter; all ranks call together, and return when it is there."""
        problem, name = None, ""
        with unsharded(self._generator):
            if rank() == 0:
                self._pushes += 1
                name = f"{self.name}-{self._run}-{self._pushes}"
                try:
                    self._write(Path(self.adapter_dir) / name)
                    run(self._swap(name))
                except (EndpointError, OSError) as error:
                    problem = EndpointError(f"{self.adapter_dir}: {error}") if isinstance(error, OSError) else error
        _raise_together(problem)
        [self._served] = gather_objects([name] if rank() == 0 else [])

    def _write(self, folder: Path) -> None:
        """Write the adapter as PEFT does. Not by `state_dict()`, which would shard an unsharded model again."""
        network = self._generator.network
        weights = {name: value.detach() for name, value in network.named_parameters() if "lora_" in name}
        network.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)

    async def _swap(self, name: str) -> None:
        """Unload the last adapter, then load: the other way round `--max-loras 1` would leave none to unload."""
        folder = Path(self.server_dir or Path(self.adapter_dir).resolve()) / name
        async with ChatClient(self.endpoint) as client:
            if self._served is not None:
                try:
                    await client.post("unload_lora_adapter", {"lora_name": self._served})
                except NoAnswer as failure:
                    if failure.cause != "http_404":  # it was started anew in between
                        raise self._problem(f"could not unload the adapter {self._served}: {failure}") from failure
                shutil.rmtree(Path(self.adapter_dir) / self._served)
            try:
                await client.post("load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
            except NoAnswer as failure:
                # Names are never used twice: one that is there was loaded by an attempt whose answer was lost.
                if failure.cause != "http_400" or "already been loaded" not in failure.detail:
                    raise self._problem(f"could not load the adapter {folder}: {failure}") from failure

    def _problem(self, what: str) -> EndpointError:
        assert self._generator.lora is not None
        return EndpointError(
            f"{self.endpoint.address}: {what}. Is it up, started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and "
            f"--enable-lora --max-lora-rank {self._generator.lora.r} or more, and can it read that folder "
            "(engine.server_dir)?"
        )

    # ---------------------------------------------------------------- the replies

    async def _ask_all(self, prompts: Sequence[tuple[Chat, list[int], int]], n: int) -> list[list[SampledReply]]:
        gate, reading = asyncio.Semaphore(self.endpoint.concurrency), asyncio.Lock()
        async with ChatClient(self.endpoint) as client:
            asking = [
                asyncio.ensure_future(self._ask(client, gate, reading, chat, tokens, n, seed))
                for chat, tokens, seed in prompts
            ]
            try:
                return list(await asyncio.gather(*asking))
            finally:
                for task in asking:  # of no use any more, if one has failed
                    task.cancel()

    async def _ask(
        self,
        client: ChatClient,
        gate: asyncio.Semaphore,
        reading: asyncio.Lock,
        chat: Chat,
        tokens: list[int],
        n: int,
        seed: int,
    ) -> list[SampledReply]:
        """The replies to one prompt of these tokens."""
        assert self._served is not None
        where = f"{self.endpoint.address} ({self._served})"
        async with gate:
            async with reading:  # one at a time, beside the requests under way
                request = await asyncio.to_thread(self._prepare, chat, self._served, n, seed)
            try:
                response = await client.post("chat/completions", request)
            except NoAnswer as failure:
                raise EndpointError(
                    f"{where} did not answer: {failure}. Is it up (curl {self.endpoint.address}/models), and is "
                    f"engine.timeout ({self.endpoint.timeout:g} s) enough for {n} replies of "
                    f"{self._options.max_new_tokens} tokens?"
                ) from failure
        try:
            answer = response.json()
        except (ValueError, RecursionError) as error:
            raise EndpointError(f"{where}: the answer is no JSON: is base_url right?") from error
        return [
            SampledReply(reply.tokens, reply.logprobs, self._generator.reply_text(reply.tokens), reply.truncated)
            for reply in read_replies(answer, request, tokens, self._forbidden, where)
        ]

    def _prepare(self, chat: Chat, model: str, n: int, seed: int) -> dict[str, Any]:
        """The request."""
        chat = self._generator.preprocessor().as_read(chat)
        return to_request(chat, model, n, seed, self._options, self._forbidden) | (self.endpoint.extra or {})


def _raise_together(problem: EndpointError | None) -> None:
    """Raise the error of any rank on all ranks, so that none waits for it."""
    problems = gather_objects([str(problem)] if problem else [])
    if problem is not None:
        raise problem
    if problems:
        raise EndpointError(problems[0])
