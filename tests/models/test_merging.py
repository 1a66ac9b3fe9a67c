import json
import shutil

import pytest
import torch
from peft.utils.merge_utils import ties
from safetensors.torch import load_file, save_file

from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.merging import merge_folders, slerp
from embedrl.models.qwen_vl.backbone import QwenVLBackbone

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and two models trained from it, as folders."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    backbone = QwenVLBackbone("embedrl:tiny")
    backbone.build()
    backbone.export(root / "base")
    tensors = load_file(root / "base" / WEIGHTS)
    for number, name in enumerate("ab"):
        shutil.copytree(root / "base", root / name)
        torch.manual_seed(1 + number)
        changed = {key: value + 0.1 * torch.randn_like(value) for key, value in tensors.items()}
        save_file(changed, root / name / WEIGHTS, metadata={"format": "pt"})
    return root


def merged(models, out, *names, **options):
    out.mkdir()
    merge_folders([models / name for name in names], out=out, **options)
    return load_file(out / WEIGHTS), [load_file(models / name / WEIGHTS) for name in names]


def test_linear_is_the_weighted_sum_and_the_folder_loads(models, tmp_path):
    new, (a, b) = merged(models, tmp_path / "out", "a", "b", weights=[0.25, 0.75])
    for name, tensor in new.items():
        torch.testing.assert_close(tensor, 0.25 * a[name] + 0.75 * b[name])
    backbone = QwenVLBackbone(str(tmp_path / "out"))
    backbone.build()
    state = backbone.network.state_dict()
    torch.testing.assert_close(state["model.language_model.norm.weight"], new["model.language_model.norm.weight"])
    assert (tmp_path / "out/1_Pooling/config.json").is_file()


@pytest.mark.parametrize("weights", [[1.0, 0.0], [0.0, 1.0]])
@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_a_weight_of_one_is_that_model(models, tmp_path, weights, method):
    new, sources = merged(models, tmp_path / "out", "a", "b", weights=weights, method=method)
    for name, tensor in sources[weights.index(1.0)].items():
        torch.testing.assert_close(new[name], tensor)


def test_slerp_keeps_the_norm_of_orthogonal_tensors():
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    torch.testing.assert_close(slerp(a, b, 0.5), torch.full((1, 2), 3 / 2**0.5))
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)  # parallel: linear
    torch.testing.assert_close(slerp(torch.zeros(3), torch.ones(3), 0.5), torch.full((3,), 0.5))


def test_ties_is_pefts_on_the_differences_from_the_base(models, tmp_path):
    options = {"weights": [1.0, 0.5], "method": "ties", "base": models / "base", "density": 0.3}
    new, (a, b) = merged(models, tmp_path / "out", "a", "b", **options)
    base = load_file(models / "base" / WEIGHTS)
    for name in list(new)[:5]:
        changes = [a[name] - base[name], b[name] - base[name]]
        torch.testing.assert_close(new[name], base[name] + ties(changes, torch.tensor([1.0, 0.5]), 0.3))


def test_a_model_in_several_files_and_half_precision(models, tmp_path):
    shutil.copytree(models / "a", tmp_path / "sharded")
    tensors = {name: tensor.half() for name, tensor in load_file(models / "a" / WEIGHTS).items()}
    names = sorted(tensors)
    (tmp_path / "sharded" / WEIGHTS).unlink()
    for number, part in enumerate((names[:9], names[9:]), 1):
        save_file({name: tensors[name] for name in part}, tmp_path / f"sharded/model-0000{number}-of-00002.safetensors")
    (tmp_path / "out").mkdir()
    merge_folders([tmp_path / "sharded", models / "b"], [0.5, 0.5], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.safetensors")) == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    ]  # fmt: skip
    second = load_file(models / "b" / WEIGHTS)
    for path in (tmp_path / "out").glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            assert tensor.dtype == torch.float16
            torch.testing.assert_close(tensor, ((tensors[name].float() + second[name]) / 2).half())


def broken(models, tmp_path, how):
    other = tmp_path / "other"
    shutil.copytree(models / "b", other)
    tensors = load_file(other / WEIGHTS)
    name = sorted(tensors)[0]
    if how == "shape":
        tensors[name] = tensors[name][..., :1].contiguous()
    elif how == "names":
        tensors["extra.weight"] = torch.zeros(2)
    elif how == "config":
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps({**config, "emb_token_ids": [5]}))
    elif how == "no config":
        (other / "config.json").unlink()
    elif how == "adapter":
        (other / "adapter_config.json").write_text("{}")
    save_file(tensors, other / WEIGHTS)
    if how == "cut":
        (other / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes()[:100])
    return other


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("shape", "only models of one architecture can be merged"),
        ("names", "other weights than .*extra.weight"),
        ("config", "config.json has another emb_token_ids"),
        ("no config", "no config.json: give a folder of `embedrl export`"),
        ("adapter", "a LoRA adapter; export it merged"),
        ("cut", "broken .*: export the model again"),
    ],
)
def test_refuses_what_does_not_fit(models, tmp_path, how, message):
    other = broken(models, tmp_path, how)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=message) as caught:
        merge_folders([models / "a", other], [0.5, 0.5], tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("a", {"weights": [1.0]}, "1 models: give two or more"),
        ("ab", {"weights": [1.0]}, "--weights has 1 numbers for 2 models"),
        ("ab", {"weights": [0.0, 0.0]}, "--weights"),
        ("ab", {"weights": [1.5, -0.5]}, "--weights"),
        ("ab", {"weights": [1.0, 1.0], "method": "svd"}, "--method svd merges adapters"),
        ("abb", {"weights": [1.0] * 3, "method": "slerp"}, "--method slerp takes two models, not 3"),
        ("ab", {"weights": [1.0, 1.0], "method": "ties"}, "give it as --base"),
        ("ab", {"weights": [1.0, 1.0], "density": 0.0}, "--density is 0.0"),
    ],
)
def test_refuses_flags_that_do_not_fit(tmp_path, names, options, message):
    with pytest.raises(ConfigError, match=message):
        merge_folders([tmp_path / name for name in names], out=tmp_path, **options)
