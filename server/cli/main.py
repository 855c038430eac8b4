"""The command `loragate`. A subcommand is imported on its first use, so that `--help` is fast."""

from __future__ import annotations

import importlib

import click
from click.shell_completion import CompletionItem

from adapters.errors import AdapterError
from server.errors import LoragateError

#: Subcommand, which is also the name of the command in its module → (module, one line of help).
COMMANDS = {
    "serve": ("server.cli.cluster.serve", "Start the server."),
    "deploy": ("server.cli.cluster.deploy", "Run servers on a Ray cluster, or change those that run."),
    "front": ("server.cli.cluster.front", "Start a front of the servers on a Ray cluster."),
    "cluster": ("server.cli.cluster.cluster", "Show the servers of a cluster; drain one."),
    "plan": ("server.cli.plan", "Plan memory: what fits, and what to change if it does not."),
    "inspect": ("server.cli.inspect_model", "Show a model's architecture, or check an adapter."),
    "adapter": (
        "server.cli.adapters.adapter",
        "Add, list, show, promote, split, roll back, pin, remove and merge adapters.",
    ),
    "tenant": ("server.cli.tenants.tenant", "Add, list, show, change and remove tenants; show their usage."),
    "key": ("server.cli.tenants.key", "Create, list, rotate and revoke API keys."),
    "price": ("server.cli.billing.price", "Set, end and list prices per million tokens."),
    "webhook": ("server.cli.billing.webhook", "Tell others of used budgets, rollbacks and engine trouble."),
    "usage": ("server.cli.tenants.usage", "Show what tenants, or their keys, have used, and what it costs."),
    "audit": ("server.cli.tenants.audit", "Search and export the log of changes."),
    "feedback": ("server.cli.tenants.feedback", "List users' feedback; export chats for training."),
    "train": ("server.cli.train", "Train an adapter from a JSONL file of chats."),
    "quantize": ("server.cli.quantize", "Write a 4-bit AWQ checkpoint of a model."),
    "bench": ("server.cli.tools.bench", "Run a benchmark."),
    "migrate": ("server.cli.migrate", "Update the database's schema."),
    "completion": ("server.cli.tools.completion", "Print or install tab completion for the shell."),
    "version": ("server.cli.tools.version", "Print the versions of loragate and vLLM."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands that begin so, without importing them."""
        names = (name for name in COMMANDS if name.startswith(incomplete))
        found = [CompletionItem(name, help=COMMANDS[name][1]) for name in names]
        return found or super().shell_complete(ctx, incomplete)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an expected error ends in one sentence and exit code 1, not in a traceback."""
        try:
            return super().invoke(ctx)
        except (LoragateError, AdapterError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="loragate", prog_name="loragate")
def main() -> None:
    """One base model, many customers, each with hot-swapped LoRA adapters."""
