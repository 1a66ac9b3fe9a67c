from .neighbours import MiningOptions as MiningOptions
