"""One EG-RL step (rollout, reward, policy): ours beside TRL's GRPOTrainer with the same reward.

    python benchmarks/egrl_step.py                    # tiny Qwen3-VL, prompt / reply 512 / 128, G = 8
    python benchmarks/egrl_step.py --model 130m --prompt 256 --reply 32 --repeats 7
    python benchmarks/egrl_step.py --size smallest    # seconds

The same weights and LoRA adapter (not zero), the same prompts with one picture each, KL to the policy without its
adapter. Replies never end before their last token in either library, so both write and learn from equally many. The
reward embeds every side with its T-CoT through the same frozen Embedder and takes its similarity with the partner's;
TRL's reward function calls the same code, each rollout embedded with its own prefix (`shared_prefix=False`), as one
would write it. Ours is Lightning's whole training step with `EGRLModule`; TRL's is `GRPOTrainer.training_step` and
the optimizer's. Both take turns in one process; ratios are medians of ours over TRL's in CPU seconds. That the losses
are equal is checked on TRL's rollouts and advantages. Preparation is what opens, resizes and cuts up pictures, makes
tokens and packs rows, and parses T-CoTs, in the loader and in the step; its share is that of both together.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from checkpoints import write
from datasets import Dataset
from jsonargparse import auto_cli
from PIL import Image
from preparation import Preparation
from timing import OURS, Beside, Row, quiet_trainer, ratio, report, seconds
from torch import Tensor
from transformers import AutoModelForImageTextToText

from embedrl.data.datamodules.egrl import PairBatch
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.module import EGRLModule
from embedrl.rl.policy import Group, Policy, PolicyOptions
from embedrl.rl.rewards.combine import RewardRow
from embedrl.rl.rollout import RolloutOptions
from embedrl.rl.step import Prompt, make_prompts, make_step
from embedrl.rl.types import RewardResult, Rollout, RolloutStep
from embedrl.types import Pair, Role, Side

PEER = "TRL GRPOTrainer"
KL = 0.01
CPU = torch.device("cpu")
Optimizer = functools.partial(torch.optim.AdamW, lr=0.0, weight_decay=0.0)
"""The weights stay what they are, so that every round costs the same."""


class Noise:
    """A PNG file of random pixels, in memory; implements `ImageSource`."""

    def __init__(self, seed: int, side: int) -> None:
        self.name = f"noise {seed}"
        pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        self.file = file.getvalue()

    def load(self) -> Image.Image:
        """The picture, decoded."""
        return Image.open(BytesIO(self.file)).convert("RGB")


class Nearness:
    """Similarity of a rollout's vector with the mean of its partner's: differs between all rollouts of a group."""

    name = "nearness"

    def __call__(self, step: RolloutStep) -> RewardResult:
        """Score the step."""
        means: dict[tuple[int, Role], Tensor] = {}
        for role in Role:
            for i in range(len(step.pairs)):
                vectors = [step.vectors[r.id] for r in step.rollouts if (r.pair, r.role) == (i, role)]
                means[i, role] = torch.stack(vectors).mean(0)
        other = {Role.QUERY: Role.TARGET, Role.TARGET: Role.QUERY}
        return RewardResult({r.id: float(step.vectors[r.id] @ means[r.pair, other[r.role]]) for r in step.rollouts})


def make_pairs(reasoner: QwenVLReasoner, count: int, prompt: int, pixels: int) -> list[Pair]:
    """Pairs whose prompts all have `prompt` tokens, a picture of `pixels` a side among them."""

    def pair(i: int, words: Sequence[int]) -> Pair:
        texts = (f"{i} " + "red " * words[0], f"{i} " + "blue " * words[1])
        sides = [Side(text.strip(), (Noise(2 * i + j, pixels),)) for j, text in enumerate(texts)]
        return Pair(*sides, "noise", str(i))

    def lengths(words: Sequence[int]) -> list[int]:
        prompts = make_prompts([pair(0, words)], 0, "brief", reasoner.preprocessor())
        return [prompt.inputs["input_ids"].shape[1] for prompt in prompts]

    words = [1 + prompt - length for length in lengths((1, 1))]
    if min(words) < 1 or lengths(words) != [prompt, prompt]:
        raise SystemExit(f"--prompt {prompt}: the picture and the instruction alone take {prompt - min(words) + 1}")
    return [pair(i, words) for i in range(count)]


class Setting:
    """The step of both libraries.

    Args:
        path: The checkpoint.
        folder: Where TRL may write.
        pairs: Pairs in the step.
        group: Rollouts a prompt (G).
        prompt: Tokens of a prompt.
        reply: Tokens of a reply.
        image_tokens: Tokens of a picture, a square number.
    """

    def __init__(
        self, path: Path, folder: Path, pairs: int, group: int, prompt: int, reply: int, image_tokens: int
    ) -> None:
        self.path, self.folder, self.group, self.reply = path, folder, group, reply
        factor = QwenVLBackbone(str(path)).preprocessor().factor
        side = int(image_tokens**0.5) * factor
        self.pixels = PixelBudget(side**2, side**2)
        self.generator = self._reasoner()
        self.pairs = make_pairs(self.generator, pairs, prompt, side)
        self.prompts = make_prompts(self.pairs, 0, "brief", self.generator.preprocessor())

    def _reasoner(self) -> QwenVLReasoner:
        torch.manual_seed(0)
        lora = LoRAOptions(r=8, alpha=16, dropout=0.0)
        reasoner = QwenVLReasoner(str(self.path), lora, image_pixels=self.pixels)
        reasoner.build()
        # A token that is never written, so that no reply ends by chance: random weights would end some.
        reasoner.processor.tokenizer.eos_token = "<|vision_end|>"
        for name, parameter in reasoner.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        return reasoner

    def _embedder(self, shared_prefix: bool) -> FrozenEmbedder:
        return FrozenEmbedder(QwenVLBackbone(str(self.path), image_pixels=self.pixels), shared_prefix=shared_prefix)

    def module(self) -> EGRLModule:
        """The module as a recipe would make it."""
        return EGRLModule(
            generator=self.generator, embedder=self._embedder(True), rewards=[RewardRow(Nearness())],
            optimizer=Optimizer, loss=GRPOLoss(kl_coefficient=KL), group_size=self.group, style="brief",
            rollout=RolloutOptions(max_new_tokens=self.reply, stop=()), policy=PolicyOptions(),
        )  # fmt: skip

    # ------------------------------------------------------------ theirs

    def trl(self) -> tuple[Any, Callable[[], None]]:
        """TRL's trainer, and its step."""
        from trl import GRPOConfig, GRPOTrainer

        rows = [
            {"prompt": [_text_alone(p)], "image": p.side.images[0].load(), "pair": p.pair, "role": p.role}
            for p in self.prompts
        ]
        batch = [row for row in rows for _ in range(self.group)]
        config = GRPOConfig(
            output_dir=str(self.folder), per_device_train_batch_size=len(batch), num_generations=self.group,
            max_completion_length=self.reply, beta=KL, loss_type="grpo", epsilon=0.2, temperature=1.0, use_cpu=True,
            report_to=[], gradient_checkpointing=False, bf16=False, max_steps=1, logging_steps=10**6,
            use_bias_correction_kl=False,  # Eq. 6 weights the KL by nothing
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=AutoModelForImageTextToText.from_pretrained(self.path),
            reward_funcs=self._reward(),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in rows]),
            processing_class=self.generator.processor,
            peft_config=self.generator.network.peft_config["default"],
        )
        trainer.model.load_state_dict(self.generator.network.state_dict())
        suppressed = torch.tensor(self.generator.suppressed)
        trainer.model.get_output_embeddings().register_forward_hook(
            lambda module, args, logits: logits.index_fill_(-1, suppressed, torch.finfo(logits.dtype).min)
        )
        trainer.current_gradient_accumulation_steps = 1
        optimizer = Optimizer([p for p in trainer.model.parameters() if p.requires_grad])

        def step() -> None:
            trainer.model.train()
            optimizer.zero_grad()
            trainer.training_step(trainer.model, batch, None)
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
            optimizer.step()

        return trainer, step

    def _reward(self) -> Callable[..., list[float]]:
        embedder, reward = self._embedder(False), Nearness()

        def nearness(prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
            rollouts = [
                Rollout(pair, role, i % self.group, tuple(ids), (), reply[0]["content"])
                for i, (pair, role, ids, reply) in enumerate(
                    zip(columns["pair"], columns["role"], completion_ids, completions, strict=True)
                )
            ]
            values = reward(make_step(self.pairs, self.prompts, rollouts, embedder, CPU, 0)).values
            return [float(values[rollout.id] or 0.0) for rollout in rollouts]

        return nearness

    def losses(self, trainer: Any) -> tuple[float, float]:
        """Our loss and TRL's on the rollouts and advantages of TRL's last step."""
        inputs = trainer._buffered_inputs[0]
        with torch.no_grad():
            theirs = float(trainer.compute_loss(trainer.model, inputs))
        policy = Policy(self.generator, PolicyOptions())
        prompts = self.prompts
        read = [p.inputs["input_ids"][0].tolist() for p in prompts]
        rows = [read.index(ids) for ids in inputs["prompt_ids"].tolist()]
        members = [[i for i, row in enumerate(rows) if row == number] for number in range(len(prompts))]
        groups = [
            Group(p.chat, [inputs["completion_ids"][i].tolist() for i in group])
            for p, group in zip(prompts, members, strict=True)
        ]
        ours = 0.0
        for batch in policy.batches(groups):
            with torch.no_grad():
                found = policy.log_probs(batch)
            advantages = torch.stack([inputs["advantages"][members[group][i]] for group, i in batch.replies])
            reference = policy.reference_log_probs(batch).logprobs
            ours += float(
                GRPOLoss(kl_coefficient=KL)(
                    found.logprobs, found.logprobs, advantages, found.mask, reference, count=len(rows)
                )[0]
            )
        return ours, theirs


def _text_alone(prompt: Prompt) -> dict[str, str]:
    """The prompt's turn as TRL wants it: the picture, which comes first, is a column of its own."""
    [text] = [part["text"] for part in prompt.chat[0]["content"] if part["type"] == "text"]
    return {"role": "user", "content": text}


def endless(pairs: list[Pair]) -> Iterator[PairBatch]:
    """The same pairs at every step."""
    while True:
        yield PairBatch(pairs, "noise")


def measure(setting: Setting, repeats: int) -> list[Row]:
    """Both rows."""
    trainer, step = setting.trl()
    preparation, module = Preparation(), setting.module()
    beside = Beside({PEER: preparation.uncounted(step)})
    phases = {name: f"time/{name}_tokens_per_s" for name in ("rollout", "reward", "policy")}
    lightning = quiet_trainer(setting.folder, 1 + repeats, beside, preparation)
    with preparation.watching():
        lightning.fit(module, endless(setting.pairs))
    tokens = 2 * len(setting.pairs) * setting.group * setting.reply
    ours, theirs = setting.losses(trainer)
    spent = {name: tokens / float(lightning.callback_metrics[metric]) for name, metric in phases.items()}
    parts = " + ".join(f"{spent[name]:.2f}" for name in phases)
    return [
        {"step": OURS, "CPU s": seconds(beside.seconds[OURS]), "ours / it": "", "loss off by": "",
         "rollout + reward + policy, wall s": parts, "preparation, CPU s": preparation.seconds(),
         "of the step": preparation.share(beside.seconds[OURS])},
        {"step": PEER, "CPU s": seconds(beside.seconds[PEER]),
         "ours / it": ratio(beside.seconds[OURS], beside.seconds[PEER]), "loss off by": abs(ours - theirs),
         "rollout + reward + policy, wall s": "", "preparation, CPU s": "", "of the step": ""},
    ]  # fmt: skip


def main(
    model: Literal["tiny", "130m"] = "tiny",
    pairs: int = 2,
    group: int = 8,
    prompt: int = 512,
    reply: int = 128,
    image_tokens: int = 256,
    repeats: int = 7,
    size: Literal["full", "smallest"] = "full",
    out: Path | None = None,
) -> None:
    """Measure, and print the table as Markdown.

    Args:
        model: Which Qwen3-VL.
        pairs: Pairs in a step; each has two prompts.
        group: Rollouts a prompt (G).
        prompt: Tokens of a prompt.
        reply: Tokens of a reply.
        image_tokens: Tokens of a prompt's picture, a square number.
        repeats: Rounds.
        size: `smallest` takes one round of short replies.
        out: Folder for the results; None only prints.
    """
    torch.set_num_threads(1)
    if size == "smallest":
        pairs, group, prompt, reply, image_tokens, repeats = 1, 2, 64, 4, 9, 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        setting = Setting(write(model, folder), folder, pairs, group, prompt, reply, image_tokens)
        rows = measure(setting, repeats)
    asked = {"prompts": 2 * pairs, "G": group, "prompt": prompt, "reply": reply, "image_tokens": image_tokens}
    title = "egrl_step" if model == "tiny" else f"egrl_step_{model}"
    report(title, rows, out, "trl", model=model, **asked, repeats=repeats)


if __name__ == "__main__":
    auto_cli(main)
