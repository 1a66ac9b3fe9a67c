from .add import Added as Added
from .hits import Hit as Hit
from .hits import Hits as Hits
from .index import Index as Index
from .verify import Verified as Verified
