"""LangChain's and LiteLLM's adapters for Mistral and OpenAI.     frameworks.py BASE_URL MODEL

Nothing but BASE_URL is asked: telemetry, price lists and tokenizers from elsewhere are off.
"""
import os
import sys

os.environ.update(
    LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_TELEMETRY="False", LANGCHAIN_TRACING_V2="false", LANGSMITH_TRACING="false",
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", NO_PROXY="*",
)
from pydantic import BaseModel, Field
from table import Table, raises

base, model = sys.argv[1:3]
table = Table()
check = table.check
SAY = "Turn on the kitchen light."
SAID = "The kitchen light is on."


class Setting(BaseModel):
    """A room and its temperature."""

    room: str = Field(max_length=8)
    degrees: int = Field(ge=0, le=99)


def only_here():
    """Refuses every connection that is not to this machine."""
    import socket

    real = socket.socket.connect

    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a connection to {address}")
        return real(self, address)

    socket.socket.connect = connect
    lookup = socket.getaddrinfo

    def here(host, *rest, **more):
        if host not in ("127.0.0.1", "::1", "localhost", None, b"127.0.0.1"):
            raise AssertionError(f"a question for the address of {host}")
        return lookup(host, *rest, **more)

    socket.getaddrinfo = here


only_here()

import httpx  # noqa: E402
import litellm  # noqa: E402
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage  # noqa: E402
from langchain_mistralai import ChatMistralAI  # noqa: E402
from langchain_openai import ChatOpenAI  # noqa: E402

litellm.telemetry = False
litellm.suppress_debug_info = True

ADAPTERS = {
    "langchain-openai": lambda **more: ChatOpenAI(base_url=base + "/v1", api_key="none", model=model, max_retries=0, **more),
    "langchain-mistralai": lambda **more: ChatMistralAI(endpoint=base + "/v1", api_key="none", model=model, max_retries=0, **more),
}
PREFIXES = {"litellm openai": ("openai/", base + "/v1"), "litellm mistral": ("mistral/", base + "/v1")}
TOOL = {
    "name": "lookup",
    "description": "Looks a city up.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def langchain(name, adapter):
    @check(f"{name}: invoke")
    def invoke():
        answer = adapter(temperature=0, max_tokens=48).invoke(SAY)
        assert answer.content == SAID
        assert answer.usage_metadata["total_tokens"] == answer.usage_metadata["input_tokens"] + answer.usage_metadata["output_tokens"]

    @check(f"{name}: stream")
    def stream():
        assert "".join(chunk.content for chunk in adapter(temperature=0, max_tokens=48).stream(SAY)) == SAID

    @check(f"{name}: async, several at once")
    async def several():
        answers = await adapter(temperature=0, max_tokens=48).abatch([SAY] * 3)
        assert {answer.content for answer in answers} == {SAID}

    @check(f"{name}: async stream")
    async def stream_async():
        assert "".join([chunk.content async for chunk in adapter(temperature=0, max_tokens=48).astream(SAY)]) == SAID

    @check(f"{name}: a conversation with a system message")
    def conversation():
        said = adapter(temperature=0, max_tokens=8).invoke([SystemMessage("Be brief."), HumanMessage(SAY), AIMessage(SAID), HumanMessage(SAY)])
        assert isinstance(said.content, str)

    @check(f"{name}: tools, a call and its result")
    def tools():
        bound = adapter(temperature=0, max_tokens=200).bind_tools([{"type": "function", "function": TOOL}], tool_choice="any")
        called = bound.invoke(SAY)
        call = called.tool_calls[0]
        assert call["name"] == "lookup" and set(call["args"]) == {"city"}
        results = [ToolMessage("ok", tool_call_id=call["id"], name="lookup") for call in called.tool_calls]
        again = adapter(temperature=0, max_tokens=8).bind_tools([{"type": "function", "function": TOOL}])
        assert again.invoke([HumanMessage(SAY), called, *results]) is not None

    @check(f"{name}: tools, streamed")
    def tools_streamed():
        bound = adapter(temperature=0, max_tokens=200).bind_tools([{"type": "function", "function": TOOL}], tool_choice="any")
        whole = None
        for chunk in bound.stream(SAY):
            whole = chunk if whole is None else whole + chunk
        assert whole.tool_calls[0]["name"] == "lookup" and set(whole.tool_calls[0]["args"]) == {"city"}

    for method in ("json_schema", "function_calling"):

        @check(f"{name}: structured output by {method}")
        def structured(method=method):
            answer = adapter(temperature=0, max_tokens=200).with_structured_output(Setting, method=method).invoke(SAY)
            assert isinstance(answer, Setting), answer

    @check(f"{name}: a refusal is the adapter's error")
    def refused():
        error = raises(Exception, lambda: adapter(max_tokens=5000).invoke(SAY))
        assert "context" in str(error) or "400" in str(error), repr(error)


def lite(name, prefix, url):
    ask = dict(model=prefix + model, api_base=url, api_key="none", messages=[{"role": "user", "content": SAY}], temperature=0, max_tokens=48, num_retries=0)

    @check(f"{name}: completion")
    def completion():
        answer = litellm.completion(**ask)
        assert answer.choices[0].message.content == SAID and answer.usage.total_tokens > 0

    @check(f"{name}: stream")
    def stream():
        chunks = list(litellm.completion(**ask, stream=True, stream_options={"include_usage": True}))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SAID

    @check(f"{name}: async")
    async def completion_async():
        assert (await litellm.acompletion(**ask)).choices[0].message.content == SAID

    @check(f"{name}: tools")
    def tools():
        answer = litellm.completion(**dict(ask, max_tokens=200), tools=[{"type": "function", "function": TOOL}], tool_choice="required")
        assert answer.choices[0].message.tool_calls[0].function.name == "lookup"

    @check(f"{name}: response_format")
    def structured():
        answer = litellm.completion(**dict(ask, max_tokens=200), response_format=Setting)
        assert Setting.model_validate_json(answer.choices[0].message.content)

    @check(f"{name}: errors by class")
    def errors():
        raises(litellm.NotFoundError, lambda: litellm.completion(**dict(ask, model=prefix + "no-such-model")))
        raises(litellm.BadRequestError, lambda: litellm.completion(**dict(ask, messages=[])))


for name, adapter in ADAPTERS.items():
    langchain(name, adapter)
for name, (prefix, url) in PREFIXES.items():
    lite(name, prefix, url)
table.run()
