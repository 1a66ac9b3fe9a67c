"""Run by test_broadcast.py once per rank: models whose weights rank 0 reads; rank 1's folders hold none.

python dist_broadcast.py FOLDER OUT
"""

import os
import resource
import sys
from pathlib import Path

import torch
from qwen_helpers import EMB, image, text, user
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh

from embedrl.distributed.fsdp2 import shard_model
from embedrl.distributed.rank0_loading import build_once, receive
from embedrl.errors import CheckpointError
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.models.sampling import SamplingOptions

LORA = LoRAOptions(r=4, alpha=8, dropout=0.1, scope="all-linear")
CASES = {
    "tied": (QwenVLBackbone, "tied, room to spare", {"train_vision": True}),
    "grown, lora": (QwenVLBackbone, "untied, must grow", {"lora": LORA, "gradient_checkpointing": True}),
    "grown, half": (QwenVLBackbone, "untied, must grow", {"dtype": "bfloat16"}),
    "half, lora": (QwenVLReasoner, "released Embedder", {"dtype": "bfloat16", "lora": LORA}),
    "auto": (QwenVLReasoner, "halves", {"dtype": "auto"}),
    "adapter": (QwenVLBackbone, "adapter", {}),
    "random": (QwenVLReasoner, "embedrl:tiny", {"lora": LORA}),
}
"""A model, the folder of its checkpoint, its options."""
CHAT = [user(image(0), text("the red star")), EMB]


def make(case, folder):
    """The model of a case, not built; adapters begin with the same numbers everywhere."""
    kind, name, options = CASES[case]
    torch.manual_seed(3)
    return kind(name if ":" in name else str(folder / name), **options)


def look(model):
    """What the model makes of a chat: this needs the buffers that no state dict has."""
    model.eval()
    with torch.no_grad():
        if isinstance(model, QwenVLBackbone):
            return model(model.preprocessor()([CHAT]))
        inputs = model.preprocessor().prompts([CHAT[:1]])
        return torch.tensor(model.sample(inputs, 1, [5], SamplingOptions(max_new_tokens=4))[0][0].logprobs)


def facts(model):
    """What a process must have besides the weights."""
    network = model.network
    tied = network.get_input_embeddings().weight is network.get_output_embeddings().weight
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    return {"tied": tied, "trained": trained, "generation": network.generation_config.to_diff_dict()}


def message(call):
    try:
        call()
    except CheckpointError as error:
        return str(error)
    return ""


def peak():
    """The most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(folder, out):
    rank = int(os.environ["RANK"])
    mine = folder / f"rank{rank}"
    torch.distributed.init_process_group("gloo")
    mesh, cpu = init_device_mesh("cpu", (2,)), torch.device("cpu")
    for case in CASES:
        model = make(case, mine)
        weights = build_once(model)
        assert bool(weights) == (rank == 0)
        shard_model(model, mesh)
        receive(model, weights, cpu)
        del weights
        whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        torch.save({"weights": whole, "vectors": look(model), **facts(model)}, out / f"{case}.{rank}.pt")
        frozen = make(case, mine)
        receive(frozen, build_once(frozen), cpu)
        found = {"weights": frozen.state_dict(), "vectors": look(frozen), **facts(frozen)}
        torch.save(found, out / f"frozen {case}.{rank}.pt")
    for name in ("broken", "other"):
        told = message(lambda name=name: build_once(QwenVLBackbone(str(mine / name))))
        (out / f"{name}.{rank}.txt").write_text(told)
    before, model = peak(), QwenVLBackbone(str(mine / "large"))
    weights = build_once(model)
    shard_model(model, mesh)
    receive(model, weights, cpu)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    (out / f"peak.{rank}.txt").write_text(f"{(peak() - before) / size}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
