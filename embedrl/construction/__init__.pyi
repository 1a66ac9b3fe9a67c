from .local_vlm import LocalVLM as LocalVLM
from .vlm import VLM as VLM
from .vlm import EndpointVLM as EndpointVLM
from .vlm import YesNo as YesNo
