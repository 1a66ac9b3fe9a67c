from .collection import PairSet as PairSet
from .collection import SplitPairs as SplitPairs
from .folders import from_folder as from_folder
from .folders import from_videos as from_videos
from .hf_dataset import from_dataset as from_dataset
from .pages import from_pages as from_pages
from .shards import from_webdataset as from_webdataset
from .tables import from_csv as from_csv
