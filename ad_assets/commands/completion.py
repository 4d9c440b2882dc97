"""``completion``: a script by which bash and zsh complete commands and options."""

from __future__ import annotations

import argparse

from ad_assets.commands.common import Commands
from ad_assets.commands.examples import commands_of

# Of two words of a command the first lists those that may follow; then options, and files by the shell itself.
_SCRIPT = """# Completion of ad-assets for bash; in zsh after: autoload -U bashcompinit; bashcompinit
_ad_assets() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{two}
    *) case "${{COMP_WORDS[1]}}" in
{one}
    esac ;;
  esac
  [ "$COMP_CWORD" -eq 1 ] && words="{names}"
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _ad_assets ad-assets
"""


def add(commands: Commands) -> None:
    """Add the command."""
    commands.add("completion", _completion, "print a script with which bash and zsh complete commands and options")


def _completion(options: argparse.Namespace) -> int:
    found = {tuple(words.split()): command for words, command in commands_of(options.whole_parser())}
    names = dict.fromkeys(words[0] for words in found)
    two = [f'    "{" ".join(words)}") words="{_options(command)}" ;;' for words, command in found.items() if words[1:]]
    one = []
    for name in names:
        below = [words[1] for words in found if words[0] == name and words[1:]]
        one.append(f'      {name}) words="{" ".join(below) or _options(found[name,])}" ;;')
    print(_SCRIPT.format(two="\n".join(two), one="\n".join(one), names=" ".join(names)), end="")
    return 0


def _options(command: argparse.ArgumentParser) -> str:
    return " ".join(option for action in command._actions for option in action.option_strings if option[:2] == "--")
