"""`actune serve`: its flags, and one call."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from actune.cli.agents import Adapter, Base, DtypeName
from actune.cli.commands import (
    ChatTemplate,
    Dialect,
    HistoryReasoning,
    Model,
    Now,
    RawControlTokens,
    TemplateVariables,
)


def serve(  # noqa: PLR0913 - one parameter a flag
    *,
    model: Model,
    adapter: Adapter = None,
    base: Base = False,
    dtype: DtypeName = "AUTO",
    host: Annotated[
        str, Parameter(help="Address to listen at; beyond this machine an API key is needed.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="0: a free one, which is printed.")] = 8000,
    api_key_env: Annotated[str | None, Parameter(help="Environment variable that holds the API key.")] = None,
    no_api_key: Annotated[bool, Parameter(help="Let other machines ask without a key.")] = False,
    allow_origin: Annotated[
        list[str] | None, Parameter(consume_multiple=True, help="Pages of other servers that may ask, or *.")
    ] = None,
    concurrency: Annotated[int, Parameter(help="Answers generated at a time, of both models together.")] = 8,
    queue: Annotated[int, Parameter(help="Requests that may wait; further ones are answered 429.")] = 64,
    max_tokens: Annotated[int, Parameter(help="Tokens of an answer where the request does not say.")] = 1024,
    max_seconds: Annotated[float, Parameter(help="Seconds for an answer, waiting included.")] = 600.0,
    temperature: Annotated[
        float, Parameter(help="Where the request does not say; 0: the likeliest token always.")
    ] = 0.0,
    top_p: Annotated[float, Parameter(help="Where the request does not say.")] = 1.0,
    max_body: Annotated[int, Parameter(help="Bytes of a request.")] = 4_000_000,
    body_seconds: Annotated[float, Parameter(help="Seconds in which a request has to come.")] = 30.0,
    send_seconds: Annotated[float, Parameter(help="Seconds that a client may leave an answer unread.")] = 60.0,
    grace_seconds: Annotated[float, Parameter(help="Seconds to finish answers after Ctrl-C or SIGTERM.")] = 30.0,
    dialect: Dialect = None,
    chat_template: ChatTemplate = None,
    now: Now = None,
    history_reasoning: HistoryReasoning = None,
    raw_control_tokens: RawControlTokens = False,
    template_variables: TemplateVariables = None,
) -> int:
    """Answer OpenAI's API with a model, and with its base beside it."""
    from actune import recipes
    from actune.agents.engines.engine import Sampling
    from actune.agents.loop import Limits
    from actune.recipes.serve import Door

    choice = recipes.Choice(
        model=model,
        adapter=adapter,
        base=base,
        dtype=dtype,
        dialect=dialect,
        chat_template=chat_template,
        now=now,
        history_reasoning=history_reasoning,
        raw_control_tokens=raw_control_tokens,
        template_variables=tuple(template_variables or ()),
        limits=Limits(output_tokens=max_tokens, seconds=max_seconds),
        sampling=Sampling(temperature=temperature, top_p=top_p),
    )
    door = Door(
        host=host,
        port=port,
        key_variable=api_key_env,
        no_key=no_api_key,
        origins=tuple(allow_origin or ()),
        concurrency=concurrency,
        queue=queue,
        max_body=max_body,
        body_seconds=body_seconds,
        send_seconds=send_seconds,
        grace_seconds=grace_seconds,
    )
    return recipes.serve(choice, door)
