import copy

import torch

from embedrl.models.qwen_vl.patch_embedding import PatchConv3d, make_linear


def test_patches_are_multiplied_as_a_convolution_would():
    plain = torch.nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4))
    other = torch.nn.Conv3d(3, 8, (2, 4, 4))
    network = torch.nn.ModuleList([copy.deepcopy(plain), other])
    make_linear(network)
    conv = network[0]
    assert [type(module) for module in network] == [PatchConv3d, torch.nn.Conv3d]
    patches = torch.randn(7, 3, 2, 4, 4)
    torch.testing.assert_close(conv(patches), plain(patches), atol=1e-6, rtol=0)
    assert conv(patches).shape == plain(patches).shape
    assert torch.equal(copy.deepcopy(conv)(patches), conv(patches))
    assert conv.state_dict().keys() == plain.state_dict().keys()
