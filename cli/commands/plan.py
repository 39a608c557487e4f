"""`helios plan`: what a run of a DAG would cost, before it is run."""

from typing import Annotated

from cyclopts import Parameter

from cli.commands.run import check
from cli.commands.runs import paint
from cli.connection import REDIS_AND_S3, connected
from cli.failure import RUN_FAILED, SUCCEEDED
from cli.forecast_text import forecast_lines, forecast_object
from cli.object_store import storing
from cli.output import Format, harmless, put, put_json
from cli.submission import File, Params, name_of, read_dag, read_param_options


def plan(
    file: File,
    /,
    *,
    no_cache: Annotated[bool, Parameter(negative=())] = False,
    no_memoize: Annotated[bool, Parameter(negative=())] = False,
    param: Params = (),
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Say what a run of a DAG would cost: which inputs are on which node, what would be fetched, what would be skipped,
    and how long it would take going by earlier runs. Nothing is run.

    Exit code 1 if an external input is not there, so that the run would fail.

    Parameters
    ----------
    file
        The DAG, as YAML or JSON; - for standard input.
    no_cache
        As for `helios run`: every input is fetched anew.
    no_memoize
        As for `helios run`: no task is skipped.
    param
        As for `helios run`: -p NAME=VALUE.
    output
        table for people, json for one object with every task and input.
    """
    from cli.prospect import prospect

    parsed = check(read_dag(file), name_of(file), read_param_options(param))
    with connected(REDIS_AND_S3) as link, storing(link.settings):
        forecast = prospect(
            link, parsed.dag, cache_enabled=parsed.dag.use_cache and not no_cache, memoize=not no_memoize
        )
    if output == "json":
        put_json(forecast_object(forecast))
    else:
        put("\n".join(harmless(line) for line in forecast_lines(forecast, paint)))
    return RUN_FAILED if forecast.missing else SUCCEEDED
