"""`matterstack` and `python -m matterstack`: also a Ctrl-C while modules are still loaded ends without a traceback."""

import sys


def start() -> None:
    """Run the command line."""
    try:
        from matterstack.cli.main import main

        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    start()
