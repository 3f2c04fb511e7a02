"""The pipeline's stages, one module each, named as in dvc.yaml; their library is `distil`."""

import signal
import sys

# As a program, `python -m stages.…`: Ctrl-C during its imports ends it without a traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
