"""`python -m server.cli`, for launchers such as accelerate that start a module."""

from server.cli.main import main

main(prog_name="loragate")
