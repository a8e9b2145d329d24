"""`mochi serve`, `mochi token`, `mochi audit`: a server here, who may use it, and who did."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mochi.cli import options as o
from mochi.cli.say import print_json, say
from mochi.core.errors import RequestError

if TYPE_CHECKING:
    from mochi.serving.settings import ServeSettings
    from mochi.serving.store.tokens import TokenRow, Tokens

Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the queue and the videos; serve.toml in it holds further settings. "
        "[default: mochi-data]",
        metavar="DIR",
    ),
]
Database = Annotated[
    str | None,
    typer.Option(help="postgresql://..., for several servers; else SQLite.", metavar="URL"),
]
Served = Annotated[
    str | None,
    typer.Option(help="[cyan]nano[/cyan], a folder with weights, or a hub name.", metavar="NAME"),
]
token = typer.Typer(
    help="Who may use a server.\n\n[dim]Example:[/dim]  mochi token create --scope run",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def serve(
    host: Annotated[str | None, typer.Option(help="[default: 127.0.0.1]", metavar="HOST")] = None,
    port: Annotated[int | None, typer.Option(help="[default: 8000]", metavar="N")] = None,
    data: Data = None,
    model: Served = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="What clients call the model. [default: genmoai/mochi-1]", metavar="OWNER/NAME"
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="One runner for each; may be repeated. [default: auto]", metavar="DEVICE"
        ),
    ] = None,
    database: Database = None,
    public_url: Annotated[
        str | None,
        typer.Option(help="What clients reach the server by, behind a proxy.", metavar="URL"),
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """Serve videos: a playground, two HTTP dialects, a queue that loses nothing.

    [dim]Example:[/dim]  mochi serve --port 8000 --data mochi-data
    """
    settings = _settings(
        host=host,
        port=port,
        data=data,
        models=_models(model, name),
        devices=device or None,
        database=database,
        public_url=public_url,
    )
    from mochi.serving.server import serve as run_server

    def tell(url: str) -> None:
        if not quiet:
            print(f"Mochi is at {url}", flush=True)

    run_server(settings, tell)


def _models(model: str | None, name: str | None) -> list[dict[str, str]] | None:
    if model is None and name is None:
        return None
    said = {"source": model, "name": name}
    return [{key: value for key, value in said.items() if value is not None}]


def _settings(**said: Any) -> ServeSettings:
    """The settings of a server.

    Raises:
        RequestError: one is not possible, or the packages for serving are not installed.
    """
    try:
        import fastapi  # noqa: F401 - is the extra installed?

        from mochi.serving.settings import read_settings
    except ImportError as error:
        rule = "is not installed: pip install 'mochi-video[serve]'"
        raise RequestError("serve", error.name, rule) from None
    return read_settings(**said)


def audit(
    count: Annotated[int, typer.Option(help="How many lines.", metavar="N", min=1)] = 100,
    data: Data = None,
    database: Database = None,
    json_output: o.Json = False,
) -> None:
    """Who did what on a server, the newest first. Prompts are in it as hashes alone.

    [dim]Example:[/dim]  mochi audit --count 20
    """
    settings = _settings(data=data, database=database)
    from mochi.serving.opening import open_database
    from mochi.serving.store.audit import Audit

    lines = Audit(open_database(settings)).latest(count)
    if json_output:
        print_json([dict(line) for line in lines])
        return
    for line in lines:
        when = datetime.fromtimestamp(line["at"], UTC)
        detail = " ".join(f"{name}={value}" for name, value in line["detail"].items())
        which = line["prediction"] or "-"
        print(f"{when:%Y-%m-%d %H:%M:%S}  {line['action']}  {line['account']}  {which}  {detail}")


@token.command()
def create(
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="read, run, metrics or admin; may be repeated. [default: run]", metavar="SCOPE"
        ),
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(
            help="Tokens of one account see the same videos; a new one by default.", metavar="NAME"
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(help="Jobs that run at once; more wait. [default: any]", metavar="N"),
    ] = None,
    seconds_per_day: Annotated[
        float | None,
        typer.Option(help="Of a device, within 24 hours. [default: any]", metavar="SECONDS"),
    ] = None,
    priority: Annotated[
        int, typer.Option(help="Jobs of a higher one go first, -100 to 100.", metavar="N")
    ] = 0,
    data: Data = None,
    database: Database = None,
) -> None:
    """Make a token, and print it: this once, it is kept as a hash alone.

    [dim]Example:[/dim]  mochi token create --scope run --concurrency 2
    """
    tokens = _tokens(data, database)
    from mochi.serving.store.tokens import Allowance

    allowance = Allowance(concurrency, seconds_per_day, priority)
    print(tokens.create(scope or ["run"], account, allowance))


@token.command("list")
def list_tokens(data: Data = None, database: Database = None, json_output: o.Json = False) -> None:
    """Every token, by its id.

    [dim]Example:[/dim]  mochi token list
    """
    rows = _tokens(data, database).all()
    if json_output:
        print_json([vars(row) for row in rows])
        return
    for row in rows:
        state = "revoked" if row.revoked_at else "valid"
        made = datetime.fromtimestamp(row.created_at, UTC)
        limits = _limits(row)
        print(f"{row.id}  {state}  {made:%Y-%m-%d}  {row.account}  {','.join(row.scopes)}{limits}")


@token.command()
def revoke(
    token_id: Annotated[str, typer.Argument(help="As `mochi token list` shows it.", metavar="ID")],
    data: Data = None,
    database: Database = None,
) -> int:
    """Make a token worthless, at once.

    [dim]Example:[/dim]  mochi token revoke jq6kx2r7ctn5lx4pw3cm5zqyfu
    """
    if _tokens(data, database).revoke(token_id):
        return 0
    say(f"error: there is no valid token {token_id}")
    return 1


def _limits(row: TokenRow) -> str:
    said = {
        "at once": row.concurrency,
        "s a day": row.seconds_per_day,
        "priority": row.priority or None,
    }
    return "".join(f"  {value:g} {name}" for name, value in said.items() if value is not None)


def _tokens(data: Path | None, database: str | None) -> Tokens:
    settings = _settings(data=data, database=database)
    from mochi.serving.opening import open_database
    from mochi.serving.store.tokens import Tokens

    return Tokens(open_database(settings))
