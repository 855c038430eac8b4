"""`loragate completion`: tab completion of commands, options and choices in the shell."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import get_completion_class

#: Shell → the file that it reads when it starts, below the home folder.
_START_FILES = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/completions/loragate.fish"}
_FILE = Path("~/.local/share/loragate/completion")


@click.command()
@click.argument("shell", type=click.Choice(list(_START_FILES)), required=False)
@click.option(
    "--install", is_flag=True, help="Write the script to a file, and let the shell read it at its start."
)
@click.pass_context
def completion(context: click.Context, shell: str | None, install: bool) -> None:
    """Print the script for tab completion in SHELL (default: the one in $SHELL), or install it."""
    name = shell or _current_shell()
    script = _script(context.find_root().command, name)
    if not install:
        click.echo(script)
        return
    start = Path("~").expanduser() / _START_FILES[name]
    start.parent.mkdir(parents=True, exist_ok=True)
    if name == "fish":  # reads all files of this folder
        start.write_text(script, encoding="utf-8")
    else:
        _source(start, _written(script, name))
    click.echo(f"Installed for {name}; open a new terminal, or run: source {start}")


def _current_shell() -> str:
    from server.config.environment import login_shell

    name = login_shell()
    if name not in _START_FILES:
        raise click.UsageError(f"The shell is not known; name it: {', '.join(_START_FILES)}.")
    return name


def _script(command: click.Command, shell: str) -> str:
    kind = get_completion_class(shell)
    assert kind is not None, shell
    return kind(command, {}, "loragate", "_LORAGATE_COMPLETE").source()


def _written(script: str, shell: str) -> Path:
    file = _FILE.expanduser().with_suffix(f".{shell}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(script, encoding="utf-8")
    return file


def _source(start: Path, file: Path) -> None:
    """Let the shell read the file at its start; a second time changes nothing."""
    line = f"source {file}  # loragate completion"
    before = start.read_text(encoding="utf-8") if start.exists() else ""
    if line not in before.splitlines():
        start.write_text(f"{before.rstrip(chr(10))}\n{line}\n".lstrip("\n"), encoding="utf-8")
