from .fsdp2 import FSDP2Strategy as FSDP2Strategy
