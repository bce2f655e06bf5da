"""OpenAI's client, every part of it that this API answers.     openai_client.py BASE_URL MODEL

The model is the one that the program carries; at most four answers run and twelve wait.
"""
import json
import sys
import threading
import time
import urllib.request

import openai
from pydantic import BaseModel, Field
from table import Table, eventually, raises

base, model = sys.argv[1:3]
table = Table()
check = table.check
client = openai.OpenAI(base_url=base + "/v1", api_key="none", max_retries=0, timeout=60)
aclient = openai.AsyncOpenAI(base_url=base + "/v1", api_key="none", max_retries=0, timeout=60)
SAY = "Turn on the kitchen light."
SAID = "The kitchen light is on."
MESSAGES = [{"role": "user", "content": SAY}]
ASK = dict(model=model, messages=MESSAGES, temperature=0, max_tokens=48)
LOOKUP = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Looks a city up.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["city", "n"],
            "additionalProperties": False,
        },
    },
}
FORCED = {"type": "function", "function": {"name": "lookup"}}


class Setting(BaseModel):
    room: str = Field(max_length=8)
    degrees: int = Field(ge=0, le=99)


def joined(chunks):
    """Text, finish reason and usage of a stream."""
    text, reason, usage = "", None, None
    for chunk in chunks:
        assert chunk.object == "chat.completion.chunk"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason, usage


@check("openai chat: whole")
def chat():
    answer = client.chat.completions.create(**ASK)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.model and len(answer.id) == 32
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", SAID, "stop")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


@check("openai chat: async")
async def chat_async():
    answer = await aclient.chat.completions.create(**ASK)
    assert answer.choices[0].message.content == SAID


@check("openai chat: many at once, async")
async def chat_many():
    import asyncio

    asked = [aclient.chat.completions.create(**ASK) for _ in range(6)]
    assert {answer.choices[0].message.content for answer in await asyncio.gather(*asked)} == {SAID}


@check("openai chat: the id of the request is in a header")
def request_id():
    answer = client.chat.completions.create(**ASK)
    assert answer._request_id == answer.id


@check("openai stream: usage by default rides on the last chunk")
def stream():
    text, reason, usage = joined(client.chat.completions.create(**ASK, stream=True))
    assert (text, reason) == (SAID, "stop") and usage.completion_tokens > 0


@check("openai stream: include_usage gives a last chunk without choices")
def stream_usage():
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert joined(chunks)[:2] == (SAID, "stop")
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


@check("openai stream: async")
async def stream_async():
    text = ""
    async for chunk in await aclient.chat.completions.create(**ASK, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert text == SAID


@check("openai stream: the helper that accumulates events")
def stream_helper():
    with client.chat.completions.stream(**ASK) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    assert final.choices[0].message.content == SAID and {"chunk", "content.delta", "content.done"} <= kinds, kinds


@check("openai stream: left early, the next request is answered")
def stream_left():
    for _ in range(6):
        with client.chat.completions.create(**{**ASK, "max_tokens": 900}, stream=True, extra_body={"min_tokens": 900}) as chunks:
            next(iter(chunks))
    retrying = client.with_options(max_retries=5)
    assert retrying.chat.completions.create(**ASK).choices[0].message.content == SAID


@check("openai chat: max_tokens and max_completion_tokens")
def limits():
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, **{name: 2})
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 2)


@check("openai chat: stop as a text and as a list")
def stops():
    for stop in (" light", ["zzz", " light"]):
        choice = client.chat.completions.create(**ASK, stop=stop).choices[0]
        assert (choice.message.content, choice.finish_reason) == ("The kitchen", "stop")


@check("openai chat: a seed repeats an answer")
def seeds():
    say = lambda: client.chat.completions.create(model=model, messages=MESSAGES, temperature=1.5, seed=7, max_tokens=16)
    assert say().choices[0].message.content == say().choices[0].message.content


@check("openai chat: n answers, whole and streamed")
def several():
    answer = client.chat.completions.create(**ASK, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {SAID}
    said = ["", ""]
    for chunk in client.chat.completions.create(**ASK, n=2, stream=True):
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    assert said == [SAID, SAID]


@check("openai chat: logprobs")
def likelihoods():
    choice = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=3).choices[0]
    told = choice.logprobs.content
    assert "".join(token.token for token in told).strip() == SAID
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in told)


@check("openai chat: logit_bias forbids a token")
def bias():
    body = json.dumps({"prompt": "The", "add_special_tokens": False}).encode()
    token = json.load(urllib.request.urlopen(urllib.request.Request(base + "/tokenize", body)))["tokens"][0]
    other = client.chat.completions.create(**ASK, logit_bias={str(token): -100})
    assert other.choices[0].message.content != SAID


@check("openai chat: developer, names, lists of text parts")
def roles():
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "Turn on "}, {"type": "text", "text": "the kitchen light."}]},
    ]
    raw = client.chat.completions.with_raw_response.create(model=model, messages=messages, temperature=0, max_tokens=8)
    assert raw.parse().choices[0].message.content
    assert raw.headers["x-ignored-fields"] == "messages[1].name"


@check("openai chat: messages of one role in a row, an assistant's null content")
def rows():
    messages = [{"role": "system", "content": "A"}, {"role": "system", "content": "B"}, *MESSAGES, *MESSAGES]
    assert client.chat.completions.create(**{**ASK, "messages": messages}).choices[0].finish_reason
    call = {"id": "call_0123456789abcdef01234567", "type": "function", "function": {"name": "lookup", "arguments": "{}"}}
    messages = [*MESSAGES, {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": call["id"], "content": "ok"}]
    assert client.chat.completions.create(**{**ASK, "messages": messages}, tools=[LOOKUP]).choices[0].finish_reason


@check("openai chat: what has no effect is listed")
def ignored():
    raw = client.chat.completions.with_raw_response.create(**ASK, user="u", store=False, metadata={"a": "b"}, service_tier="auto", verbosity="low", prompt_cache_key="k")
    assert raw.headers["x-ignored-fields"] == "store, user, verbosity", raw.headers["x-ignored-fields"]


@check("openai tools: a forced call, its result, the answer to it")
def tools():
    answer = client.chat.completions.create(model=model, messages=MESSAGES, tools=[LOOKUP], tool_choice=FORCED, parallel_tool_calls=False, max_tokens=200, seed=1)
    choice = answer.choices[0]
    call = choice.message.tool_calls[0]
    assert (choice.finish_reason, call.type, call.function.name) == ("tool_calls", "function", "lookup")
    assert set(json.loads(call.function.arguments)) == {"city", "n"}
    messages = [*MESSAGES, choice.message, {"role": "tool", "tool_call_id": call.id, "content": '{"ok": true}'}]
    again = client.chat.completions.create(model=model, messages=messages, tools=[LOOKUP], tool_choice="none", max_tokens=8)
    assert not again.choices[0].message.tool_calls


@check("openai tools: required, parallel_tool_calls off, streamed")
def tools_streamed():
    ask = dict(model=model, messages=MESSAGES, tools=[LOOKUP], tool_choice="required", parallel_tool_calls=False, max_tokens=200, seed=1)
    with client.chat.completions.stream(**ask) as events:
        final = events.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert len(calls) == 1 and set(json.loads(calls[0].function.arguments)) == {"city", "n"}


@check("openai tools: parse gives the arguments as an object")
def tools_parsed():
    tool = openai.pydantic_function_tool(Setting, name="set")
    answer = client.chat.completions.parse(model=model, messages=MESSAGES, tools=[tool], tool_choice="required", max_tokens=200, seed=1)
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, Setting)


@check("openai shapes: parse gives a pydantic object")
def parsed():
    answer = client.chat.completions.parse(model=model, messages=MESSAGES, response_format=Setting, max_tokens=200, seed=1)
    assert isinstance(answer.choices[0].message.parsed, Setting)


@check("openai shapes: parse, async")
async def parsed_async():
    answer = await aclient.chat.completions.parse(model=model, messages=MESSAGES, response_format=Setting, max_tokens=200, seed=1)
    assert isinstance(answer.choices[0].message.parsed, Setting)


@check("openai shapes: parse, streamed")
def parsed_stream():
    with client.chat.completions.stream(model=model, messages=MESSAGES, response_format=Setting, max_tokens=200, seed=1) as events:
        assert isinstance(events.get_final_completion().choices[0].message.parsed, Setting)


@check("openai shapes: parse of a cut answer is the length error")
def parsed_cut():
    raises(openai.LengthFinishReasonError, lambda: client.chat.completions.parse(model=model, messages=MESSAGES, response_format=Setting, max_tokens=3, seed=1))


@check("openai shapes: json_object, text")
def json_object():
    answer = client.chat.completions.create(model=model, messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=400, seed=3)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    assert client.chat.completions.create(**ASK, response_format={"type": "text"}).choices[0].message.content == SAID


@check("openai completions: the legacy route")
def legacy():
    answer = client.completions.create(model=model, prompt="The kitchen", temperature=0, max_tokens=4)
    choice = answer.choices[0]
    assert answer.object == "text_completion" and isinstance(choice.text, str) and choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    echoed = client.completions.create(model=model, prompt="The kitchen", temperature=0, max_tokens=4, echo=True)
    assert echoed.choices[0].text == "The kitchen" + choice.text


@check("openai completions: streamed, several prompts, tokens, logprobs")
def legacy_more():
    ask = dict(model=model, temperature=0, max_tokens=6)
    whole = client.completions.create(**ask, prompt=["The kitchen", "The garage"], n=2)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert whole.choices[0].text == whole.choices[1].text
    text = ["", ""]
    for chunk in client.completions.create(**ask, prompt=["The kitchen", "The garage"], stream=True):
        for choice in chunk.choices:
            text[choice.index] += choice.text
    assert text == [whole.choices[0].text, whole.choices[2].text], text
    told = client.completions.create(**ask, prompt="The kitchen", logprobs=2).choices[0].logprobs
    assert "".join(told.tokens) == whole.choices[0].text and len(told.token_logprobs) == len(told.tokens) == len(told.text_offset)
    assert client.completions.create(**ask, prompt=[1, 2, 3]).usage.prompt_tokens == 3


@check("openai batches: a file, a batch, its answers and faults")
def batches():
    line = lambda name, body: json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})
    content = "\n".join([line("good", ASK), line("bad", dict(ASK, model="no-such-model"))]).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    assert (file.bytes, file.object, file.filename, file.status) == (len(content), "file", "in.jsonl", "processed")
    assert client.files.retrieve(file.id).id == file.id and client.files.content(file.id).read() == content
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"who": "me"})
    over = eventually(lambda: (lambda batch: batch.status == "completed" and batch)(client.batches.retrieve(batch.id)))
    assert (over.request_counts.total, over.request_counts.completed, over.request_counts.failed) == (2, 1, 1)
    answer = json.loads(client.files.content(over.output_file_id).text)
    assert answer["custom_id"] == "good" and answer["response"]["body"]["choices"][0]["message"]["content"] == SAID
    assert json.loads(client.files.content(over.error_file_id).text)["response"]["status_code"] == 404
    assert batch.id in [one.id for one in client.batches.list(limit=1)]
    assert {file.id, over.output_file_id, over.error_file_id} <= {one.id for one in client.files.list(limit=1)}
    assert client.files.delete(file.id).deleted
    raises(openai.NotFoundError, lambda: client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"))


@check("openai batches: cancel")
def batches_cancel():
    long = dict(model=model, messages=MESSAGES, max_tokens=900, min_tokens=900)
    content = "\n".join(json.dumps({"custom_id": str(at), "method": "POST", "url": "/v1/chat/completions", "body": long}) for at in range(200))
    file = client.files.create(file=("in.jsonl", content.encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    eventually(lambda: client.batches.retrieve(batch.id).status == "cancelled")


@check("openai models: list, retrieve, delete refused")
def models():
    names = [card.id for card in client.models.list()]
    assert names and client.models.retrieve(names[0]).id == names[0]
    raises(openai.NotFoundError, lambda: client.models.retrieve("no-such-model"), code="model_not_found")
    raises(openai.NotFoundError, lambda: client.models.delete("no-such-model"), code="model_not_found")
    raises(openai.PermissionDeniedError, lambda: client.models.delete(names[0]), code="forbidden")


@check("openai errors: 400, 404, 422 by class, code and param")
def errors():
    ask = lambda **more: lambda: client.chat.completions.create(**{**ASK, **more})
    raises(openai.NotFoundError, ask(model="no-such-model"), code="model_not_found", param="model")
    raises(openai.BadRequestError, ask(messages=[]), code="bad_request", param="messages")
    raises(openai.BadRequestError, ask(max_tokens=5000), code="context_length_exceeded")
    raises(openai.BadRequestError, ask(reasoning_effort="high"), code="unsupported", param="reasoning_effort")
    raises(openai.UnprocessableEntityError, ask(temperature=-1), param="temperature", type="invalid_request_error")
    raises(openai.UnprocessableEntityError, ask(n=99), param="n")
    schema = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "object", "uniqueItems": True, "not": {}}}}
    raises(openai.BadRequestError, ask(response_format=schema))
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]
    raises(openai.BadRequestError, ask(messages=image), code="unsupported", param="messages[0].content[0].type")
    raises(openai.NotFoundError, lambda: client.responses.create(model=model, input="x"), code="not_found")


@check("openai errors: a body that is not JSON, a method that is not there")
def errors_raw():
    raises(openai.BadRequestError, lambda: client.post("/chat/completions", content=b"{", cast_to=object), code="bad_request")
    error = raises(openai.APIStatusError, lambda: client.get("/chat/completions", cast_to=object), status_code=405, code="method_not_allowed")
    assert error.response.headers["allow"] == "POST"


@check("openai errors: a deadline that passes in mid-stream raises")
def mid_stream():
    late = dict(min_tokens=900, ext={"ttl_s": 1})
    told = dict(logprobs=True, top_logprobs=20)
    chunks = client.chat.completions.create(**{**ASK, "max_tokens": 900}, **told, stream=True, n=16, extra_body=late)
    # Tens of megabytes that nobody takes: however fast the program is, it has to wait.
    next(iter(chunks))
    time.sleep(1.5)
    error = raises(openai.APIError, lambda: list(chunks))
    assert error.code == "deadline_exceeded", repr(error)


@check("openai errors: a full queue is 429 with Retry-After, and the client's own retry gets through")
def busy():
    long = dict(model=model, messages=MESSAGES, temperature=1.5, max_tokens=900, n=16, stream=True, extra_body={"min_tokens": 900})
    with client.chat.completions.create(**long) as chunks:
        next(iter(chunks))
        error = raises(openai.RateLimitError, lambda: client.chat.completions.create(**ASK, n=16), code="queue_full")
        assert float(error.response.headers["retry-after"]) > 0 and float(error.response.headers["retry-after-ms"]) > 0
        asked = []
        retrying = client.with_options(max_retries=9)
        thread = threading.Thread(target=lambda: asked.append(retrying.chat.completions.create(**ASK, n=16)))
        thread.start()
    thread.join()
    assert asked[0].choices[15].message.content == SAID


table.run()
