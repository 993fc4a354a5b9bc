"""`python -m napari_histolatent.annotations REQUEST OUT`: the process that `read_beside` starts."""

import sys

from napari_histolatent.annotations._child import main

sys.exit(main(sys.argv[1:]))
