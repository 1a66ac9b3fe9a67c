from .parser import parse as parse
from .schema import Cues as Cues
from .schema import ParseResult as ParseResult
from .schema import TCoT as TCoT
from .store import TCoTJournal as TCoTJournal
