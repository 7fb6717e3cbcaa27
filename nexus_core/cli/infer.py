"""`nexus infer`: ask a bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nexus import NexusModel

MAX_INPUT = 16 << 20  # bytes of a prompt or of a file of tools; no model here reads a hundredth of it


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="What is asked; `-` reads it from the standard input.")
@click.option("--capability", help="Who answers, by its name or alias; without it the router chooses.")
@click.option(
    "--fallback", type=click.Choice(["backbone"]), help="Who answers when the router recognises no capability."
)
@click.option(
    "--tools",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A JSON file with a list of tools; the answer is then a call of one of them.",
)
@click.option("--stream", is_flag=True, help="Print the answer while it is written.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, with the capability and the router's view.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Default: what the capability was verified with.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--stop", multiple=True, help="End the answer before this text; may be given more than once.")
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--enable-uncensored", is_flag=True, help="Allow an isolated capability, which must also be named.")
@click.option("--no-verify", is_flag=True, help="Do not compare the files with their hashes.")
def command(bundle: Path, **options: Any) -> None:
    """Ask BUNDLE a prompt and print the answer.

    \b
    Examples:
      nexus infer nexus_bundle_v1 --capability reasoning --prompt "Tom has 3 apples ..."
      nexus infer nexus_bundle_v1 --prompt - < question.txt
      nexus infer nexus_bundle_v1 --capability tools --tools tools.json --prompt "Weather in Oslo?"
      nexus infer nexus_bundle_v1 --capability code --stream --prompt "Write a function that ..."
    """
    from nexus_core.errors import UsageError

    if options["stream"] and options["as_json"]:
        raise UsageError("--stream and --json exclude each other", "a JSON document is printed whole")
    prompt = _prompt(options["prompt"])
    tools = None if options["tools"] is None else _tools(options["tools"])
    from nexus import NexusModel

    model = NexusModel.load(bundle, options["device"], verify=not options["no_verify"])
    asked: dict[str, Any] = {
        "capability": options["capability"],
        "tools": tools,
        "fallback": options["fallback"],
        "enable_uncensored": options["enable_uncensored"],
        **{name: options[name] for name in ("max_new_tokens", "temperature", "top_p", "seed")},
    }
    if options["stop"]:
        asked["stop"] = options["stop"]
    if options["stream"]:
        for piece in model.stream(prompt, **asked):
            click.echo(piece, nl=False)
        click.echo()
    else:
        _answer(model, prompt, asked, options["as_json"])


def _answer(model: NexusModel, prompt: str, asked: dict[str, Any], as_json: bool) -> None:
    from nexus import ToolCall

    given: Any = model.generate(prompt, **asked)
    answer = {"name": given.name, "arguments": given.arguments} if isinstance(given, ToolCall) else given
    if not as_json:
        click.echo(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False))
        return
    route = None if asked["capability"] is not None else model.route(prompt, tools=asked["tools"])
    document = {
        "capability": model.resolve(asked["capability"]) if route is None else route.capability,
        "router": None if route is None else {"reason": route.reason, "probabilities": dict(route.probabilities)},
        "tool_call" if asked["tools"] is not None else "text": answer,
    }
    click.echo(json.dumps(document, ensure_ascii=False))


def _prompt(given: str) -> str:
    """The prompt, or what stands on the standard input without its last line break."""
    from nexus_core.errors import UsageError

    if given != "-":
        return given
    raw = sys.stdin.buffer.read(MAX_INPUT + 1)
    if len(raw) > MAX_INPUT:
        raise UsageError(f"the prompt has more than {MAX_INPUT:,} bytes", "no model here reads as much")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt on the standard input is no UTF-8: {error}", "convert it first") from error
    return text.removesuffix("\n").removesuffix("\r")


def _tools(path: Path) -> Any:
    from nexus_core.errors import UsageError

    if path.stat().st_size > MAX_INPUT:
        raise UsageError(f"{path} has more than {MAX_INPUT:,} bytes", "no prompt holds as many tools")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {str(error)[:200]}", "write a list of tools") from error
