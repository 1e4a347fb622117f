"""`python -m mnemolite.cli`."""

from mnemolite.cli import main

main()
