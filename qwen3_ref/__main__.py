"""`python -m qwen3_ref`: see `commands/`."""

import sys

from qwen3_ref.commands.line import main

if __name__ == "__main__":
    sys.exit(main())
