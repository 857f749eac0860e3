"""`python -m matterstack`."""

from matterstack.cli.main import main

main()
