from .contrastive import ContrastiveLoss as ContrastiveLoss
from .contrastive import InfoNCE as InfoNCE
from .contrastive import PairKeys as PairKeys
