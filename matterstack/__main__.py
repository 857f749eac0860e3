"""`matterstack` and `python -m matterstack`: also a Ctrl-C while modules are still loaded ends without a traceback."""

import gc
import sys


def start() -> None:
    """Run the command line."""
    # A campaign of 100,000 instances is millions of objects that all stay: looking through them takes a fifth of `init`.
    gc.set_threshold(100_000, 50, 50)
    try:
        from matterstack.cli.main import main

        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        gc.freeze()  # the process ends: nothing is left that would have to be looked through once more


if __name__ == "__main__":
    start()
