"""The command `loragate`. Subcommands are imported when they are asked for, so `--help` is instant."""

from __future__ import annotations

import importlib

import click

from server.errors import LoragateError

#: Subcommand → (module, attribute, one line of help).
COMMANDS = {
    "serve": ("server.cli.serve", "serve", "Start the server."),
    "plan": ("server.cli.plan", "plan", "Plan memory: what fits, and what to change when it does not."),
    "inspect": ("server.cli.inspect_model", "inspect", "Show a model's architecture, or check an adapter."),
    "adapter": (
        "server.cli.adapters.adapter",
        "adapter",
        "Add, list, show, promote, split, roll back, pin, remove.",
    ),
    "tenant": (
        "server.cli.tenants.tenant",
        "tenant",
        "Add, list, show, change and remove tenants; their usage.",
    ),
    "key": ("server.cli.tenants.key", "key", "Make, list and revoke API keys."),
    "feedback": (
        "server.cli.tenants.feedback",
        "feedback",
        "List what users said; export chats to train on.",
    ),
    "train": ("server.cli.train", "train", "Train an adapter from a JSONL of chats."),
    "quantize": ("server.cli.quantize", "quantize", "Make a 4-bit AWQ checkpoint of a model."),
    "bench": ("server.cli.bench", "bench", "Run a benchmark."),
    "migrate": ("server.cli.migrate", "migrate", "Bring the database's schema up to date."),
    "version": ("server.cli.version", "version", "Print the versions of loragate and vLLM."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; what we foresaw ends in one sentence and exit code 1, not in a traceback."""
        try:
            return super().invoke(ctx)
        except LoragateError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="loragate", prog_name="loragate")
def main() -> None:
    """One base model, many customers, each with hot-swapped LoRA adapters."""
