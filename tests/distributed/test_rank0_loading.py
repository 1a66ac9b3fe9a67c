"""One process reads the weights, the others receive them: the same models, and no file opened."""

import shutil
from pathlib import Path

import dist_broadcast
import pytest
import torch
from dist_broadcast import CASES, LORA
from processes import finish, launch
from real_checkpoints import LAYOUTS, Layout, write
from safetensors.torch import load_file, save_file

from embedrl.models.qwen_vl.backbone import QwenVLBackbone

LARGE = Layout(
    ("the", "red", "star"),
    9,
    True,
    text={
        "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [16, 8, 8], "rope_type": "default"},
    },
    vision={"out_hidden_size": 256},
)  # fmt: skip


def write_all(folder: Path) -> None:
    """The checkpoints, in a folder for each rank; rank 1's hold no weights."""
    first = folder / "rank0"
    for name, layout in LAYOUTS.items():
        write(first / name, layout)
    write(first / "large", LARGE)
    write(first / "halves", LAYOUTS["tied, room to spare"])
    for file in (first / "halves").glob("*.safetensors"):
        save_file({k: v.bfloat16() for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    (first / "halves/generation_config.json").write_text('{"repetition_penalty": 1.3, "top_k": 7}')
    adapted = QwenVLBackbone(str(first / "tied, room to spare"), lora=LORA)
    adapted.build()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.export(first / "adapter", merge=False)
    for name in ("broken", "other"):
        shutil.copytree(first / "tied, room to spare", first / name)
    broken = next((first / "broken").glob("*.safetensors"))
    save_file(dict(list(load_file(broken).items())[1:]), broken, metadata={"format": "pt"})
    shutil.copytree(first, folder / "rank1", ignore=shutil.ignore_patterns("model*.safetensors", "adapter_model*"))
    adapter = folder / "rank1/adapter/adapter_config.json"
    adapter.write_text(adapter.read_text().replace("rank0", "rank1"))
    config = folder / "rank1/other/config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 160', '"intermediate_size": 168'))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, out = tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("ranks")
    write_all(folder)
    finish(launch("dist_broadcast", folder, out, log=out), out)
    return folder, out


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["", "frozen "])
def test_the_model_is_that_of_one_process(kind, case, runs):
    folder, out = runs
    model = dist_broadcast.make(case, folder / "rank0")
    model.build()
    expected = {"weights": model.state_dict(), "vectors": dist_broadcast.look(model), **dist_broadcast.facts(model)}
    for rank in (0, 1):
        found = torch.load(out / f"{kind}{case}.{rank}.pt", weights_only=True)
        assert found["trained"] == expected["trained"]
        assert found["generation"] == expected["generation"]
        if kind or rank == 0:  # shards are gathered on rank 0
            assert found["weights"].keys() == expected["weights"].keys()
            for name, value in expected["weights"].items():
                assert found["weights"][name].dtype == value.dtype
                assert torch.equal(found["weights"][name], value), name
        assert found["tied"] == expected["tied"]
        if kind or all(value.dtype == torch.float32 for value in expected["weights"].values()):
            # A sharded model of half precision computes in its strategy's. Where weights lie decides on rounding.
            torch.testing.assert_close(found["vectors"], expected["vectors"], rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("broken", ["rank0/broken: missing keys in the weights: "]),
        ("other", ["process 1 built another model than process 0: ", ".mlp."]),
    ],
)
def test_what_one_process_refuses_is_one_error_on_all(runs, case, words):
    _, out = runs
    told = [(out / f"{case}.{rank}.txt").read_text() for rank in (0, 1)]
    assert told[0] == told[1]
    for word in words:
        assert word in told[0]


@pytest.mark.slow
@pytest.mark.dist
def test_only_one_process_ever_holds_all_weights(runs):
    """In sizes of the model: half of it is what stays on each of the two."""
    _, out = runs
    first, second = (float((out / f"peak.{rank}.txt").read_text()) for rank in (0, 1))
    assert first > 1
    assert second < 0.8
