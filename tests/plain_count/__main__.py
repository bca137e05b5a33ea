"""Print the figures of files as JSON: ``python -m plain_count FILE…``."""

import json
import sys

from plain_count import count_file

for path in sys.argv[1:]:
    print(json.dumps({"path": path, **count_file(path)}, indent=1))
